// The operators that Python sees, and the instruction set that they run in.

#include <torch/library.h>

#include <string>

#include "ops.h"

namespace rootstock {

static const Isa* const known[] = {
#if defined(__x86_64__)
    &avx512_bf16, &avx512, &avx2,
#endif
    &plain};

static const Isa* fastest() {
  for (const Isa* isa : known)
    if (isa->usable()) return isa;
  return &plain;
}

static const Isa* chosen = fastest();

const Isa& chosen_isa() { return *chosen; }

// Names of the instruction sets that this machine has, the fastest first.
static std::string isas() {
  std::string names;
  for (const Isa* isa : known)
    if (isa->usable()) names += names.empty() ? isa->name : std::string(" ") + isa->name;
  return names;
}

// Not for use while kernels run.
static void use_isa(c10::string_view name) {
  for (const Isa* isa : known)
    if (isa->usable() && name == isa->name) {
      chosen = isa;
      return;
    }
  TORCH_CHECK_VALUE(false, "rootstock_cpu: no instruction set '", name, "' here; known: ", isas());
}

static std::string used_isa() { return chosen->name; }

}  // namespace rootstock

TORCH_LIBRARY(rootstock_cpu, m) {
  m.def("isas() -> str", rootstock::isas);
  m.def("used_isa() -> str", rootstock::used_isa);
  m.def("use_isa(str name) -> ()", rootstock::use_isa);
  m.def(
      "delta(Tensor(a!)[] ys, Tensor x, Tensor down, Tensor[] ups, Tensor runs, Tensor ranks, "
      "Tensor? scales) -> ()");
  m.def(
      "attend(Tensor query, Tensor key, Tensor value, Tensor(a!) keys, Tensor(b!) values, "
      "Tensor rows, Tensor blocks, float scaling, int window, float softcap) -> Tensor");
  m.def("has_linear() -> bool", rootstock::has_linear);
  m.def("linear(Tensor x, Tensor panels, Tensor? bias, int out) -> Tensor");
  m.def(
      "linear8(Tensor x, Tensor panels, Tensor scales, Tensor begins, Tensor? bias, int out) "
      "-> Tensor");
  m.def("rms_norm(Tensor x, Tensor weight, float eps, bool one_plus) -> Tensor");
  m.def("rotate(Tensor x, Tensor cos, Tensor sin) -> Tensor");
  m.def("gated(Tensor gate, Tensor up, str kind) -> Tensor");
}

TORCH_LIBRARY_IMPL(rootstock_cpu, CPU, m) {
  m.impl("delta", rootstock::delta);
  m.impl("attend", rootstock::attend);
  m.impl("linear", rootstock::linear);
  m.impl("linear8", rootstock::linear8);
  m.impl("rms_norm", rootstock::rms_norm);
  m.impl("rotate", rootstock::rotate);
  m.impl("gated", rootstock::gated);
}
