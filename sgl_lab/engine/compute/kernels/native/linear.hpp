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
constexpr int kTile = kTogether;   // rows that are multiplied together: their sums and two vectors of weights fill the registers
constexpr int kPanelTiles = 12;    // tiles that pass over a block of weights before the next: they stay in the second-level cache
constexpr int kColumns = 32;       // outputs of a block of 4 or 8 bits
constexpr int kWideColumns = 64;   // of bf16
constexpr int kPairsAhead = 32;    // how far ahead bf16 weights are asked for while few rows need them

enum class Kind : int32_t { q4 = 0, q8 = 1, bf16 = 2 };

// A weight [n_out, n_in] as `pack.py` lays it out: blocks of outputs, each one stream of memory; the last is padded with zeros.
//   q4    [blocks of 32][groups] of 32 scales, 32 minimums (half) and [4][32][4] bytes: byte (j, column, i) holds inputs
//         8j+i (low nibble) and 8j+4+i (high); weight = scale * quant + minimum. 5 bits a weight.
//   q8    [blocks of 32][groups] of 32 scales (half) and [8][32][4] bytes, offset by 128; weight = scale * (quant - 128). 8.5 bits.
//   bf16  [blocks of 64][n_in / 2][64][2] bf16
struct Weight {
  const uint8_t* data;
  const float* bias;  // [n_out] or null
  int32_t n_in, n_out;
  Kind kind;
  int32_t padding;
};

constexpr int group_bytes(Kind kind) {
  return kind == Kind::q4 ? kColumns * (2 + 2 + 16) : kind == Kind::q8 ? kColumns * (2 + 32) : kWideColumns * kGroup * 2;
}
constexpr int block_columns(Kind kind) { return kind == Kind::bf16 ? kWideColumns : kColumns; }

// 32 inputs of a row in 8 bits, with what its products need.
struct Quantised {
  int8_t quants[kGroup];
  float scale;
  float sum;       // scale * sum of quants: what a weight's minimum is multiplied with
  int32_t offset;  // -128 * sum of quants: undoes the offset of 8-bit weights
};

// Rows as the linears want them, bf16 or in 8 bits: tiles of up to kTile rows, in which a group of all rows is followed by the next
// group. So the arithmetic walks through a tile with one pointer.
class Activations {
 public:
  void resize(int n_rows, int n_in, bool is_bf16) {
    n_in_ = n_in;
    is_bf16_ = is_bf16;
    n_tiles_ = (n_rows + kTile - 1) / kTile;
    tile_ = tile_of(n_rows);
    const size_t n_groups = static_cast<size_t>(n_tiles_) * tile_ * (n_in / kGroup);
    if (is_bf16 && wide_.size() < n_groups * kGroup) wide_.resize(n_groups * kGroup);
    if (!is_bf16 && quantised_.size() < n_groups) quantised_.resize(n_groups);
  }

  // Rows of each tile of so many rows.
  static int tile_of(int n_rows) {
    const int n_tiles = (n_rows + kTile - 1) / kTile;
    return n_tiles ? (n_rows + n_tiles - 1) / n_tiles : 1;
  }

  // Row `to` becomes row `row` of another, of the same kind and width.
  void copy(const Activations& other, int row, int to) {
    for (int group = 0; group < n_in_ / kGroup; ++group)
      if (is_bf16_) std::memcpy(&wide_[place(to, group) * kGroup], other.wide(row, group), kGroup * sizeof(bf16));
      else quantised_[place(to, group)] = *other.quantised(row, group);
  }

  int n_in() const { return n_in_; }
  int tile() const { return tile_; }  // rows of a tile; the last has what is left
  const Quantised* quantised(int row, int group) const { return &quantised_[place(row, group)]; }
  const bf16* wide(int row, int group) const { return &wide_[place(row, group) * kGroup]; }

  // A row as the linears mean it, [n_in].
  void floats(int row, float* out) const {
    for (int group = 0; group < n_in_ / kGroup; ++group, out += kGroup) {
      if (is_bf16_) {
        const bf16* values = wide(row, group);
        for (int k = 0; k < kGroup; ++k) out[k] = to_float(values[k]);
      } else {
        const Quantised& values = *quantised(row, group);
        for (int k = 0; k < kGroup; ++k) out[k] = values.scale * static_cast<float>(values.quants[k]);
      }
    }
  }

  // Write inputs [at, at + 32) of a row.
  void put(int row, int at, Floats low, Floats high) {
    const size_t group = place(row, at / kGroup);
    if (is_bf16_) {
      store_bf16(&wide_[group * kGroup], low);
      store_bf16(&wide_[group * kGroup + kLanes], high);
    } else {
      quantise(quantised_[group], low, high);
    }
  }

 private:
  size_t place(int row, int group) const { return (static_cast<size_t>(row / tile_) * (n_in_ / kGroup) + group) * tile_ + row % tile_; }

  static void quantise(Quantised& out, Floats low, Floats high) {
    // As integers NaN and infinity are the largest magnitudes: they reach the scale and cannot get lost in rounding.
    const Ints magnitude = splat_int(0x7fffffff);
    const uint32_t largest = largest_of(
        max(both(as_ints(low), magnitude), both(as_ints(high), magnitude)));
    float peak;
    std::memcpy(&peak, &largest, 4);
    const float scale = std::isfinite(peak) ? peak / 127.0f : NAN;
    const Floats inverse = splat(scale > 0 ? 127.0f / peak : 0.0f);
    const Ints a = rounded(mul(low, inverse)), b = rounded(mul(high, inverse));
    store_bytes(out.quants, a);
    store_bytes(out.quants + kLanes, b);
    const int sum = sum_of(add(a, b));
    out.scale = scale;
    out.sum = scale * static_cast<float>(sum);
    out.offset = -128 * sum;
  }

  int n_in_ = 0, n_tiles_ = 0, tile_ = 1;
  bool is_bf16_ = false;
  std::vector<bf16> wide_;
  std::vector<Quantised> quantised_;
};

enum class Store { overwrite, add };

inline Floats plus_bias(const Weight& w, int column, Floats sum) {
  return w.bias ? add(sum, load(first_lanes(w.n_out - column), w.bias + column)) : sum;
}

// A low-rank product beside a linear (`adapters.hpp`). Each block of 32 outputs belongs to some `rank` of the ranks, or to none.
struct LowRank {
  const float* down;      // [n_ranks][n_in]
  const float* up;        // [n_out / 32][rank][32]
  const int32_t* begins;  // of each block of outputs the first of its ranks; -1: none
  int32_t n_ranks, rank;  // n_ranks is 0 if there is nothing beside this linear
};

// What adapters add to the results of linear `number`.
struct Added {
  const LowRank* const* of = nullptr;  // of each row its adapter, or null; null if no row has one
  const float* inner = nullptr;        // x @ down.T, [rows][stride]
  size_t stride = 0;
  int number = 0;

  Floats to(const Weight& w, int row, int column, Floats sum) const { return of ? product(w, row, column, sum) : sum; }

  // Kept out of the loops of a linear, whose registers are few.
  [[gnu::noinline]] Floats product(const Weight& w, int row, int column, Floats sum) const {
    if (!of[row] || column >= w.n_out) return sum;
    const LowRank& low = of[row][number];
    const int begin = low.n_ranks ? low.begins[column / kGroup] : -1;
    if (begin < 0) return sum;
    const float* x = inner + row * stride + begin;
    const float* up = low.up + static_cast<size_t>(column / kGroup) * low.rank * kGroup + column % kGroup;
    for (int r = 0; r < low.rank; ++r, up += kGroup) sum = fmadd(splat(x[r]), load(up), sum);
    return sum;
  }
};

// Where a linear's results go: y [n_rows][stride], overwritten or added to.
struct Target {
  float* y;
  size_t stride;
  Store how;
  Added added{};

  // Some time before `put`: a result's place is rarely in the cache.
  void fetch(int row, int column) const { __builtin_prefetch(y + row * stride + column, 1); }

  void put(const Weight& w, int row, int column, Floats sum) const {
    float* place = y + row * stride + column;
    const Lanes lanes = first_lanes(w.n_out - column);
    sum = added.to(w, row, column, plus_bias(w, column, sum));
    if (how == Store::add) sum = add(sum, load(lanes, place));
    store(place, lanes, sum);
  }
};

// While a tile passes over a block of weights it asks for its part of the next block, so that memory is read as evenly as the
// multipliers work. A lone row is no match for the hardware's own prefetching.
struct Ahead {
  int part, n_parts;

  // Of the bytes of a group.
  int begin(int n_bytes) const { return n_bytes / 64 * part / n_parts * 64; }
  int end(int n_bytes) const { return n_bytes / 64 * (part + 1) / n_parts * 64; }
};

// R rows of a tile times one block of 32 columns in 4 or 8 bits. Within a group sums are integers, exact in any order.
template <Kind kind, int R, class Into>
inline void multiply_block(const Weight& w, int block, const Activations& x, int row, const Into& target, Ahead ahead) {
  constexpr int kBytes = group_bytes(kind), kScales = kColumns * 2;
  const int n_groups = w.n_in / kGroup, n_tile = x.tile(), next = n_groups * kBytes;
  const int next_begin = ahead.begin(kBytes), next_end = ahead.end(kBytes);
  const uint8_t* record = w.data + static_cast<size_t>(block) * next;
  const Quantised* group = x.quantised(row, 0);
  Floats sum[R][2];
  for (auto& line : sum)
    for (auto& part : line) part = zeros();
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < 2; ++c) target.fetch(row + r, block * kColumns + c * kLanes);
  for (int g = 0; g < n_groups; ++g, record += kBytes, group += n_tile) {
    if constexpr (R > 1)
      for (int i = next_begin; i < next_end; i += 64) _mm_prefetch(record + next + i, _MM_HINT_T0);
    Ints dot[R][2];
    for (int r = 0; r < R; ++r)
      for (auto& part : dot[r]) part = kind == Kind::q4 ? zero_ints() : splat_int(group[r].offset);
    const auto take = [&](int input, Ints left, Ints right) {
      for (int r = 0; r < R; ++r) {
        const Ints value = broadcast_dword(group[r].quants + input);
        dot[r][0] = dot_bytes<kind == Kind::q4>(dot[r][0], left, value);
        dot[r][1] = dot_bytes<kind == Kind::q4>(dot[r][1], right, value);
      }
    };
    if constexpr (kind == Kind::q4) {
      for (int j = 0; j < 4; ++j) {
        const Ints left = load_ints(record + 2 * kScales + j * 128), right = load_ints(record + 2 * kScales + j * 128 + 64);
        take(8 * j, low_nibbles(left), low_nibbles(right));
        take(8 * j + 4, high_nibbles(left), high_nibbles(right));
      }
    } else {
      for (int j = 0; j < 8; ++j)
        take(4 * j, load_ints(record + kScales + j * 128), load_ints(record + kScales + j * 128 + 64));
    }
    for (int c = 0; c < 2; ++c) {
      const Floats scale = from_half(reinterpret_cast<const half*>(record) + c * kLanes);
      for (int r = 0; r < R; ++r)
        sum[r][c] = fmadd(to_floats(summed<kind == Kind::q4>(dot[r][c])), mul(scale, splat(group[r].scale)), sum[r][c]);
      if constexpr (kind == Kind::q4) {
        const Floats minimum = from_half(reinterpret_cast<const half*>(record + kScales) + c * kLanes);
        for (int r = 0; r < R; ++r) sum[r][c] = fmadd(minimum, splat(group[r].sum), sum[r][c]);
      }
    }
  }
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < 2; ++c) target.put(w, row + r, block * kColumns + c * kLanes, sum[r][c]);
}

// R rows of a tile times one block of 64 columns in bf16.
template <int R, class Into>
inline void multiply_bf16(const Weight& w, int block, const Activations& x, int row, const Into& target, Ahead ahead) {
  constexpr int kBytes = group_bytes(Kind::bf16);
  const int n_groups = w.n_in / kGroup, n_tile = x.tile(), next = n_groups * kBytes;
  const int next_begin = ahead.begin(kBytes), next_end = ahead.n_parts > 2 ? ahead.end(kBytes) : next_begin;
  const uint8_t* panel = w.data + static_cast<size_t>(block) * next;
  const bf16* group = x.wide(row, 0);
  Floats sum[R][4];
  for (auto& line : sum)
    for (auto& part : line) part = zeros();
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < 4; ++c) target.fetch(row + r, block * kWideColumns + c * kLanes);
  for (int g = 0; g < n_groups; ++g, panel += kBytes, group += n_tile * kGroup) {
    const bf16* pairs = reinterpret_cast<const bf16*>(panel);
    if (ahead.n_parts <= 2 && ahead.part == 0) {  // as memory is the slower, it is best asked in its own order
      multiply_panel<R, kPairsAhead>(sum, group, kGroup, pairs, kGroup / 2);
    } else {
      for (int i = next_begin; i < next_end; i += 64) _mm_prefetch(panel + next + i, _MM_HINT_T0);
      multiply_panel<R>(sum, group, kGroup, pairs, kGroup / 2);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < 4; ++c) target.put(w, row + r, block * kWideColumns + c * kLanes, sum[r][c]);
}

// The pieces of a linear over `n_rows` rows; `n_together` blocks, one after the other, are one piece.
// Memory: the weight once for each panel of some 70 rows; a block of it stays in the first-level cache while they pass.
struct Pieces {
  int n_blocks, n_together, n_rows, n_panel, n_across;

  Pieces(const Weight& w, int n_rows, int n_together = 1)
      : n_blocks((w.n_out + block_columns(w.kind) - 1) / block_columns(w.kind)), n_together(n_together), n_rows(n_rows),
        n_panel(kPanelTiles * Activations::tile_of(n_rows)), n_across((n_blocks + n_together - 1) / n_together) {}

  int n() const { return n_across * ((n_rows + n_panel - 1) / n_panel); }

  // Piece i of x @ w.T + bias, into `target`.
  template <class Into>
  void run(int i, const Weight& w, const Activations& x, const Into& target) const {
    const int first = i % n_across * n_together, begin = i / n_across * n_panel, end = std::min(n_rows, begin + n_panel);
    for (int block = first; block < std::min(n_blocks, first + n_together); ++block) {
      Ahead ahead{0, (end - begin + x.tile() - 1) / x.tile()};
      for (int row = begin; row < end; row += x.tile(), ++ahead.part) with_rows(std::min(x.tile(), end - row), [&]<int R>() {
        switch (w.kind) {
          case Kind::q4: return multiply_block<Kind::q4, R>(w, block, x, row, target, ahead);
          case Kind::q8: return multiply_block<Kind::q8, R>(w, block, x, row, target, ahead);
          case Kind::bf16: return multiply_bf16<R>(w, block, x, row, target, ahead);
        }
      });
    }
  }
};

// One phase: x @ w.T + bias into `target`.
template <class Into>
inline void linear(Member& me, const Weight& w, const Activations& x, int n_rows, const Into& target, int n_together = 1) {
  const Pieces pieces(w, n_rows, n_together);
  me.share(pieces.n(), 1, [&](int i) { pieces.run(i, w, x, target); });
}

// Row `row` of the weight as floats [n_in]: how an embedding is looked up.
inline void weight_row(const Weight& w, int row, float* out) {
  const int n_groups = w.n_in / kGroup, columns = block_columns(w.kind), column = row % columns;
  const uint8_t* record = w.data + static_cast<size_t>(row / columns) * n_groups * group_bytes(w.kind);
  for (int g = 0; g < n_groups; ++g, record += group_bytes(w.kind), out += kGroup) {
    if (w.kind == Kind::bf16) {
      for (int k = 0; k < kGroup; ++k) out[k] = to_float(reinterpret_cast<const bf16*>(record)[k / 2 * kWideColumns * 2 + column * 2 + k % 2]);
      continue;
    }
    const half* halves = reinterpret_cast<const half*>(record);
    const float scale = _cvtsh_ss(halves[column]);
    for (int k = 0; k < kGroup; ++k) {
      if (w.kind == Kind::q4) {
        const int both = record[kColumns * 4 + k / 8 * 128 + column * 4 + k % 4];
        out[k] = scale * static_cast<float>(k % 8 < 4 ? both & 15 : both >> 4) + _cvtsh_ss(halves[kColumns + column]);
      } else {
        out[k] = scale * static_cast<float>(record[kColumns * 2 + k / 4 * 128 + column * 4 + k % 4] - 128);
      }
    }
  }
}

}  // namespace sgl
