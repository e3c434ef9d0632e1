// Sixteen lanes in two registers: AVX2 with FMA and F16C, and with VNNI where there is one.
#pragma once

namespace sgl {

struct Floats {
  __m256 low, high;
};
struct Ints {
  __m256i low, high;
};
struct Doubles {  // eight
  __m256d low, high;
};

constexpr const char* kInstructions = "AVX2";
constexpr int kTogether = 4;  // rows that are multiplied together: more sums than that do not stay in registers
constexpr int kVectors = 1;

inline Floats splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Ints splat_int(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline Floats zeros() { return splat(0.0f); }
inline Ints zero_ints() { return splat_int(0); }
inline Doubles zero_doubles() { return {_mm256_setzero_pd(), _mm256_setzero_pd()}; }

// All bits of each of eight lanes.
inline __m256i spread(int lanes) {
  const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(lanes), bit), bit);
}
inline Ints spread_all(Lanes lanes) { return {spread(lanes & 0xff), spread(lanes >> 8)}; }

inline Floats load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline Floats load(Lanes lanes, const float* p) {
  if (lanes == 0xffff) return load(p);
  const Ints taken = spread_all(lanes);
  return {_mm256_maskload_ps(p, taken.low), _mm256_maskload_ps(p + 8, taken.high)};
}
inline Ints load_ints(const void* p) {
  const auto* from = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(from), _mm256_loadu_si256(from + 1)};
}
inline void store(float* p, Floats x) {
  _mm256_storeu_ps(p, x.low);
  _mm256_storeu_ps(p + 8, x.high);
}
inline void store(float* p, Lanes lanes, Floats x) {
  if (lanes == 0xffff) return store(p, x);
  const Ints taken = spread_all(lanes);
  _mm256_maskstore_ps(p, taken.low, x.low);
  _mm256_maskstore_ps(p + 8, taken.high, x.high);
}
inline void store_ints(void* p, Ints x) {
  auto* to = static_cast<__m256i*>(p);
  _mm256_storeu_si256(to, x.low);
  _mm256_storeu_si256(to + 1, x.high);
}
// The chosen lanes next to each other.
inline void store_kept(float* p, Lanes lanes, Floats x) {
  alignas(32) float all[kLanes];
  store(all, x);
  for (unsigned left = lanes; left; left &= left - 1) *p++ = all[__builtin_ctz(left)];
}
// Sixteen bytes; what does not fit is the nearest that does.
inline void store_bytes(int8_t* p, Ints x) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.low, x.high), 0xd8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

inline Floats add(Floats a, Floats b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
inline Ints add(Ints a, Ints b) { return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)}; }
inline Floats sub(Floats a, Floats b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
inline Floats mul(Floats a, Floats b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
inline Floats div(Floats a, Floats b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
inline Floats fmadd(Floats a, Floats b, Floats c) { return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)}; }
inline Floats fnmadd(Floats a, Floats b, Floats c) { return {_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)}; }
inline Floats max(Floats a, Floats b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
inline Floats min(Floats a, Floats b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
inline Ints max(Ints a, Ints b) { return {_mm256_max_epu32(a.low, b.low), _mm256_max_epu32(a.high, b.high)}; }  // without signs
inline Ints both(Ints a, Ints b) { return {_mm256_and_si256(a.low, b.low), _mm256_and_si256(a.high, b.high)}; }
inline Ints as_ints(Floats x) { return {_mm256_castps_si256(x.low), _mm256_castps_si256(x.high)}; }
inline Floats as_floats(Ints x) { return {_mm256_castsi256_ps(x.low), _mm256_castsi256_ps(x.high)}; }
inline Ints rounded(Floats x) { return {_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(x.high)}; }
inline Floats to_floats(Ints x) { return {_mm256_cvtepi32_ps(x.low), _mm256_cvtepi32_ps(x.high)}; }

template <int how>
inline Lanes compare(Floats a, Floats b) {
  const int low = _mm256_movemask_ps(_mm256_cmp_ps(a.low, b.low, how)), high = _mm256_movemask_ps(_mm256_cmp_ps(a.high, b.high, how));
  return static_cast<Lanes>(low | high << 8);
}
inline Lanes at_least(Floats a, Floats b) { return compare<_CMP_GE_OQ>(a, b); }
inline Lanes above(Floats a, Floats b) { return compare<_CMP_GT_OQ>(a, b); }
inline Floats choose(Lanes lanes, Floats yes, Floats no) {
  const Floats taken = as_floats(spread_all(lanes));
  return {_mm256_blendv_ps(no.low, yes.low, taken.low), _mm256_blendv_ps(no.high, yes.high, taken.high)};
}
inline Floats keep(Lanes lanes, Floats x) { return lanes == 0xffff ? x : as_floats(both(as_ints(x), spread_all(lanes))); }
inline Floats add_where(Lanes lanes, Floats sum, Floats x) { return lanes == 0xffff ? add(sum, x) : choose(lanes, add(sum, x), sum); }
inline Floats max_where(Lanes lanes, Floats a, Floats b) { return lanes == 0xffff ? max(a, b) : choose(lanes, max(a, b), a); }

inline float sum_of(Floats x) {
  const __m256 eight = _mm256_add_ps(x.low, x.high);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
inline double sum_of(Doubles x) {
  const __m256d four = _mm256_add_pd(x.low, x.high);
  const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
  return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}
inline int sum_of(Ints x) {
  const __m256i eight = _mm256_add_epi32(x.low, x.high);
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}
inline uint32_t largest_of(Ints x) {
  const __m256i eight = _mm256_max_epu32(x.low, x.high);
  __m128i four = _mm_max_epu32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0x4e));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_max_epu32(four, _mm_shuffle_epi32(four, 0xb1))));
}
inline Doubles add_floats(Doubles sum, Floats x) {
  const auto four = [](__m128 v) { return _mm256_cvtps_pd(v); };
  const __m256d low = _mm256_add_pd(four(_mm256_castps256_ps128(x.low)), four(_mm256_castps256_ps128(x.high)));
  const __m256d high = _mm256_add_pd(four(_mm256_extractf128_ps(x.low, 1)), four(_mm256_extractf128_ps(x.high, 1)));
  return {_mm256_add_pd(sum.low, low), _mm256_add_pd(sum.high, high)};
}

constexpr float kLeastExponent = -252.0f;  // 2^-252 * p is 0 in any case, and its halves have exponents that a float has

// x - floor(x); 0 below kLeastExponent.
inline Floats fraction(Floats x) {
  const auto part = [](__m256 v) {
    v = _mm256_max_ps(_mm256_set1_ps(kLeastExponent), v);  // a NaN stays one
    return _mm256_sub_ps(v, _mm256_floor_ps(v));
  };
  return {part(x.low), part(x.high)};
}
// p * 2^floor(x), 0 in the lanes not wanted; x below 128.
inline Floats scaled(Lanes wanted, Floats p, Floats x) {
  const auto part = [](__m256 v, __m256 by) {
    const __m256i n = _mm256_cvtps_epi32(_mm256_floor_ps(_mm256_max_ps(_mm256_set1_ps(kLeastExponent), by)));
    const __m256i half = _mm256_srai_epi32(n, 1), bias = _mm256_set1_epi32(127);
    const auto power = [&](__m256i e) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(e, bias), 23)); };
    return _mm256_mul_ps(_mm256_mul_ps(v, power(half)), power(_mm256_sub_epi32(n, half)));
  };
  return keep(wanted, {part(p.low, x.low), part(p.high, x.high)});
}

inline Floats from_half(const half* p) {
  const auto* from = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(from)), _mm256_cvtph_ps(_mm_loadu_si128(from + 1))};
}

// Round to nearest even; a NaN stays one.
inline void store_bf16(bf16* p, Floats x) {
  const auto part = [](__m256 v) {
    const __m256i bits = _mm256_castps_si256(v), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i nearest = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256 chosen = _mm256_blendv_ps(_mm256_castsi256_ps(nearest), _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000)), _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    return _mm256_srli_epi32(_mm256_castps_si256(chosen), 16);
  };
  const __m256i stored = _mm256_permute4x64_epi64(_mm256_packus_epi32(part(x.low), part(x.high)), 0xd8);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), stored);
}

// sum + a.even * b.even + a.odd * b.odd over pairs of bf16.
inline Floats dot_pairs(Floats sum, Ints a, Ints b) {
  const auto part = [](__m256 s, __m256i x, __m256i y) {
    const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    s = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(x, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(y, 16)), s);
    return _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_and_si256(x, high)), _mm256_castsi256_ps(_mm256_and_si256(y, high)), s);
  };
  return {part(sum.low, a.low, b.low), part(sum.high, a.high, b.high)};
}

inline Ints low_nibbles(Ints x) {
  const __m256i nibble = _mm256_set1_epi8(15);
  return {_mm256_and_si256(x.low, nibble), _mm256_and_si256(x.high, nibble)};
}
inline Ints high_nibbles(Ints x) { return low_nibbles({_mm256_srli_epi16(x.low, 4), _mm256_srli_epi16(x.high, 4)}); }

// Sums of a * b over fours of bytes, those of `a` without signs, and what such sums are in the end. `nibbles`: all of `a` is below 16
// and at most eight are summed, which fits into 16 bits. Other products are widened first: pairs of them would not fit.
template <bool nibbles>
inline Ints dot_bytes(Ints sum, Ints a, Ints b) {
  const auto part = [](__m256i s, __m256i x, __m256i y) {
#ifdef __AVXVNNI__
    return _mm256_dpbusd_avx_epi32(s, x, y);
#else
    if constexpr (nibbles) return _mm256_add_epi16(s, _mm256_maddubs_epi16(x, y));
    const __m256i even = _mm256_madd_epi16(_mm256_and_si256(x, _mm256_set1_epi16(0xff)), _mm256_srai_epi16(_mm256_slli_epi16(y, 8), 8));
    const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(x, 8), _mm256_srai_epi16(y, 8));
    return _mm256_add_epi32(s, _mm256_add_epi32(even, odd));
#endif
  };
  return {part(sum.low, a.low, b.low), part(sum.high, a.high, b.high)};
}
template <bool nibbles>
inline Ints summed(Ints sum) {
#ifndef __AVXVNNI__
  if constexpr (nibbles) {
    const __m256i one = _mm256_set1_epi16(1);
    return {_mm256_madd_epi16(sum.low, one), _mm256_madd_epi16(sum.high, one)};
  }
#endif
  return sum;
}

// By quarters of a vector, as the instructions of AVX-512 have them.
inline Ints low_ints(Ints a, Ints b) { return {_mm256_unpacklo_epi32(a.low, b.low), _mm256_unpacklo_epi32(a.high, b.high)}; }
inline Ints high_ints(Ints a, Ints b) { return {_mm256_unpackhi_epi32(a.low, b.low), _mm256_unpackhi_epi32(a.high, b.high)}; }
inline Ints low_pairs(Ints a, Ints b) { return {_mm256_unpacklo_epi64(a.low, b.low), _mm256_unpacklo_epi64(a.high, b.high)}; }
inline Ints high_pairs(Ints a, Ints b) { return {_mm256_unpackhi_epi64(a.low, b.low), _mm256_unpackhi_epi64(a.high, b.high)}; }
inline Floats low_floats(Floats a, Floats b) { return {_mm256_unpacklo_ps(a.low, b.low), _mm256_unpacklo_ps(a.high, b.high)}; }
inline Floats high_floats(Floats a, Floats b) { return {_mm256_unpackhi_ps(a.low, b.low), _mm256_unpackhi_ps(a.high, b.high)}; }
template <int which>
inline Floats pick(Floats a, Floats b) { return {_mm256_shuffle_ps(a.low, b.low, which), _mm256_shuffle_ps(a.high, b.high, which)}; }
template <int which>
inline Ints quarters(Ints a, Ints b) {
  return {_mm256_permute2x128_si256(a.low, a.high, (which & 3) | (which >> 2 & 3) << 4),
          _mm256_permute2x128_si256(b.low, b.high, (which >> 4 & 3) | (which >> 6 & 3) << 4)};
}
template <int which>
inline Floats quarters(Floats a, Floats b) { return as_floats(quarters<which>(as_ints(a), as_ints(b))); }

// Elements of 16 bits of two vectors next to each other: a0, b0, a1, b1, ...
struct Interleaved {
  Ints low, high;
};
inline Interleaved interleave(Ints a, Ints b) {
  const auto halves = [](__m256i x, __m256i y) {
    const __m256i low = _mm256_unpacklo_epi16(x, y), high = _mm256_unpackhi_epi16(x, y);
    return Ints{_mm256_permute2x128_si256(low, high, 0x20), _mm256_permute2x128_si256(low, high, 0x31)};
  };
  return {halves(a.low, b.low), halves(a.high, b.high)};
}

}  // namespace sgl
