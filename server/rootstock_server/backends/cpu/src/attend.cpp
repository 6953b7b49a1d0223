// Attention of a packed step over the paged cache: writes the step's keys and values, then reads.

#include "ops.h"

namespace rootstock {

struct Row {
  int64_t start, stop, length;  // tokens of the packed axis; tokens in the cache, these included
  const int64_t* blocks;
};

// `rows` is int64 [n, 4]: start, stop, kv_length, and where in `blocks` its own begin.
static std::vector<Row> rows_of(const at::Tensor& rows, const at::Tensor& blocks, int64_t tokens,
                                int64_t stored) {
  TORCH_CHECK(rows.dim() == 2 && rows.size(1) == 4 && rows.scalar_type() == at::kLong &&
                  blocks.scalar_type() == at::kLong && blocks.is_contiguous(),
              "attend: rows must be int64 [n, 4] and blocks int64");
  const auto listed = rows.accessor<int64_t, 2>();
  const int64_t* numbers = blocks.const_data_ptr<int64_t>();
  std::vector<Row> found;
  for (int64_t i = 0; i < rows.size(0); i++) {
    const Row row{listed[i][0], listed[i][1], listed[i][2], numbers + listed[i][3]};
    const int64_t used = (row.length + BLOCK - 1) / BLOCK;
    TORCH_CHECK(0 <= row.start && row.start < row.stop && row.stop <= tokens &&
                    row.stop - row.start <= row.length && 0 <= listed[i][3] &&
                    listed[i][3] + used <= blocks.numel(),
                "attend: row ", i, " is out of range");
    for (int64_t b = 0; b < used; b++)
      TORCH_CHECK(0 <= row.blocks[b] && row.blocks[b] < stored, "attend: no block ",
                  row.blocks[b]);
    found.push_back(row);
  }
  return found;
}

static void write_all(const Kernels& kernels, const at::Tensor& key, const at::Tensor& value,
                      at::Tensor& keys, at::Tensor& values, const std::vector<Row>& rows) {
  const int64_t heads = keys.size(1), size = keys.size(2);
  share(heads, key.numel() * 8, [&](int64_t h) {
    for (const Row& row : rows)
      for (int64_t t = row.start; t < row.stop; t++) {
        const int64_t position = row.length - row.stop + t;
        const int64_t block = (row.blocks[position / BLOCK] * heads + h) * size * BLOCK;
        kernels.write(rootstock::row(key, h * key.stride(0) + t * key.stride(1)),
                      rootstock::row(value, h * value.stride(0) + t * value.stride(1)),
                      row_to_write(keys, block), row_to_write(values, block), position % BLOCK,
                      size);
      }
  });
}

// Pieces of the rows that one call of the kernel takes, the longest rows' last pieces included.
static std::vector<Query> queries_of(const std::vector<Row>& rows, int64_t heads, int64_t groups,
                                     int64_t most, int64_t* positions) {
  const int64_t together = std::min(groups, most), tokens = most / together;
  std::vector<Query> queries;
  for (const Row& row : rows)
    for (int64_t t = row.start; t < row.stop; t += tokens)
      for (int64_t g = 0; g < groups; g += together) {
        Query query{t, std::min(tokens, row.stop - t), row.length - row.stop + t, 0,
                    g, std::min(together, groups - g), row.blocks};
        *positions += query.tokens * query.groups * heads * query.position;
        for (query.head = 0; query.head < heads; query.head++) queries.push_back(query);
      }
  return queries;
}

at::Tensor attend(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                  at::Tensor& keys, at::Tensor& values, const at::Tensor& rows,
                  const at::Tensor& blocks, double scaling, int64_t window, double softcap) {
  TORCH_CHECK(keys.dim() == 4 && keys.size(3) == BLOCK && keys.is_contiguous() &&
                  values.is_contiguous() && values.size(2) == BLOCK,
              "attend: keys must be [B, H, D, 32] and values [B, H, 32, D]");
  const int64_t heads = keys.size(1), size = keys.size(2), tokens = query.size(1);
  TORCH_CHECK(query.dim() == 3 && query.size(2) == size && query.size(0) % heads == 0 &&
                  key.sizes() == at::IntArrayRef({heads, tokens, size}) &&
                  value.sizes() == key.sizes() && query.stride(2) == 1 && key.stride(2) == 1 &&
                  value.stride(2) == 1,
              "attend: query must be [Hq, T, D], key and value [H, T, D]");
  for (const at::Tensor* t : {&key, &value, (const at::Tensor*)&keys, (const at::Tensor*)&values})
    TORCH_CHECK(t->scalar_type() == query.scalar_type(), "attend: dtypes differ");
  const Kernels& kernels = kernels_for(query);
  const std::vector<Row> found = rows_of(rows, blocks, tokens, keys.size(0));
  write_all(kernels, key, value, keys, values, found);
  at::Tensor out = at::empty({tokens, query.size(0), size}, query.options());
  const int64_t groups = query.size(0) / heads;
  const Attend a{query.const_data_ptr(), query.stride(0), query.stride(1), out.data_ptr(),
                 keys.const_data_ptr(), values.const_data_ptr(), heads, groups, size,
                 (float)scaling, (float)softcap, window};
  int64_t positions = 0;
  const std::vector<Query> queries =
      queries_of(found, heads, groups, chosen_isa().max_queries, &positions);
  share(queries.size(), positions * size * 2, [&](int64_t i) {
    thread_local std::vector<float> scratch;
    scratch.resize(attend_scratch(size));
    kernels.attend(a, queries[i], scratch.data());
  });
  return out;
}

}  // namespace rootstock
