// The kernels in AVX2 and FMA; the build compiles this file, and no other, with their flags.
#define ROOTSTOCK_ISA isa_avx2
#include "kernels.inc"

namespace rootstock {
static bool usable() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
extern const Isa avx2 = {"avx2", usable, isa_avx2::MAX_QUERIES, isa_avx2::kernels_of<float>(),
                         isa_avx2::kernels_of<bf16>(), nullptr, nullptr};
}  // namespace rootstock
