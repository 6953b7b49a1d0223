// The kernels in AVX-512; the build compiles this file, and no other, with its flags.
#define ROOTSTOCK_ISA isa_avx512
#include "kernels.inc"

namespace rootstock {
static bool usable() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
extern const Isa avx512 = {"avx512", usable, isa_avx512::MAX_QUERIES,
                           isa_avx512::kernels_of<float>(), isa_avx512::kernels_of<bf16>(), nullptr, nullptr};
}  // namespace rootstock
