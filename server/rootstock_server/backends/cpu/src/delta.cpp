// The update of many adapters: our kernels for short runs of tokens, ATen's products for long ones.

#include "ops.h"

namespace rootstock {

// From here on a run is a matrix product, and ATen's are better at those.
constexpr int64_t LONG_RUN = 64;
constexpr int64_t COLUMNS = 256;  // of an output, at a time

static void check(at::TensorList ys, const at::Tensor& x, const at::Tensor& down,
                  at::TensorList ups, const at::Tensor& runs) {
  TORCH_CHECK(!ys.empty() && ys.size() == ups.size(), "delta: as many ups as outputs");
  TORCH_CHECK(x.dim() == 2 && x.stride(1) == 1, "delta: x must be [T, in] with dense rows");
  TORCH_CHECK(down.dim() == 3 && down.is_contiguous() && down.size(2) == x.size(1) &&
                  down.size(1) % (int64_t)ys.size() == 0,
              "delta: down must be [S, M*R, in]");
  TORCH_CHECK(runs.dim() == 2 && runs.size(1) == 3 && runs.is_contiguous() &&
                  runs.scalar_type() == at::kLong,
              "delta: runs must be int64 [n, 3]");
  TORCH_CHECK(down.scalar_type() == x.scalar_type(), "delta: slots and x differ in dtype");
  for (size_t m = 0; m < ys.size(); m++) {
    TORCH_CHECK(ys[m].dim() == 2 && ys[m].size(0) == x.size(0) && ys[m].stride(1) == 1 &&
                    ys[m].scalar_type() == x.scalar_type(),
                "delta: output ", m, " must be [T, out] like x");
    TORCH_CHECK(ups[m].is_contiguous() && ups[m].size(0) == down.size(0) &&
                    ups[m].size(1) * (int64_t)ys.size() == down.size(1) &&
                    ups[m].size(2) == ys[m].size(1) && ups[m].scalar_type() == x.scalar_type(),
                "delta: up ", m, " must be [S, R, out]");
  }
}

static void long_run(at::TensorList ys, const at::Tensor& x, const at::Tensor& down,
                     at::TensorList ups, const Run& run, int64_t rank,
                     const std::optional<at::Tensor>& scales) {
  const int64_t width = ups[0].size(1), tokens = run.stop - run.start;
  at::Tensor part = x.narrow(0, run.start, tokens), slot = down.select(0, run.slot);
  at::Tensor all = rank == width ? at::mm(part, slot.t()) : at::Tensor();
  for (size_t m = 0; m < ys.size(); m++) {
    at::Tensor hidden = all.defined()
                            ? all.narrow(1, m * width, width)
                            : at::mm(part, slot.narrow(0, m * width, rank).t());
    if (scales) hidden = hidden * scales->narrow(0, run.start, tokens).unsqueeze(1);
    ys[m].narrow(0, run.start, tokens)
        .add_(at::mm(hidden.to(x.scalar_type()), ups[m].select(0, run.slot).narrow(0, 0, rank)));
  }
}

// Work of the short runs, divided: by run where there are many, so that one round does; by
// member and column where there are few.
static void short_runs(const Kernels& kernels, const Delta& d, const std::vector<Run>& runs) {
  int64_t cost = 0, outs = 0;
  std::vector<std::pair<int64_t, int64_t>> places;  // (member, first column)
  for (int64_t m = 0; m < d.members; m++) {
    outs += d.out[m];
    for (int64_t c = 0; c < d.out[m]; c += COLUMNS) places.emplace_back(m, c);
  }
  for (const Run& run : runs)
    cost += (run.stop - run.start) * d.rank[run.slot] * (d.members * d.in + outs);
  if (runs.size() >= 4 * (size_t)at::get_num_threads()) {
    share(runs.size(), cost, [&](int64_t i) {
      for (int64_t m = 0; m < d.members; m++) {
        kernels.down(d, runs[i], m);
        kernels.up(d, runs[i], m, 0, d.out[m]);
      }
    });
    return;
  }
  share(runs.size() * d.members, cost / 2,
        [&](int64_t i) { kernels.down(d, runs[i / d.members], i % d.members); });
  share(runs.size() * places.size(), cost / 2, [&](int64_t i) {
    const auto [m, column] = places[i % places.size()];
    kernels.up(d, runs[i / places.size()], m, column, std::min(column + COLUMNS, d.out[m]));
  });
}

void delta(at::TensorList ys, const at::Tensor& x, const at::Tensor& down, at::TensorList ups,
           const at::Tensor& runs, const at::Tensor& ranks,
           const std::optional<at::Tensor>& scales) {
  check(ys, x, down, ups, runs);
  TORCH_CHECK(ranks.scalar_type() == at::kLong && ranks.is_contiguous() &&
                  ranks.size(0) >= down.size(0),
              "delta: ranks must be int64 [S]");
  TORCH_CHECK(!scales || (scales->scalar_type() == at::kFloat && scales->is_contiguous() &&
                          scales->size(0) == x.size(0)),
              "delta: scales must be float32 [T]");
  const auto listed = runs.accessor<int64_t, 2>();
  const int64_t* rank = ranks.const_data_ptr<int64_t>();
  std::vector<Run> close;
  for (int64_t i = 0; i < runs.size(0); i++) {
    const Run run{listed[i][0], listed[i][1], listed[i][2]};
    TORCH_CHECK(0 <= run.start && run.start <= run.stop && run.stop <= x.size(0) &&
                    0 <= run.slot && run.slot < down.size(0) && rank[run.slot] >= 0 &&
                    rank[run.slot] <= ups[0].size(1),
                "delta: run ", i, " is out of range");
    if (run.stop - run.start > LONG_RUN)
      long_run(ys, x, down, ups, run, rank[run.slot], scales);
    else
      close.push_back(run);
  }
  if (close.empty()) return;
  std::vector<const void*> up;
  std::vector<void*> y;
  std::vector<int64_t> strides, outs;
  for (size_t m = 0; m < ys.size(); m++) {
    up.push_back(ups[m].const_data_ptr());
    y.push_back(ys[m].data_ptr());
    strides.push_back(ys[m].stride(0));
    outs.push_back(ys[m].size(1));
  }
  thread_local std::vector<float> hidden;
  hidden.resize(x.size(0) * down.size(1));
  const Delta d{x.const_data_ptr(), x.stride(0), x.size(1), down.const_data_ptr(),
                (int64_t)ys.size(), ups[0].size(1), up.data(), y.data(), strides.data(),
                outs.data(), rank, scales ? scales->const_data_ptr<float>() : nullptr,
                hidden.data()};
  short_runs(kernels_for(x), d, close);
}

}  // namespace rootstock
