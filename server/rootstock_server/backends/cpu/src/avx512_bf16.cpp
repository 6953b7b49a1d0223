// The kernels in AVX-512 with its products of bf16 and of 8 bits; the build compiles this file, and no other, with
// their flags.
#include <immintrin.h>

#define ROOTSTOCK_ISA isa_avx512_bf16
#include "kernels.inc"

namespace rootstock {
namespace isa_avx512_bf16 {
#include "linear.inc"
}

static bool usable() {
  return avx512.usable() && __builtin_cpu_supports("avx512bf16") &&
         __builtin_cpu_supports("avx512vnni");
}
extern const Isa avx512_bf16 = {"avx512_bf16",
                                usable,
                                isa_avx512_bf16::MAX_QUERIES,
                                isa_avx512_bf16::kernels_of<float>(),
                                isa_avx512_bf16::kernels_of<bf16>(),
                                isa_avx512_bf16::linear<isa_avx512_bf16::Bf16Product>,
                                isa_avx512_bf16::linear<isa_avx512_bf16::Int8Product>};
}  // namespace rootstock
