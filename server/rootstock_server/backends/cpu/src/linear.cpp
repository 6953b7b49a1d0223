// The base's linears in bf16, where the instruction set has products for it.

#include "ops.h"

namespace rootstock {

constexpr int64_t PANEL = 16;  // outputs side by side; linear.inc says how they lie

bool has_linear() { return chosen_isa().linear != nullptr; }

// `x` [T, in] and `panels` [P, in/2, 16, 2] of `out` outputs, `bias` [P*16] → [T, out].
at::Tensor linear(const at::Tensor& given, const at::Tensor& panels,
                  const std::optional<at::Tensor>& bias, int64_t out) {
  TORCH_CHECK(has_linear(), "linear: ", chosen_isa().name, " has no products of bfloat16");
  TORCH_CHECK(given.dim() == 2 && given.scalar_type() == at::kBFloat16,
              "linear: x must be bfloat16 [T, in]");
  const at::Tensor x = given.stride(1) == 1 ? given : given.contiguous();
  const int64_t in = x.size(1), count = (out + PANEL - 1) / PANEL;
  TORCH_CHECK(panels.is_contiguous() && panels.scalar_type() == at::kBFloat16 && in % 2 == 0 &&
                  panels.sizes() == at::IntArrayRef({count, in / 2, PANEL, 2}),
              "linear: panels must be bfloat16 [out/16, in/2, 16, 2]");
  TORCH_CHECK(!bias || (bias->is_contiguous() && bias->numel() == count * PANEL &&
                        bias->scalar_type() == at::kBFloat16),
              "linear: bias must be bfloat16, padded like the panels");
  at::Tensor y = at::empty({x.size(0), out}, x.options());
  const Linear l{x.const_data_ptr(), x.stride(0), x.size(0), in, panels.const_data_ptr(),
                 bias ? bias->const_data_ptr() : nullptr, y.data_ptr(), out, out};
  // One run of neighbouring panels for each thread, or several where they are long.
  const int64_t threads = at::get_num_threads();
  const int64_t run = std::min<int64_t>(64, ((count + threads - 1) / threads + 3) / 4 * 4);
  share((count + run - 1) / run, x.size(0) * in * out, [&](int64_t i) {
    chosen_isa().linear(l, i * run, std::min((i + 1) * run, count));
  });
  return y;
}

}  // namespace rootstock
