// Low-rank products beside the linears of a model (LoRA), for the tokens that have an adapter: y = x @ w.T + bias + (x @ down.T) @ up.T.
//
// x is what the linear reads, rounded as it is; the rest is floats. A token's result is a function of that token and its adapter alone.
#pragma once

#include <algorithm>
#include <vector>

#include "linear.hpp"

namespace sgl {

enum Beside : int { kQkv = 0, kOut = 1, kUp = 2, kDown = 3, kLinears = 4 };

// The phase before a linear, in which `x @ down.T` is computed, and what its results then need.
class Adapters {
 public:
  // Nothing has an adapter, unless `give` says so.
  void begin(int n_tokens) {
    n_most_ = 0;
    tokens_.clear();
    of_.assign(n_tokens, nullptr);
  }

  // Tokens [begin, end) have the adapter `products` [n_linears].
  void give(int begin, int end, const LowRank* products, int n_linears) {
    for (int i = 0; i < n_linears; ++i) n_most_ = std::max(n_most_, products[i].n_ranks);
    for (int token = begin; token < end; ++token) tokens_.push_back(token), of_[token] = products;
  }

  // When all are given.
  void make_room() {
    if (inner_.size() < of_.size() * n_most_) inner_.resize(of_.size() * n_most_);
  }

  // One phase: the inner products of linear `number` with inputs x. `row` is this thread's.
  Added beside(Member& me, int number, const Activations& x, std::vector<float>& row) {
    if (tokens_.empty()) return {};
    const int n_pieces = (n_most_ + kRanks - 1) / kRanks;
    me.share(static_cast<int>(tokens_.size()) * n_pieces, 1, [&](int i) {
      const int token = tokens_[i / n_pieces], begin = i % n_pieces * kRanks;
      const LowRank& low = of_[token][number];
      const int end = std::min(low.n_ranks, begin + kRanks);
      if (begin >= end) return;
      row.resize(std::max<size_t>(row.size(), x.n_in()));
      x.floats(token, row.data());
      float* out = &inner_[static_cast<size_t>(token) * n_most_];
      const float* down = low.down + static_cast<size_t>(begin) * x.n_in();
      int r = begin;
      for (; r + kRanksAtOnce <= end; r += kRanksAtOnce, down += kRanksAtOnce * x.n_in()) dot<kRanksAtOnce>(row.data(), down, x.n_in(), out + r);
      for (; r < end; ++r, down += x.n_in()) dot<1>(row.data(), down, x.n_in(), out + r);
    });
    return {of_.data(), inner_.data(), static_cast<size_t>(n_most_), number};
  }

 private:
  static constexpr int kRanks = 16;  // of a piece
  static constexpr int kRanksAtOnce = 4;

  // x [n] times R rows of `down`; the order of a sum does not depend on R.
  template <int R>
  static void dot(const float* x, const float* down, int n, float* out) {
    Floats sum[R];
    for (auto& part : sum) part = zeros();
    for (int k = 0; k < n; k += kLanes) {
      const Floats v = load(x + k);
      for (int r = 0; r < R; ++r) sum[r] = fmadd(v, load(down + static_cast<size_t>(r) * n + k), sum[r]);
    }
    for (int r = 0; r < R; ++r) out[r] = sum_of(sum[r]);
  }

  int n_most_ = 0;                    // ranks beside one linear
  std::vector<int> tokens_;           // that have an adapter
  std::vector<const LowRank*> of_;    // of each token, or null
  std::vector<float> inner_;          // [tokens][n_most_]
};

}  // namespace sgl
