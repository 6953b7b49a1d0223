// What the kernels take and do, free of torch: plain pointers, counted in elements.
// Letters: T tokens, D head size, R rank, S slots, M linears of a group, H key heads.
#pragma once

#include <cstdint>

namespace rootstock {

constexpr int64_t BLOCK = 32;  // tokens of a cache block

// A run of tokens under one slot.
struct Run {
  int64_t start, stop, slot;
};

// Low-rank updates of M linears with one input.
struct Delta {
  const void* x;  // [T, in], rows `x_stride` apart
  int64_t x_stride, in;
  const void* down;  // [S, M*R, in]
  int64_t members, width;  // M, R
  const void* const* up;  // M of [S, R, out_m]
  void* const* y;  // M of [T, out_m], rows `y_stride[m]` apart
  const int64_t* y_stride;
  const int64_t* out;
  const int64_t* rank;  // [S]: rows of R that are in use
  const float* scale;  // [T], or null for 1
  float* hidden;  // [T, M*R]: what `down` leaves for `up`
};

// One pass of causal attention over a paged cache.
struct Attend {
  const void* q;  // [Hq, T, D]
  int64_t q_head, q_token;  // strides
  void* out;  // [T, Hq, D] contiguous
  const void* keys;  // [blocks, H, D, 32]
  const void* values;  // [blocks, H, 32, D]
  int64_t heads, groups, size;  // H, Hq / H, D
  float scaling, softcap;  // softcap 0: none
  int64_t window;  // 0: none; counts the token itself
};

// Some neighbouring tokens of one sequence under some of the query heads that share a key head.
struct Query {
  int64_t token, tokens;  // place in the packed axis, and how many
  int64_t position;  // of the first token in its sequence
  int64_t head;  // the key head
  int64_t group, groups;  // the first of its query heads, and how many
  const int64_t* blocks;  // of the sequence, in order
};

// A linear layer whose products take four bytes of a row at a time: two inputs in bf16, four in
// 8 bits. All that belongs to outputs is padded to whole panels of 16.
struct Linear {
  const void* x;  // [T, fours] of four bytes, rows `x_stride` bytes apart
  int64_t x_stride, tokens, fours;
  const void* panels;  // [out/16, fours, 16] of four bytes
  const void* bias;  // [out] in bf16, or in fp32 for 8 bits, or null
  void* y;  // [T, out], bf16 or fp32
  int64_t out;
  bool y_fp32;
  // Of 8 bits: a row's scale [T]; an output's scale and where its sum begins [out].
  const float* row_scales;
  const float* scales;
  const int32_t* begins;
};

enum class Gate { silu, gelu_tanh };

// The kernels of one element type. Every one works on a part, so that the caller may divide.
struct Kernels {
  void (*down)(const Delta&, const Run&, int64_t member);
  void (*up)(const Delta&, const Run&, int64_t member, int64_t from, int64_t to);
  void (*write)(const void* key, const void* value, void* keys, void* values, int64_t place,
                int64_t size);
  void (*attend)(const Attend&, const Query&, float* scratch);
  void (*rms_norm)(const void* x, const void* weight, void* out, int64_t size, float eps,
                   bool one_plus);
  void (*rotate)(const void* x, const void* cos, const void* sin, void* out, int64_t size);
  void (*gated)(const void* gate, const void* up, void* out, int64_t size, Gate kind);
  // A row in 8 bits around 128; returns what a step of it is worth, NaN where the row has one.
  float (*quantize)(const void* x, uint8_t* out, int64_t size);
};

// One instruction set.
struct Isa {
  const char* name;
  bool (*usable)();
  int64_t max_queries;  // query rows (tokens times heads) that one call of `attend` may take
  Kernels fp32, bf16;
  // Some panels of a linear; null without products of bf16 and of 8 bits.
  void (*linear)(const Linear&, int64_t from, int64_t to);
  void (*linear8)(const Linear&, int64_t from, int64_t to);
};

extern const Isa plain, avx2, avx512, avx512_bf16;

// Floats of scratch that `attend` needs for D.
constexpr int64_t attend_scratch(int64_t size) { return 8 * (2 * size + 8 * BLOCK); }

}  // namespace rootstock
