// The base's linears in bf16 and in 8 bits, where the instruction set has products for them.

#include "ops.h"

namespace rootstock {

constexpr int64_t PANEL = 16;  // outputs side by side; linear.inc says how they lie

bool has_linear() { return chosen_isa().linear != nullptr; }

static void fill(Linear& l, const at::Tensor& panels, const std::optional<at::Tensor>& bias,
                 const at::Tensor& y) {
  l.tokens = y.size(0);
  l.panels = panels.const_data_ptr();
  l.bias = bias ? bias->const_data_ptr() : nullptr;
  l.y = y.data_ptr();
  l.out = y.size(1);
  l.y_fp32 = y.scalar_type() == at::kFloat;
}

// One run of neighbouring panels for each thread, or several where they are long.
static void in_runs(const Linear& l, void (*part)(const Linear&, int64_t, int64_t)) {
  const int64_t threads = at::get_num_threads(), count = (l.out + PANEL - 1) / PANEL;
  const int64_t run = std::min<int64_t>(64, ((count + threads - 1) / threads + 3) / 4 * 4);
  share((count + run - 1) / run, l.tokens * l.fours * l.out, [&](int64_t i) {
    part(l, i * run, std::min((i + 1) * run, count));
  });
}

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
  Linear l{};
  l.x = x.const_data_ptr();
  l.x_stride = x.stride(0) * 2;
  l.fours = in / 2;
  fill(l, panels, bias, y);
  in_runs(l, chosen_isa().linear);
  return y;
}

// `x` [T, in] in bf16 or fp32; `panels` [P, in/4, 16, 4] int8, each output's `scales` and `begins`
// [P*16] fp32 and int32, `bias` [P*16] fp32 → [T, out] of x's type. Every row of x is quantized by
// itself.
at::Tensor linear8(const at::Tensor& given, const at::Tensor& panels, const at::Tensor& scales,
                   const at::Tensor& begins, const std::optional<at::Tensor>& bias, int64_t out) {
  TORCH_CHECK(has_linear(), "linear8: ", chosen_isa().name, " has no products of 8 bits");
  TORCH_CHECK(given.dim() == 2, "linear8: x must be [T, in]");
  const at::Tensor x = given.stride(1) == 1 ? given : given.contiguous();
  const int64_t tokens = x.size(0), in = x.size(1), count = (out + PANEL - 1) / PANEL;
  TORCH_CHECK(panels.is_contiguous() && panels.scalar_type() == at::kChar && in % 4 == 0 &&
                  panels.sizes() == at::IntArrayRef({count, in / 4, PANEL, 4}),
              "linear8: panels must be int8 [out/16, in/4, 16, 4]");
  const auto padded = [&](const at::Tensor& t, at::ScalarType type) {
    return t.is_contiguous() && t.numel() == count * PANEL && t.scalar_type() == type;
  };
  TORCH_CHECK(padded(scales, at::kFloat) && padded(begins, at::kInt) &&
                  (!bias || padded(*bias, at::kFloat)),
              "linear8: scales, begins and bias must be padded like the panels");
  const Kernels& kernels = kernels_for(x);
  at::Tensor rows = at::empty({tokens, in}, x.options().dtype(at::kByte));
  at::Tensor steps = at::empty({tokens}, x.options().dtype(at::kFloat));
  uint8_t* bytes = rows.mutable_data_ptr<uint8_t>();
  float* step = steps.mutable_data_ptr<float>();
  share(tokens, tokens * in, [&](int64_t t) {
    step[t] = kernels.quantize(row(x, t * x.stride(0)), bytes + t * in, in);
  });
  at::Tensor y = at::empty({tokens, out}, x.options());
  Linear l{};
  l.x = bytes;
  l.x_stride = in;
  l.fours = in / 4;
  l.row_scales = step;
  l.scales = scales.const_data_ptr<float>();
  l.begins = begins.const_data_ptr<int32_t>();
  fill(l, panels, bias, y);
  in_runs(l, chosen_isa().linear8);
  return y;
}

}  // namespace rootstock
