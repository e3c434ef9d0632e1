// The few vector operations that everything else is made of, over sixteen lanes whatever the CPU: `avx512.hpp` has them in one
// register, `avx2.hpp` in two. One CPU always gives the same bits; the two differ in the order of some sums.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace sgl {

using half = uint16_t;   // IEEE binary16, as stored
using bf16 = uint16_t;   // upper half of a float, as stored
using Lanes = uint16_t;  // a bit for each lane

constexpr int kLanes = 16;

inline int round_up(int n, int to) { return (n + to - 1) / to * to; }
inline Lanes first_lanes(int n) { return n >= kLanes ? 0xffff : n <= 0 ? 0 : static_cast<Lanes>((1u << n) - 1); }
inline float to_float(bf16 v) {
  const uint32_t bits = static_cast<uint32_t>(v) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

}  // namespace sgl

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__) && defined(__AVX512VNNI__)
#include "avx512.hpp"
#else
#include "avx2.hpp"
#endif

namespace sgl {

inline Ints broadcast_dword(const void* p) {
  int32_t v;
  std::memcpy(&v, p, 4);
  return splat_int(v);
}

// 2^x for x < 128, 0 in the lanes not wanted; relative error below 2e-7 (the least for degree 5 on [0, 1] that leaves 1 exact).
// -inf gives 0, NaN stays NaN.
inline Floats exp2_of(Floats x, Lanes wanted = 0xffff) {
  const Floats f = fraction(x);
  Floats p = splat(1.867130515e-3f);
  p = fmadd(p, f, splat(9.017029777e-3f));
  p = fmadd(p, f, splat(5.579991266e-2f));
  p = fmadd(p, f, splat(2.401644439e-1f));
  p = fmadd(p, f, splat(6.931512952e-1f));
  p = fmadd(p, f, splat(1.0f));
  return scaled(wanted, p, x);
}

constexpr float kLog2e = 1.4426950408889634f;

// Absolute error below 2e-7.
inline Floats tanh_of(Floats x) {
  const Floats grown = exp2_of(min(splat(126.0f), mul(x, splat(2.0f * kLog2e))));
  return sub(splat(1.0f), div(splat(2.0f), add(splat(1.0f), grown)));
}

// R rows of `a` times a panel of 64 columns, by pairs of the inner dimension; what is done to one row depends on no other.
//   a     [R][2 * n_pairs] bf16, rows `stride` elements apart
//   panel [n_pairs][64][2] bf16
//   sum   [R][4] vectors, added to; kVectors of them at a time, so that they stay in registers
// `ahead`, if not 0, is how many pairs ahead the panel is fetched from memory.
template <int R, int ahead = 0>
inline void multiply_panel(Floats (&sum)[R][4], const bf16* a, int stride, const bf16* panel, int n_pairs) {
  for (int first = 0; first < 4; first += kVectors)
    for (int pair = 0; pair < n_pairs; ++pair) {
      Ints column[kVectors];
      for (int c = 0; c < kVectors; ++c) {
        column[c] = load_ints(panel + pair * 128 + (first + c) * 32);
        if constexpr (ahead > 0) _mm_prefetch(panel + (pair + ahead) * 128 + (first + c) * 32, _MM_HINT_T0);
      }
      for (int r = 0; r < R; ++r) {
        const Ints value = broadcast_dword(a + r * stride + pair * 2);
        for (int c = 0; c < kVectors; ++c) sum[r][first + c] = dot_pairs(sum[r][first + c], value, column[c]);
      }
    }
}

// The largest of each of four vectors: that of vector i in lanes i, i + 4, i + 8, i + 12.
inline Floats maxima(Floats a, Floats b, Floats c, Floats d) {
  const Floats ab = max(low_floats(a, b), high_floats(a, b));
  const Floats cd = max(low_floats(c, d), high_floats(c, d));
  Floats all = max(pick<0x44>(ab, cd), pick<0xee>(ab, cd));
  all = max(all, quarters<0x4e>(all, all));
  return max(all, quarters<0xb1>(all, all));
}

// Calls f.template operator()<n>() for a run-time n of 1 to kTogether.
template <class F>
inline void with_rows(int n, F f) {
  switch (n) {
    case 1: return f.template operator()<1>();
    case 2: return f.template operator()<2>();
    case 3: return f.template operator()<3>();
    case 4: return f.template operator()<4>();
  }
  if constexpr (kTogether > 4) n == 5 ? f.template operator()<5>() : f.template operator()<6>();
}

}  // namespace sgl
