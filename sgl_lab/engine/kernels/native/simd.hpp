// The few vector operations that everything else is made of.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace sgl {

using half = uint16_t;  // IEEE binary16, as stored
using bf16 = uint16_t;  // upper half of a float, as stored

constexpr int kLanes = 16;

inline int round_up(int n, int to) { return (n + to - 1) / to * to; }
inline __mmask16 first_lanes(int n) { return n >= kLanes ? 0xffff : n <= 0 ? 0 : static_cast<__mmask16>((1u << n) - 1); }
inline __m512 from_half(const half* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline __m512 from_bf16(__m256i v) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16)); }
inline __m512 from_bf16(const bf16* p) { return from_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline float to_float(bf16 v) {
  const uint32_t bits = static_cast<uint32_t>(v) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}
inline __m512i broadcast_dword(const void* p) {
  int32_t v;
  std::memcpy(&v, p, 4);
  return _mm512_set1_epi32(v);
}

// Round to nearest even; a NaN stays one.
inline __m256i to_bf16(__m512 x) {
#ifdef __AVX512BF16__
  return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x));
#else
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc00000)), 16));
#endif
}
inline void store_bf16(bf16* p, __m512 x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_bf16(x)); }

// sum + a.even * b.even + a.odd * b.odd over pairs of bf16.
inline __m512 dot_pairs(__m512 sum, __m512i a, __m512i b) {
#ifdef __AVX512BF16__
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
#else
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  sum = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(a, 16)), _mm512_castsi512_ps(_mm512_slli_epi32(b, 16)), sum);
  return _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(a, high)), _mm512_castsi512_ps(_mm512_and_si512(b, high)), sum);
#endif
}

// 2^x for x < 128, 0 in the lanes not wanted; relative error below 2e-7 (the least for degree 5 on [0, 1] that leaves 1 exact).
// -inf gives 0, NaN stays NaN.
inline __m512 exp2_of(__m512 x, __mmask16 wanted = 0xffff) {
  const __m512 f = _mm512_reduce_ps(x, 9);  // x - floor(x); 0 for an infinity
  __m512 p = _mm512_set1_ps(1.867130515e-3f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.017029777e-3f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.579991266e-2f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.401644439e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.931512952e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
  return _mm512_maskz_scalef_ps(wanted, p, x);  // which takes the floor itself
}

constexpr float kLog2e = 1.4426950408889634f;

// R rows of `a` times a panel of 64 columns, by pairs of the inner dimension; what is done to one row depends on no other.
//   a     [R][2 * n_pairs] bf16, rows `stride` elements apart
//   panel [n_pairs][64][2] bf16
//   sum   [R][4] vectors, added to
// `ahead`, if not 0, is how many pairs ahead the panel is fetched from memory.
template <int R, int ahead = 0>
inline void multiply_panel(__m512 (&sum)[R][4], const bf16* a, int stride, const bf16* panel, int n_pairs) {
  for (int pair = 0; pair < n_pairs; ++pair) {
    __m512i column[4];
    for (int c = 0; c < 4; ++c) {
      column[c] = _mm512_loadu_si512(panel + pair * 128 + c * 32);
      if constexpr (ahead > 0) _mm_prefetch(panel + (pair + ahead) * 128 + c * 32, _MM_HINT_T0);
    }
    for (int r = 0; r < R; ++r) {
      const __m512i value = broadcast_dword(a + r * stride + pair * 2);
      for (int c = 0; c < 4; ++c) sum[r][c] = dot_pairs(sum[r][c], value, column[c]);
    }
  }
}

// The largest of each of four vectors: that of vector i in lanes i, i + 4, i + 8, i + 12.
inline __m512 maxima(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_max_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_max_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  __m512 all = _mm512_max_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  all = _mm512_max_ps(all, _mm512_shuffle_f32x4(all, all, 0x4e));
  return _mm512_max_ps(all, _mm512_shuffle_f32x4(all, all, 0xb1));
}

// Calls f.template operator()<n>() for a run-time n of 1 to 6.
template <class F>
inline void with_rows(int n, F f) {
  switch (n) {
    case 1: return f.template operator()<1>();
    case 2: return f.template operator()<2>();
    case 3: return f.template operator()<3>();
    case 4: return f.template operator()<4>();
    case 5: return f.template operator()<5>();
    default: return f.template operator()<6>();
  }
}

}  // namespace sgl
