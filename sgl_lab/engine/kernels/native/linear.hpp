// Linear layers over packed weights: 4-bit and 8-bit in groups of 32, and bf16.
//
// The result of a row is a function of that row alone: the order of its sums does not depend on how
// many rows come along, so that batching and chunking change no bit.
#pragma once

#include <cmath>
#include <vector>

#include "simd.hpp"
#include "team.hpp"

namespace sgl {

constexpr int kGroup = 32;

// How far ahead of the arithmetic weights are asked for. Left to the hardware's own guess, 8 rows of 4 bits took 5.4 ms for all
// linears of a 135M Llama on one EPYC core; with this 3.3 ms, as many as the arithmetic alone.
constexpr int kGroupsAhead = 16;
constexpr int kPairsAhead = 32;

enum class Kind : int32_t { q4 = 0, q8 = 1, bf16 = 2 };

// A weight [n_out, n_in] as `pack.py` lays it out; columns are outputs, the last block is padded with zeros.
//   q4    quants [blocks of 16][groups][4][16][4] bytes: byte (j, column, i) holds inputs 8j+i (low nibble) and 8j+4+i (high);
//         weight = scale * quant + minimum. 5 bits a weight.
//   q8    quants [blocks of 16][groups][8][16][4] bytes, offset by 128; weight = scale * (quant - 128). 8.5 bits a weight.
//   bf16  quants [blocks of 64][n_in / 2][64][2] bf16
struct Weight {
  const uint8_t* quants;
  const half* scales;    // [blocks of 16][groups][16]
  const half* minimums;  // the same, q4 only
  const float* bias;     // [n_out] or null
  int32_t n_in, n_out;
  Kind kind;
  int32_t padding;
};

// Rows as the linears want them: bf16, or 8-bit in groups of 32 with what the groups' sums are needed for.
struct Activations {
  int n_in = 0;
  bool is_bf16 = false;
  std::vector<bf16> wide;
  std::vector<int8_t> quants;
  std::vector<float> scales;      // of each group
  std::vector<float> sums;        // scale * sum of quants: what a weight's minimum is multiplied with
  std::vector<int32_t> offsets;   // -128 * sum of quants: undoes the offset of 8-bit weights

  void resize(int n_rows, int n, bool as_bf16) {
    n_in = n;
    is_bf16 = as_bf16;
    const size_t size = static_cast<size_t>(n_rows) * n;
    if (as_bf16) {
      if (wide.size() < size) wide.resize(size);
    } else if (quants.size() < size) {
      quants.resize(size);
      scales.resize(size / kGroup);
      sums.resize(size / kGroup);
      offsets.resize(size / kGroup);
    }
  }

  // Write inputs [at, at + 32) of a row.
  void put(int row, int at, __m512 low, __m512 high) {
    const size_t place = static_cast<size_t>(row) * n_in + at;
    if (is_bf16) {
      store_bf16(&wide[place], low);
      store_bf16(&wide[place + kLanes], high);
      return;
    }
    // As integers NaN and infinity are the largest magnitudes: they reach the scale and cannot get lost in rounding.
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    const uint32_t largest = _mm512_reduce_max_epu32(
        _mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(low), magnitude), _mm512_and_si512(_mm512_castps_si512(high), magnitude)));
    float peak;
    std::memcpy(&peak, &largest, 4);
    const float scale = std::isfinite(peak) ? peak / 127.0f : NAN;
    const __m512 inverse = _mm512_set1_ps(scale > 0 ? 127.0f / peak : 0.0f);
    const __m512i a = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse)), b = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(&quants[place]), _mm512_cvtsepi32_epi8(a));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(&quants[place + kLanes]), _mm512_cvtsepi32_epi8(b));
    const int sum = _mm512_reduce_add_epi32(_mm512_add_epi32(a, b));
    scales[place / kGroup] = scale;
    sums[place / kGroup] = scale * static_cast<float>(sum);
    offsets[place / kGroup] = -128 * sum;
  }
};

enum class Store { overwrite, add };

inline void store_block(__m512 sum, const Weight& w, int column, float* y, Store how) {
  const __mmask16 lanes = first_lanes(w.n_out - column);
  if (w.bias) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes, w.bias + column));
  if (how == Store::add) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes, y + column));
  _mm512_mask_storeu_ps(y + column, lanes, sum);
}

// R rows times one block of 16 columns.
template <Kind kind, int R>
inline void multiply_block(const Weight& w, int block, const Activations& x, int row, float* y, size_t stride, Store how) {
  constexpr int kBytes = kind == Kind::q4 ? 256 : 512;
  const int n_groups = w.n_in / kGroup;
  const uint8_t* quants = w.quants + static_cast<size_t>(block) * n_groups * kBytes;
  const half* scales = w.scales + static_cast<size_t>(block) * n_groups * kLanes;
  const half* minimums = kind == Kind::q4 ? w.minimums + static_cast<size_t>(block) * n_groups * kLanes : nullptr;
  const int8_t* x_quants = &x.quants[static_cast<size_t>(row) * w.n_in];
  const size_t x_group = static_cast<size_t>(row) * n_groups;
  const __m512i nibble = _mm512_set1_epi8(15);
  __m512 sum[R];
  for (int r = 0; r < R; ++r) sum[r] = _mm512_setzero_ps();
  for (int g = 0; g < n_groups; ++g) {
    __m512i dot[R];
    for (int r = 0; r < R; ++r)
      dot[r] = kind == Kind::q4 ? _mm512_setzero_si512() : _mm512_set1_epi32(x.offsets[x_group + r * n_groups + g]);
    if (row == 0)  // later rows find the block in the cache
      for (int j = 0; j < kBytes; j += 64) _mm_prefetch(quants + (g + kGroupsAhead) * kBytes + j, _MM_HINT_T0);
    for (int j = 0; j < 4; ++j) {
      __m512i first, second;
      if constexpr (kind == Kind::q4) {
        const __m512i both = _mm512_loadu_si512(quants + g * kBytes + j * 64);
        first = _mm512_and_si512(both, nibble);
        second = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
      } else {
        first = _mm512_loadu_si512(quants + g * kBytes + j * 128);
        second = _mm512_loadu_si512(quants + g * kBytes + j * 128 + 64);
      }
      for (int r = 0; r < R; ++r) dot[r] = _mm512_dpbusd_epi32(dot[r], first, broadcast_dword(x_quants + r * w.n_in + g * kGroup + j * 8));
      for (int r = 0; r < R; ++r) dot[r] = _mm512_dpbusd_epi32(dot[r], second, broadcast_dword(x_quants + r * w.n_in + g * kGroup + j * 8 + 4));
    }
    const __m512 scale = from_half(scales + g * kLanes);
    for (int r = 0; r < R; ++r) {
      const __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(x.scales[x_group + r * n_groups + g]));
      sum[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[r]), both, sum[r]);
    }
    if constexpr (kind == Kind::q4) {
      const __m512 minimum = from_half(minimums + g * kLanes);
      for (int r = 0; r < R; ++r) sum[r] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(x.sums[x_group + r * n_groups + g]), sum[r]);
    }
  }
  for (int r = 0; r < R; ++r) store_block(sum[r], w, block * kLanes, y + (row + r) * stride, how);
}

// R rows times one block of 64 columns.
template <int R>
inline void multiply_bf16(const Weight& w, int block, const Activations& x, int row, float* y, size_t stride, Store how) {
  const bf16* panel = reinterpret_cast<const bf16*>(w.quants) + static_cast<size_t>(block) * w.n_in * 64;
  __m512 sum[R][4];
  for (auto& line : sum)
    for (auto& part : line) part = _mm512_setzero_ps();
  if (row == 0)
    multiply_panel<R, kPairsAhead>(sum, &x.wide[0], w.n_in, panel, w.n_in / 2);
  else
    multiply_panel<R>(sum, &x.wide[static_cast<size_t>(row) * w.n_in], w.n_in, panel, w.n_in / 2);
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < 4; ++c) store_block(sum[r][c], w, block * 64 + c * kLanes, y + (row + r) * stride, how);
}

// One phase: y [n_rows, n_out] (rows `stride` floats apart) = or += x @ w.T + bias.
// Memory: the weight once, however many rows; a block of it stays in the first-level cache while all rows pass.
inline void linear(Member& me, const Weight& w, const Activations& x, int n_rows, float* y, size_t stride, Store how) {
  const int width = w.kind == Kind::bf16 ? 64 : kLanes;
  const int most = w.kind == Kind::bf16 ? 6 : 8;  // rows whose sums fit into the registers
  const int n_blocks = (w.n_out + width - 1) / width;
  me.share(n_blocks, std::max(1, n_blocks / (me.team_size() * 6)), [&](int block) {
    for (int row = 0; row < n_rows; row += most) with_rows(std::min(most, n_rows - row), [&]<int R>() {
      switch (w.kind) {
        case Kind::q4: return multiply_block<Kind::q4, R>(w, block, x, row, y, stride, how);
        case Kind::q8: return multiply_block<Kind::q8, R>(w, block, x, row, y, stride, how);
        case Kind::bf16: return multiply_bf16<R>(w, block, x, row, y, stride, how);
      }
    });
  });
}

// Row `row` of the weight as floats [n_in]: how an embedding is looked up.
inline void weight_row(const Weight& w, int row, float* out) {
  const int n_groups = w.n_in / kGroup;
  if (w.kind == Kind::bf16) {
    const bf16* panel = reinterpret_cast<const bf16*>(w.quants) + static_cast<size_t>(row / 64) * w.n_in * 64 + row % 64 * 2;
    for (int k = 0; k < w.n_in; ++k) out[k] = to_float(panel[k / 2 * 128 + k % 2]);
    return;
  }
  const int lane = row % kLanes;
  for (int g = 0; g < n_groups; ++g) {
    const size_t group = static_cast<size_t>(row / kLanes) * n_groups + g;
    const float scale = _cvtsh_ss(w.scales[group * kLanes + lane]);
    for (int k = 0; k < kGroup; ++k) {
      if (w.kind == Kind::q4) {
        const int both = w.quants[group * 256 + k / 8 * 64 + lane * 4 + k % 4];
        out[g * kGroup + k] = scale * static_cast<float>(k % 8 < 4 ? both & 15 : both >> 4) + _cvtsh_ss(w.minimums[group * kLanes + lane]);
      } else {
        out[g * kGroup + k] = scale * static_cast<float>(w.quants[group * 512 + k / 4 * 64 + lane * 4 + k % 4] - 128);
      }
    }
  }
}

}  // namespace sgl
