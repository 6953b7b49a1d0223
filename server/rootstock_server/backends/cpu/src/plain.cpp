// The kernels in what every machine of this architecture has (SSE2, NEON).
#define ROOTSTOCK_ISA isa_plain
#include "kernels.inc"

namespace rootstock {
static bool usable() { return true; }
extern const Isa plain = {"plain", usable, isa_plain::MAX_QUERIES, isa_plain::kernels_of<float>(),
                          isa_plain::kernels_of<bf16>(), nullptr, nullptr};
}  // namespace rootstock
