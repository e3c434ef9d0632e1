// From the logits of one token to the next token, all on one thread: the sums of a row of logits are always taken in the same order.
//
// `sampler.py` does the same with torch and says what the parameters mean.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "simd.hpp"

namespace sgl {

constexpr int kMostTop = 20;

struct Tokens {
  const int32_t* ids;
  int32_t n, padding;

  const int32_t* begin() const { return ids; }
  const int32_t* end() const { return ids + n; }
};

struct Bias {
  int32_t token;
  float add;  // minus infinity bans
};

// After one token of the step: how to draw the next one, and which logprobs to read.
struct SamplingRequest {
  int32_t token;      // flat index
  int32_t n_top;      // of the likeliest tokens, at most kMostTop
  Tokens candidates;  // tokens whose logprobs are wanted
  float* scores;      // of the candidates, written
  double temperature;     // 0: the likeliest token is the next
  double uniform;         // in [0, 1): where in the distribution to draw
  double top_p, min_p;
  double repetition, frequency, presence;
  Tokens prompt, generated, drafted;  // none where no penalty asks for them
  const Bias* bias;
  const uint32_t* mask;   // bit t % 32 of word t / 32: may token t be drawn; null: all may
  int32_t top_k, n_bias;
};

// All logprobs are the model's own.
struct Choice {
  float log_total;   // logsumexp of the logits; not finite where a logit is NaN or infinite
  int32_t is_drawn;  // 0: no token may be drawn, or the logits are not finite
  int32_t token;
  float logprob;
  float seconds;     // that all this took
  int32_t top_tokens[kMostTop];
  float top_logprobs[kMostTop];
};

// The largest of the values offered, best first; of equal ones, those offered first.
class Largest {
 public:
  explicit Largest(int most) : most_(most) {}

  bool takes(float value) const { return n_ < most_ || value > values_[n_ - 1]; }
  void offer(float value, int token) {
    if (!takes(value)) return;
    int at = n_ < most_ ? n_++ : n_ - 1;
    for (; at > 0 && value > values_[at - 1]; --at) values_[at] = values_[at - 1], tokens_[at] = tokens_[at - 1];
    values_[at] = value, tokens_[at] = token;
  }

  int n() const { return n_; }
  float value(int i) const { return values_[i]; }
  int token(int i) const { return tokens_[i]; }

  // Lanes of v that may be taken.
  Lanes among(Lanes lanes, Floats v) const {
    return n_ < most_ ? lanes : lanes & above(v, splat(values_[n_ - 1]));
  }

 private:
  const int most_;
  int n_ = 0;
  float values_[kMostTop];
  int tokens_[kMostTop];
};

// Sum of weights >= floor in double precision.
inline Doubles add_heavy(Doubles sum, Floats weights, Lanes lanes) {
  return add_floats(sum, keep(lanes, weights));
}

// Serves requests, one after the other; each thread has its own.
class Sampler {
 public:
  // `logits` [n] are the same afterwards.
  Choice choose(float* logits, int n, const SamplingRequest& request) {
    const auto started = std::chrono::steady_clock::now();
    logits_ = logits;
    n_ = n;
    mask_ = nullptr;
    Choice choice{};
    const Largest top = largest(std::max(1, request.n_top));
    choice.log_total = top.value(0) + std::log(total(top.value(0)));
    for (int i = 0; i < std::min(request.n_top, top.n()); ++i) {
      choice.top_tokens[i] = top.token(i);
      choice.top_logprobs[i] = top.value(i) - choice.log_total;
    }
    for (int i = 0; i < request.candidates.n; ++i) request.scores[i] = logits[request.candidates.ids[i]] - choice.log_total;
    if (std::isfinite(choice.log_total)) draw(request, top, choice);
    choice.seconds = std::chrono::duration<float>(std::chrono::steady_clock::now() - started).count();
    return choice;
  }

 private:
  static constexpr int kBlock = 512;  // tokens whose weights are summed before they are looked at one by one

  Lanes allowed(int i) const {
    const Lanes lanes = first_lanes(n_ - i);
    return mask_ ? lanes & static_cast<Lanes>(mask_[i / 32] >> (i % 32)) : lanes;
  }

  Largest largest(int most) const {
    Largest found(most);
    for (int i = 0; i < n_; i += kLanes) {
      const Lanes lanes = allowed(i);
      for (unsigned left = found.among(lanes, load(lanes, logits_ + i)); left; left &= left - 1) {
        const int token = i + __builtin_ctz(left);
        found.offer(logits_[token], token);
      }
    }
    return found;
  }

  // Sum of exp(logit - best).
  float total(float best) const {
    Floats sum = zeros();
    for (int i = 0; i < n_; i += kLanes) {
      const Lanes lanes = first_lanes(n_ - i);
      sum = add_where(lanes, sum, weight(lanes, i, best, kLog2e));
    }
    return sum_of(sum);
  }

  Floats weight(Lanes lanes, int i, float best, float scale) const {
    return exp2_of(mul(sub(load(lanes, logits_ + i), splat(best)), splat(scale)));
  }

  void draw(const SamplingRequest& request, const Largest& top, Choice& choice) {
    float best = top.value(0);
    choice.token = top.token(0);
    choice.is_drawn = true;
    mask_ = request.mask;
    shape(request);
    if (mask_ || !changed_.empty()) {
      const Largest left = largest(1);
      choice.is_drawn = left.n() && std::isfinite(left.value(0));
      if (choice.is_drawn) best = left.value(0), choice.token = left.token(0);
    }
    if (choice.is_drawn && request.temperature > 0) choice.token = drawn(request, best);
    while (!changed_.empty()) {
      logits_[changed_.back().token] = changed_.back().logit;
      changed_.pop_back();
    }
    choice.logprob = logits_[choice.token] - choice.log_total;
  }

  // Penalties and bias, until `changed_` is undone.
  void shape(const SamplingRequest& request) {
    counts_.resize(n_);
    const auto change = [&](int token, float logit) {
      changed_.push_back({token, logits_[token]});
      logits_[token] = logit;
    };
    const auto count = [&](const Tokens& tokens) { for (int token : tokens) ++counts_[token]; };
    const auto change_counted = [&](const Tokens& tokens, auto changed) {
      for (int token : tokens)
        if (const int n = std::exchange(counts_[token], 0)) change(token, changed(logits_[token], n));
    };
    const auto repeated = [by = static_cast<float>(request.repetition)](float logit, int) { return logit > 0 ? logit / by : logit * by; };
    const auto frequent = [&](float logit, int n) { return logit - static_cast<float>(request.frequency * n + request.presence); };
    for (const Tokens* seen : {&request.prompt, &request.generated, &request.drafted}) count(*seen);
    for (const Tokens* seen : {&request.prompt, &request.generated, &request.drafted}) change_counted(*seen, repeated);
    for (const Tokens* seen : {&request.generated, &request.drafted}) count(*seen);
    for (const Tokens* seen : {&request.generated, &request.drafted}) change_counted(*seen, frequent);
    for (int i = 0; i < request.n_bias; ++i) change(request.bias[i].token, logits_[request.bias[i].token] + request.bias[i].add);
  }

  // By inverse CDF over what truncation leaves, in the order of the vocabulary.
  int drawn(const SamplingRequest& request, float best) {
    weights_.resize(round_up(n_, kBlock));
    const float scale = kLog2e / static_cast<float>(std::max(request.temperature, 1e-30));
    for (int i = 0; i < n_; i += kLanes) {
      const Lanes lanes = allowed(i);
      store(&weights_[i], lanes ? keep(lanes, weight(lanes, i, best, scale)) : zeros());
    }
    std::fill(weights_.begin() + round_up(n_, kLanes), weights_.end(), 0.0f);
    const float floor = std::max(least_weight(request), std::numeric_limits<float>::denorm_min());
    sums_.clear();
    double total = 0;
    for (size_t block = 0; block < weights_.size(); block += kBlock) {
      Doubles sum = zero_doubles();
      for (size_t i = block; i < block + kBlock; i += kLanes) {
        const Floats v = load(&weights_[i]);
        sum = add_heavy(sum, v, at_least(v, splat(floor)));
      }
      sums_.push_back(sum_of(sum));
      total += sums_.back();
    }
    const double point = request.uniform * total;
    double before = 0;
    size_t block = 0;
    for (; block + 1 < sums_.size() && before + sums_[block] <= point; ++block) before += sums_[block];
    int token = 0;
    for (size_t i = block * kBlock; i < (block + 1) * kBlock; ++i)
      if (weights_[i] >= floor) {
        token = static_cast<int>(i);  // a point that rounding put on the very end belongs to the last
        before += weights_[i];
        if (before > point) break;
      }
    return token;
  }

  // The least weight that may still be drawn; the best token's is 1. Tokens that tie with it stay.
  float least_weight(const SamplingRequest& request) {
    float least = static_cast<float>(request.min_p);
    double mass = 0;
    if (request.top_k < n_) {
      const Cut cut = lightest([&](int n, double) { return n >= request.top_k; });
      least = std::max(least, cut.weight);
      mass = cut.mass_above + static_cast<double>(cut.weight) * (request.top_k - cut.n_above);
    } else if (request.top_p < 1) {
      Doubles sum = zero_doubles();
      for (size_t i = 0; i < weights_.size(); i += kLanes) sum = add_heavy(sum, load(&weights_[i]), 0xffff);
      mass = sum_of(sum);
    }
    if (request.top_p < 1) least = std::max(least, lightest([&](int, double above) { return above >= request.top_p * mass; }).weight);
    return least;
  }

  struct Cut {
    float weight;
    int n_above;        // tokens that weigh more
    double mass_above;  // what they weigh together
  };

  // The lightest of the heaviest tokens that are `enough`. Halves the floats between 0 and 1, whose bits are in their order,
  // after a few steps down from 1; what is out of the question is dropped as soon as it is known.
  template <class Enough>
  Cut lightest(Enough enough) {
    constexpr uint32_t one = 0x3f800000;
    uint32_t low = 0, high = one + 1;  // from low on they are enough, from high on they are not
    Cut cut{0, 0, 0};                  // of high
    left_.resize(weights_.size() + kLanes);
    const float* from = weights_.data();
    int n = static_cast<int>(weights_.size());
    for (uint32_t step = 8u << 23; high - low > 1; step = std::min(2 * step, one)) {
      const uint32_t middle = low == 0 && step < one ? one - step : low + (high - low) / 2;
      float bound;
      std::memcpy(&bound, &middle, 4);
      const auto heavy = [&](Floats v) { return at_least(v, splat(bound)); };
      Doubles sum = zero_doubles();
      int n_above = cut.n_above;
      for (int i = 0; i < n; i += kLanes) {
        const Floats v = load(first_lanes(n - i), from + i);
        const Lanes lanes = heavy(v) & first_lanes(n - i);
        n_above += __builtin_popcount(lanes);
        sum = add_heavy(sum, v, lanes);
      }
      const double mass_above = cut.mass_above + sum_of(sum);
      const bool is_enough = enough(n_above, mass_above);
      (is_enough ? low : high) = middle;
      if (!is_enough) cut.n_above = n_above, cut.mass_above = mass_above;
      int n_left = 0;
      for (int i = 0; i < n; i += kLanes) {
        const Floats v = load(first_lanes(n - i), from + i);
        const Lanes lanes = first_lanes(n - i) & (is_enough ? heavy(v) : ~heavy(v));
        store_kept(&left_[n_left], lanes, v);
        n_left += __builtin_popcount(lanes);
      }
      from = left_.data();
      n = n_left;
    }
    std::memcpy(&cut.weight, &low, 4);
    return cut;
  }

  struct Changed {
    int token;
    float logit;  // as it was
  };

  float* logits_ = nullptr;
  int n_ = 0;
  const uint32_t* mask_ = nullptr;  // while a token is drawn
  std::vector<Changed> changed_;    // in the order of change
  std::vector<int> counts_;         // of each token, 0 between uses
  std::vector<float> weights_, left_;
  std::vector<double> sums_;
};

}  // namespace sgl
