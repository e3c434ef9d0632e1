// Sixteen lanes in one register: AVX-512 with VNNI, and with BF16 where there is one.
#pragma once

namespace sgl {

using Floats = __m512;
using Ints = __m512i;
using Doubles = __m512d;  // eight

#ifdef __AVX512BF16__
constexpr const char* kInstructions = "AVX-512 BF16";
#else
constexpr const char* kInstructions = "AVX-512";
#endif
constexpr int kTogether = 6;  // rows that are multiplied together: their sums fill the registers
constexpr int kVectors = 4;

inline Floats splat(float x) { return _mm512_set1_ps(x); }
inline Ints splat_int(int32_t x) { return _mm512_set1_epi32(x); }
inline Floats zeros() { return _mm512_setzero_ps(); }
inline Ints zero_ints() { return _mm512_setzero_si512(); }
inline Doubles zero_doubles() { return _mm512_setzero_pd(); }

inline Floats load(const float* p) { return _mm512_loadu_ps(p); }
inline Floats load(Lanes lanes, const float* p) { return _mm512_maskz_loadu_ps(lanes, p); }
inline Ints load_ints(const void* p) { return _mm512_loadu_si512(p); }
inline void store(float* p, Floats x) { _mm512_storeu_ps(p, x); }
inline void store(float* p, Lanes lanes, Floats x) { _mm512_mask_storeu_ps(p, lanes, x); }
inline void store_ints(void* p, Ints x) { _mm512_storeu_si512(p, x); }
// The chosen lanes next to each other; up to sixteen floats are written.
inline void store_kept(float* p, Lanes lanes, Floats x) { _mm512_storeu_ps(p, _mm512_maskz_compress_ps(lanes, x)); }
// Sixteen bytes; what does not fit is the nearest that does.
inline void store_bytes(int8_t* p, Ints x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(x)); }

inline Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
inline Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
inline Floats sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
inline Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Floats div(Floats a, Floats b) { return _mm512_div_ps(a, b); }
inline Floats fmadd(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats fnmadd(Floats a, Floats b, Floats c) { return _mm512_fnmadd_ps(a, b, c); }
inline Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }
inline Floats min(Floats a, Floats b) { return _mm512_min_ps(a, b); }
inline Ints max(Ints a, Ints b) { return _mm512_max_epu32(a, b); }  // without signs
inline Ints both(Ints a, Ints b) { return _mm512_and_si512(a, b); }
inline Ints as_ints(Floats x) { return _mm512_castps_si512(x); }
inline Floats as_floats(Ints x) { return _mm512_castsi512_ps(x); }
inline Ints rounded(Floats x) { return _mm512_cvtps_epi32(x); }
inline Floats to_floats(Ints x) { return _mm512_cvtepi32_ps(x); }

inline Lanes at_least(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
inline Lanes above(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
inline Floats choose(Lanes lanes, Floats yes, Floats no) { return _mm512_mask_blend_ps(lanes, no, yes); }
inline Floats keep(Lanes lanes, Floats x) { return _mm512_maskz_mov_ps(lanes, x); }
inline Floats add_where(Lanes lanes, Floats sum, Floats x) { return _mm512_mask_add_ps(sum, lanes, sum, x); }
inline Floats max_where(Lanes lanes, Floats a, Floats b) { return _mm512_mask_max_ps(a, lanes, a, b); }

inline float sum_of(Floats x) { return _mm512_reduce_add_ps(x); }
inline double sum_of(Doubles x) { return _mm512_reduce_add_pd(x); }
inline int sum_of(Ints x) { return _mm512_reduce_add_epi32(x); }
inline uint32_t largest_of(Ints x) { return _mm512_reduce_max_epu32(x); }
inline Doubles add_floats(Doubles sum, Floats x) {
  return _mm512_add_pd(sum, _mm512_add_pd(_mm512_cvtps_pd(_mm512_castps512_ps256(x)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1))));
}

// x - floor(x); 0 for an infinity.
inline Floats fraction(Floats x) { return _mm512_reduce_ps(x, 9); }
// p * 2^floor(x), 0 in the lanes not wanted.
inline Floats scaled(Lanes wanted, Floats p, Floats x) { return _mm512_maskz_scalef_ps(wanted, p, x); }

inline Floats from_half(const half* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }

// Round to nearest even; a NaN stays one.
inline void store_bf16(bf16* p, Floats x) {
#ifdef __AVX512BF16__
  const __m256i stored = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x));
#else
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i nearest = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  const __m256i stored = _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_mov_epi32(nearest, nan, _mm512_set1_epi32(0x7fc00000)), 16));
#endif
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), stored);
}

// sum + a.even * b.even + a.odd * b.odd over pairs of bf16.
inline Floats dot_pairs(Floats sum, Ints a, Ints b) {
#ifdef __AVX512BF16__
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
#else
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  sum = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(a, 16)), _mm512_castsi512_ps(_mm512_slli_epi32(b, 16)), sum);
  return _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(a, high)), _mm512_castsi512_ps(_mm512_and_si512(b, high)), sum);
#endif
}

inline Ints low_nibbles(Ints x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
inline Ints high_nibbles(Ints x) { return _mm512_and_si512(_mm512_srli_epi16(x, 4), _mm512_set1_epi8(15)); }

// Sums of a * b over fours of bytes, those of `a` without signs, and what such sums are in the end. `nibbles`: all of `a` is below 16.
template <bool nibbles>
inline Ints dot_bytes(Ints sum, Ints a, Ints b) { return _mm512_dpbusd_epi32(sum, a, b); }
template <bool nibbles>
inline Ints summed(Ints sum) { return sum; }

// By quarters of a vector, as the instructions have them.
inline Ints low_ints(Ints a, Ints b) { return _mm512_unpacklo_epi32(a, b); }
inline Ints high_ints(Ints a, Ints b) { return _mm512_unpackhi_epi32(a, b); }
inline Ints low_pairs(Ints a, Ints b) { return _mm512_unpacklo_epi64(a, b); }
inline Ints high_pairs(Ints a, Ints b) { return _mm512_unpackhi_epi64(a, b); }
inline Floats low_floats(Floats a, Floats b) { return _mm512_unpacklo_ps(a, b); }
inline Floats high_floats(Floats a, Floats b) { return _mm512_unpackhi_ps(a, b); }
template <int which>
inline Floats pick(Floats a, Floats b) { return _mm512_shuffle_ps(a, b, which); }
template <int which>
inline Ints quarters(Ints a, Ints b) { return _mm512_shuffle_i32x4(a, b, which); }
template <int which>
inline Floats quarters(Floats a, Floats b) { return _mm512_shuffle_f32x4(a, b, which); }

// Elements of 16 bits of two vectors next to each other: a0, b0, a1, b1, ...
struct Interleaved {
  Ints low, high;
};
inline Interleaved interleave(Ints a, Ints b) {
  alignas(64) static constexpr auto order = [] {
    struct { int16_t at[32]; } o{};
    for (int i = 0; i < 32; ++i) o.at[i] = static_cast<int16_t>(i / 2 + i % 2 * 32);
    return o;
  }();
  const Ints low = _mm512_load_si512(&order), high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  return {_mm512_permutex2var_epi16(a, low, b), _mm512_permutex2var_epi16(a, high, b)};
}

}  // namespace sgl
