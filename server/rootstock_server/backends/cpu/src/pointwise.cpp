// What stands between the products, token by token.

#include "ops.h"

namespace rootstock {

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, bool one_plus) {
  const int64_t size = x.size(-1);
  TORCH_CHECK(weight.dim() == 1 && weight.size(0) == size && weight.is_contiguous() &&
                  weight.scalar_type() == x.scalar_type(),
              "rms_norm: weight must be [D] like x");
  const at::Tensor dense = x.contiguous();
  at::Tensor out = at::empty_like(dense);
  const Kernels& kernels = kernels_for(x);
  share(dense.numel() / size, dense.numel(), [&](int64_t t) {
    kernels.rms_norm(row(dense, t * size), weight.const_data_ptr(), row_to_write(out, t * size),
                     size, (float)eps, one_plus);
  });
  return out;
}

// `x` [1, H, T, D] with any strides but the last, `cos` and `sin` [1, T, D] → [1, H, T, D], the
// heads of a token side by side in memory.
at::Tensor rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  TORCH_CHECK(x.dim() == 4 && x.size(0) == 1 && x.stride(3) == 1 && x.size(3) % 2 == 0,
              "rotate: x must be [1, H, T, D]");
  const int64_t heads = x.size(1), tokens = x.size(2), size = x.size(3);
  for (const at::Tensor* t : {&cos, &sin})
    TORCH_CHECK(t->sizes() == at::IntArrayRef({1, tokens, size}) && t->is_contiguous() &&
                    t->scalar_type() == x.scalar_type(),
                "rotate: cos and sin must be [1, T, D] like x");
  at::Tensor out = at::empty({1, tokens, heads, size}, x.options());
  const Kernels& kernels = kernels_for(x);
  share(tokens, x.numel() * 2, [&](int64_t t) {
    for (int64_t h = 0; h < heads; h++)
      kernels.rotate(row(x, h * x.stride(1) + t * x.stride(2)), row(cos, t * size),
                     row(sin, t * size), row_to_write(out, (t * heads + h) * size), size);
  });
  return out.transpose(1, 2);
}

// act(gate) * up; both [..., T, F] with dense rows. `kind` is silu or gelu_tanh.
at::Tensor gated(const at::Tensor& gate, const at::Tensor& up, c10::string_view kind) {
  TORCH_CHECK_VALUE(kind == "silu" || kind == "gelu_tanh", "gated: no kind ", kind);
  TORCH_CHECK(gate.sizes() == up.sizes() && gate.scalar_type() == up.scalar_type() &&
                  gate.stride(-1) == 1 && up.stride(-1) == 1,
              "gated: gate and up must have one shape and dense rows");
  const int64_t size = gate.size(-1);
  const at::Tensor g = gate.reshape({-1, size}), u = up.reshape({-1, size});
  at::Tensor out = at::empty(gate.sizes(), gate.options());
  const Kernels& kernels = kernels_for(gate);
  const Gate chosen = kind == "silu" ? Gate::silu : Gate::gelu_tanh;
  share(g.size(0), gate.numel() * 8, [&](int64_t t) {
    kernels.gated(row(g, t * g.stride(0)), row(u, t * u.stride(0)), row_to_write(out, t * size),
                  size, chosen);
  });
  return out;
}

}  // namespace rootstock
