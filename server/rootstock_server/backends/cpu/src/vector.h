// Vectors of one instruction set, in the compiler's own portable notation: sixteen, eight or four
// floats. Each translation unit that includes this has its own copy, in a namespace of its own:
// code for one instruction set must never be linked into another's.
#pragma once

#include <cstdint>
#include <cstring>

#ifndef ROOTSTOCK_ISA
#error "define ROOTSTOCK_ISA, the namespace of this instruction set, before including kernels"
#endif

namespace rootstock {

// The upper half of a float. ATen's own type would bring inline functions along; see above.
struct bf16 {
  uint16_t bits;
};

namespace ROOTSTOCK_ISA {

#if defined(__AVX512F__)
constexpr int LANES = 16;
constexpr int MAX_QUERIES = 8;  // rows of attention whose sums fit the registers
#elif defined(__AVX2__)
constexpr int LANES = 8;
constexpr int MAX_QUERIES = 4;
#else
constexpr int LANES = 4;
constexpr int MAX_QUERIES = 4;
#endif

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));
typedef uint8_t Bytes __attribute__((vector_size(LANES)));

static inline Floats all(float value) { return value - Floats{}; }

static inline Floats load(const float* from) {
  Floats v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

static inline Floats load(const bf16* from) {
  Halves h;
  std::memcpy(&h, from, sizeof h);
  return (Floats)(__builtin_convertvector(h, Words) << 16);
}

static inline float load_one(const float* from) { return *from; }

static inline float load_one(const bf16* from) {
  uint32_t word = (uint32_t)from->bits << 16;
  float value;
  std::memcpy(&value, &word, 4);
  return value;
}

static inline void store(float* to, Floats v) { std::memcpy(to, &v, sizeof v); }

// To nearest even, as torch rounds; every NaN becomes torch's.
static inline Words rounded_words(Floats v) {
  Words u = (Words)v;
  Words r = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  return v == v ? r : Words{} + 0x7fc0;
}

static inline void store(bf16* to, Floats v) {
  Halves h = __builtin_convertvector(rounded_words(v), Halves);
  std::memcpy(to, &h, sizeof h);
}

static inline void store_one(float* to, float value) { *to = value; }

static inline void store_one(bf16* to, float value) {
  uint32_t u;
  std::memcpy(&u, &value, 4);
  to->bits = value == value ? (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16) : 0x7fc0;
}

// What is left of a value after it has been stored as T.
template <class T>
static inline Floats rounded(Floats v) {
  return sizeof(T) == 2 ? (Floats)(rounded_words(v) << 16) : v;
}

template <class T>
static inline float rounded_one(float v) {
  T stored;
  store_one(&stored, v);
  return load_one(&stored);
}

static inline float sum(Floats v) {
  typedef float Quad __attribute__((vector_size(16)));
  Quad parts[LANES / 4];
  std::memcpy(parts, &v, sizeof v);
  Quad total = parts[0];
  for (int i = 1; i < LANES / 4; i++) total += parts[i];
  return (total[0] + total[2]) + (total[1] + total[3]);
}

static inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

static inline float largest(Floats v) {
  float best = v[0];
  for (int i = 1; i < LANES; i++) best = v[i] > best ? v[i] : best;
  return best;
}

// e^x to about 2 units in the last place, 0 below -87.3, at most e^88; NaN stays NaN.
// Range reduction and polynomial after Cephes' expf (Moshier).
static inline Floats exponential(Floats x) {
  Floats limited = x > all(88.0f) ? all(88.0f) : x;
  const Floats magic = all(12582912.0f);  // 1.5 * 2^23: the sum's low bits are the rounded integer
  Floats shifted = limited * 1.44269504f + magic;
  Floats n = shifted - magic;
  Floats r = limited - n * 0.693359375f + n * 2.12194440e-4f;
  Floats p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  Floats result = p * r * r + r + 1.0f;
  Ints power = ((Ints)shifted - (Ints)magic + 127) << 23;
  result *= (Floats)power;
  return x < all(-87.3f) ? Floats{} : result;
}

static inline Floats hyperbolic_tangent(Floats x) {
  Floats low = x < all(-43.0f) ? all(-43.0f) : x;
  return 1.0f - 2.0f / (exponential(2.0f * low) + 1.0f);
}

}  // namespace ROOTSTOCK_ISA
}  // namespace rootstock
