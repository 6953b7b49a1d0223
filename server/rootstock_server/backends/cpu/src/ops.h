// What the operators share: the chosen instruction set, and the kernels for a tensor's type.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <atomic>

#include "kernels.h"

namespace rootstock {

const Isa& chosen_isa();

inline const Kernels& kernels_for(const at::Tensor& t) {
  const Isa& isa = chosen_isa();
  if (t.scalar_type() == at::kFloat) return isa.fp32;
  TORCH_CHECK(t.scalar_type() == at::kBFloat16, "rootstock_cpu: ", t.scalar_type(),
              " is not served; use float32 or bfloat16");
  return isa.bf16;
}

inline const void* row(const at::Tensor& t, int64_t offset) {
  return (const char*)t.const_data_ptr() + offset * t.element_size();
}

inline void* row_to_write(const at::Tensor& t, int64_t offset) {
  return (char*)t.data_ptr() + offset * t.element_size();
}

// `work(item)` for every item, on all threads if `cost`, in multiply-adds, is worth waking them.
// Items differ in length (rows of attention do), so each thread takes the next when it is free.
template <class Work>
void share(int64_t items, int64_t cost, const Work& work) {
  constexpr int64_t WORTH_WAKING = 1 << 16;
  const int64_t threads = std::min<int64_t>(at::get_num_threads(), items);
  if (threads < 2 || cost < WORTH_WAKING) {
    for (int64_t i = 0; i < items; i++) work(i);
    return;
  }
  std::atomic<int64_t> next{0};
  at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t i = next++; i < items; i = next++) work(i);
  });
}

void delta(at::TensorList ys, const at::Tensor& x, const at::Tensor& down, at::TensorList ups,
           const at::Tensor& runs, const at::Tensor& ranks,
           const std::optional<at::Tensor>& scales);

at::Tensor attend(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                  at::Tensor& keys, at::Tensor& values, const at::Tensor& rows,
                  const at::Tensor& blocks, double scaling, int64_t window, double softcap);

bool has_linear();
at::Tensor linear(const at::Tensor& given, const at::Tensor& panels,
                  const std::optional<at::Tensor>& bias, int64_t out);

at::Tensor linear8(const at::Tensor& given, const at::Tensor& panels, const at::Tensor& scales,
                   const at::Tensor& begins, const std::optional<at::Tensor>& bias, int64_t out);

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, bool one_plus);
at::Tensor rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin);
at::Tensor gated(const at::Tensor& gate, const at::Tensor& up, c10::string_view kind);

}  // namespace rootstock
