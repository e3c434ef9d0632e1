// A feed-forward of sparse experts: each token passes through those that its router scores highest, and through a shared one.
//
// The pairs of a token and one of its experts are sorted by expert, so that each weight is read once for all its tokens. A row of a
// linear depends on that row alone, and a token's experts are summed in the order of their numbers: a token's result depends on no other.
#pragma once

#include <cmath>
#include <cstring>
#include <vector>

#include "rows.hpp"

namespace sgl {

// The shared expert, if there is one, is the last: its router's row comes after those of the others.
struct Experts {
  int32_t count, top_k;
  int32_t has_shared;
  int32_t is_normalised;  // the weights of what a token chose sum to 1
  const float* router;    // [count, and 1 with a shared expert][hidden]
  const Weight* up;       // of each: gate and up, or up
  const Weight* down;

  int n_groups() const { return count + has_shared; }
  int n_pairs() const { return top_k + has_shared; }  // of a token
};

// Which tokens go where, in one layer of one step: kept until the step is over, for threads that are late.
struct Routing {
  std::vector<int> expert;     // [tokens][pairs of each], ascending
  std::vector<float> weight;   // the same
  std::vector<int> place;      // the same: the row of each pair among those of its expert
  std::vector<int> n_rows;     // of each expert

  void resize(const Experts& experts, int n_tokens) {
    expert.resize(static_cast<size_t>(n_tokens) * experts.n_pairs());
    weight.resize(expert.size());
    place.resize(expert.size());
    n_rows.assign(experts.n_groups(), 0);
  }

  // The experts of token i, whose normed row is x.
  void choose(const Experts& experts, int i, const float* x, int hidden, std::vector<float>& scores) {
    scores.resize(experts.n_groups());
    for (int e = 0; e < experts.n_groups(); ++e) {
      const float* row = experts.router + static_cast<size_t>(e) * hidden;
      Floats sum = zeros();
      for (int k = 0; k < hidden; k += kLanes) sum = fmadd(load(x + k), load(row + k), sum);
      scores[e] = sum_of(sum);
    }
    int* mine = &expert[static_cast<size_t>(i) * experts.n_pairs()];
    float* weights = &weight[static_cast<size_t>(i) * experts.n_pairs()];
    float peak = scores[0];
    for (int e = 1; e < experts.count; ++e) peak = std::max(peak, scores[e]);
    float total = 0, taken = 0;
    for (int e = 0; e < experts.count; ++e) total += std::exp(scores[e] - peak);
    for (int k = 0; k < experts.top_k; ++k) {
      int best = -1;
      for (int e = 0; e < experts.count; ++e)
        if (std::find(mine, mine + k, e) == mine + k && (best < 0 || scores[e] > scores[best])) best = e;
      mine[k] = best;
    }
    std::sort(mine, mine + experts.top_k);
    for (int k = 0; k < experts.top_k; ++k) taken += weights[k] = std::exp(scores[mine[k]] - peak) / total;
    for (int k = 0; k < experts.top_k && experts.is_normalised; ++k) weights[k] /= taken;
    if (experts.has_shared) {
      mine[experts.top_k] = experts.count;
      weights[experts.top_k] = 1.0f / (1.0f + std::exp(-scores[experts.count]));
    }
  }

  // What token i chose, the largest weight first; returns the place after it.
  int32_t* ranked(const Experts& experts, int i, int32_t* out) const {
    const int* mine = &expert[static_cast<size_t>(i) * experts.n_pairs()];
    const float* weights = &weight[static_cast<size_t>(i) * experts.n_pairs()];
    for (int k = 0; k < experts.top_k; ++k) {
      int at = k;
      for (; at > 0 && weights[out[at - 1]] < weights[k]; --at) out[at] = out[at - 1];
      out[at] = k;
    }
    for (int k = 0; k < experts.top_k; ++k) out[k] = mine[out[k]];
    return out + experts.top_k;
  }

  // When all tokens have chosen.
  void group() {
    for (size_t pair = 0; pair < expert.size(); ++pair) place[pair] = n_rows[expert[pair]]++;
  }
};

// The buffers of a mixture: of each expert the rows that pass through it.
class Mixture {
 public:
  // Phases: the tokens choose; their rows go to the experts; these compute; the results are summed and given to `add`(token, row).
  // `normed` has the tokens' rows as the linears want them and `put` writes them, as floats too.
  template <class Norm, class Add>
  void run(Member& me, const Experts& experts, Routing& routing, const Activations& normed, int n_tokens, int hidden, Activation activation,
           bool is_gated, bool is_bf16, std::vector<float>& scores, Norm norm, Add add_row) {
    const int n_pairs = experts.n_pairs();
    me.share(n_tokens, 1, [&](int i) { routing.choose(experts, i, norm(i), hidden, scores); });
    me.share(1, 1, [&](int) {
      routing.group();
      begin(experts, routing, hidden, is_bf16, is_gated);
    });
    me.share(n_tokens * n_pairs, 4, [&](int pair) { in_[routing.expert[pair]].copy(normed, pair / n_pairs, routing.place[pair]); });
    each_piece(me, experts, routing, [&](int e) { return Up(experts.up[e], activation, is_gated, routing.n_rows[e]).pieces.n(); },
               [&](int e, int i) { Up(experts.up[e], activation, is_gated, routing.n_rows[e]).run(i, in_[e], middle_[e]); });
    each_piece(me, experts, routing, [&](int e) { return Pieces(experts.down[e], routing.n_rows[e]).n(); }, [&](int e, int i) {
      Pieces(experts.down[e], routing.n_rows[e]).run(i, experts.down[e], middle_[e], Target{out_[e].data(), size_t(hidden), Store::overwrite});
    });
    me.share(n_tokens, 1, [&](int i) {
      for (int k = 0; k < hidden; k += kLanes) {
        Floats sum = zeros();
        for (int j = i * n_pairs; j < (i + 1) * n_pairs; ++j)
          sum = fmadd(load(&out_[routing.expert[j]][size_t(routing.place[j]) * hidden + k]), splat(routing.weight[j]), sum);
        add_row(i, k, sum);
      }
    });
  }

 private:
  void begin(const Experts& experts, const Routing& routing, int hidden, bool is_bf16, bool is_gated) {
    const size_t n = experts.n_groups();
    if (in_.size() < n) in_.resize(n), middle_.resize(n), out_.resize(n);
    for (size_t e = 0; e < n; ++e) {
      const int n_rows = routing.n_rows[e];
      in_[e].resize(n_rows, hidden, is_bf16);
      middle_[e].resize(n_rows, is_gated ? experts.up[e].n_out / 2 : experts.up[e].n_out, is_bf16);
      if (out_[e].size() < size_t(n_rows) * hidden) out_[e].resize(size_t(n_rows) * hidden);
    }
  }

  // One phase of all pieces of all experts that have rows.
  template <class Count, class Run>
  static void each_piece(Member& me, const Experts& experts, const Routing& routing, Count count, Run run) {
    std::vector<int> ends;
    std::vector<int> numbers;
    int n = 0;
    for (int e = 0; e < experts.n_groups(); ++e) {
      if (!routing.n_rows[e]) continue;
      numbers.push_back(e);
      ends.push_back(n += count(e));
    }
    me.share(n, 1, [&](int i) {
      const auto at = std::upper_bound(ends.begin(), ends.end(), i) - ends.begin();
      run(numbers[at], at ? i - ends[at - 1] : i);
    });
  }

  std::vector<Activations> in_, middle_;
  std::vector<std::vector<float>> out_;
};

}  // namespace sgl
