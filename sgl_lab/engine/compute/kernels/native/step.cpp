// One step of a decoder: token ids in, logits out, in one call that needs neither Python nor torch.
//
// The caller owns all weights, pages and results and keeps them alive; a Step owns its threads and its
// scratch memory. Results of a row depend on no other row and on no chunking, bit for bit.
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <iterator>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "adapters.hpp"
#include "attention.hpp"
#include "linear.hpp"
#include "mixture.hpp"
#include "rows.hpp"
#include "sampling.hpp"

namespace sgl {

// Norms that a layer does not have are null. Its heads are those of all layers, but for how they read.
struct Layer {
  const float *attention_norm, *attention_out_norm, *mlp_norm, *mlp_out_norm;  // [hidden]: of the input and of the output
  const float *q_norm, *k_norm;  // [head_dim], or [heads * head_dim] if they are of all heads together
  Weight qkv, out, up, down;     // up: gate and up in turn, 32 outputs each, if there is a gate
  Pages pages;
  Shape shape;
  int32_t norms_whole;  // q_norm and k_norm
  int32_t turning;      // which of the model's rotations; -1: none
  Activation activation;
  int32_t is_gated;
  const Experts* experts;  // or null; up and down then have no numbers
};

// Rotary positions of the first `dims` dimensions of a head.
struct Rotation {
  const float* frequencies;  // [dims / 2], angle per position
  int32_t dims;
  float amplitude;  // of cosines and sines
};

struct Model {
  int32_t n_layers, hidden, ffn, vocab;  // ffn: of layers without experts
  int32_t n_rotations;
  int32_t is_bf16;  // activations between the linears; else 8-bit in groups of 32
  float epsilon, embedding_scale, residual_scale, logit_scale;
  float logit_softcap;  // 0: none
  int32_t padding;
  const Rotation* rotations;
  const float* norm;  // [hidden]
  Weight embedding, head;
  const Layer* layers;
};

// Rows of one step, one after the other: row i has tokens [offsets[i], offsets[i + 1]) at positions from starts[i].
struct Rows {
  int32_t n_rows, n_tokens;
  const int32_t* tokens;
  const int32_t* offsets;
  const int32_t* starts;
  const int32_t* const* pages;  // of each row: its page ids from position 0 to its last token
  const LowRank* const* adapters;  // of each row [layers][kLinears], or null; null if no row has one
};

inline std::vector<Tile> tiles_of(const Rows& rows) {
  std::vector<Tile> tiles;
  for (int i = 0; i < rows.n_rows; ++i)
    tiles.push_back({rows.pages[i], rows.offsets[i], rows.offsets[i + 1] - rows.offsets[i], rows.starts[i], 0, kWhole});
  return tiles;
}

// The sampling requests of a step.
struct SamplingRequests {
  int32_t n;
  const SamplingRequest* requests;
  Choice* choices;  // of each request, written
};

class Step {
 public:
  Step(const Model& model, int n_threads)
      : m_(model), layers_(model.layers, model.layers + model.n_layers), rotations_(model.rotations, model.rotations + model.n_rotations),
        shape_(layers_.at(0).shape), team_(n_threads), scratch_(team_.size()), floats_(team_.size()), samplers_(team_.size()),
        routings_(layers_.size()), cosines_(rotations_.size()), sines_(rotations_.size()) {
    for (const Layer& layer : layers_) {
      const auto same = [&](const Shape& other) { return other.window == layer.shape.window; };
      plan_of_.push_back(static_cast<int>(std::find_if(windows_.begin(), windows_.end(), same) - windows_.begin()));
      if (plan_of_.back() == static_cast<int>(windows_.size())) windows_.push_back(layer.shape);
      has_out_norms_ |= layer.attention_out_norm || layer.mlp_out_norm;
      has_experts_ |= layer.experts != nullptr;
    }
    plans_.resize(windows_.size());
  }

  ~Step() {
    try {
      finish();
    } catch (...) {  // of a step that nobody waits for any more
    }
  }

  // The team's other threads set to work, and draw after `release`; the rest is done by `finish`, which comes before anything else.
  void start(const Rows& rows, const SamplingRequests& requests) {
    prepare(rows);
    requests_ = requests;
    or_want_nothing([&] {
      Team::Job job = [this, rows, some = some_requests()](Member& me) {
        begin(me, rows);
        for (size_t index = 0; index < layers_.size(); ++index) {
          attention(me, index);
          feed_forward(me, index);
        }
        choose(me, some);
      };
      is_held_.store(true);
      team_.begin(std::move(job));
    });
  }

  // The masks of the requests are there.
  void release() {
    is_held_.store(false, std::memory_order_release);
    is_held_.notify_all();
  }

  void finish() {
    or_want_nothing([&] {
      team_.finish();
      while (requests_.n > 0) team_.run([this, some = some_requests()](Member& me) { choose(me, some); });
    });
  }

  // Of each token and layer what it chose in the step that is finished.
  void experts(int32_t* chosen) const {
    for (int i = 0; i < n_; ++i)
      for (size_t layer = 0; layer < layers_.size(); ++layer)
        if (layers_[layer].experts) chosen = routings_[layer].ranked(*layers_[layer].experts, i, chosen);
  }

 private:
  static constexpr int kRequestsAtOnce = 128;

  // f(); a step that fails is over.
  template <class F>
  void or_want_nothing(F f) {
    try {
      f();
    } catch (...) {
      requests_ = {};
      throw;
    }
  }

  template <class T>
  static void grow(std::vector<T>& v, size_t n) { if (v.size() < n) v.resize(n); }

  int q_width() const { return shape_.n_heads * shape_.head_dim; }
  int kv_width() const { return shape_.n_kv_heads * shape_.head_dim; }
  int qkv_width() const { return q_width() + 2 * kv_width(); }

  void prepare(const Rows& rows) {
    n_ = rows.n_tokens;
    positions_.resize(n_);
    slots_.resize(n_);
    for (int i = 0; i < rows.n_rows; ++i)
      for (int flat = rows.offsets[i], position = rows.starts[i]; flat < rows.offsets[i + 1]; ++flat, ++position) {
        positions_[flat] = position;
        slots_[flat] = shape_.slot(rows.pages[i], position);
      }
    int n_partials = 0;
    for (size_t i = 0; i < plans_.size(); ++i) {
      plans_[i].make(tiles_of(rows), windows_[i]);
      n_partials = std::max(n_partials, plans_[i].n_partials);
    }
    grow(x_, size_t(n_) * m_.hidden);
    grow(qkv_, size_t(n_) * qkv_width());
    grow(queries_, size_t(n_) * q_width());
    for (size_t r = 0; r < rotations_.size(); ++r) {
      grow(cosines_[r], size_t(n_) * rotations_[r].dims / 2);
      grow(sines_[r], size_t(n_) * rotations_[r].dims / 2);
    }
    grow(partials_, size_t(n_partials) * shape_.n_heads * shape_.partial());
    if (has_out_norms_ || m_.residual_scale != 1) grow(mixed_, size_t(n_) * m_.hidden);
    if (has_experts_) grow(routed_, size_t(n_) * m_.hidden);
    for (size_t i = 0; i < layers_.size(); ++i)
      if (layers_[i].experts) routings_[i].resize(*layers_[i].experts, n_);
    adapters_.begin(n_);
    for (int i = 0; i < rows.n_rows && rows.adapters; ++i)
      if (rows.adapters[i]) adapters_.give(rows.offsets[i], rows.offsets[i + 1], rows.adapters[i], kLinears * m_.n_layers);
    adapters_.make_room();
    normed_.resize(n_, m_.hidden, m_.is_bf16);
    attended_.resize(n_, q_width(), m_.is_bf16);
    active_.resize(n_, m_.ffn, m_.is_bf16);
  }

  // Embeddings, and the angles of each position.
  void begin(Member& me, const Rows& rows) {
    me.share(n_, 4, [&](int i) {
      float* x = &x_[size_t(i) * m_.hidden];
      weight_row(m_.embedding, rows.tokens[i], x);
      for (int k = 0; k < m_.hidden && m_.embedding_scale != 1; k += kLanes) store(x + k, mul(load(x + k), splat(m_.embedding_scale)));
      for (size_t r = 0; r < rotations_.size(); ++r)
        for (int k = 0, half = rotations_[r].dims / 2; k < half; ++k) {
          const float angle = static_cast<float>(positions_[i]) * rotations_[r].frequencies[k];
          cosines_[r][size_t(i) * half + k] = std::cos(angle) * rotations_[r].amplitude;
          sines_[r][size_t(i) * half + k] = std::sin(angle) * rotations_[r].amplitude;
        }
    });
  }

  void norm(Member& me, const float* weight) {
    me.share(n_, 4, [&](int i) { rms_norm(&x_[size_t(i) * m_.hidden], weight, m_.hidden, m_.epsilon, normed_, i); });
  }

  // Of the tokens that have an adapter, with inputs x.
  Added beside(Member& me, size_t index, Beside which, const Activations& x) {
    return adapters_.beside(me, static_cast<int>(index) * kLinears + which, x, floats_[me.number]);
  }

  void attention(Member& me, size_t index) {
    const Layer& layer = layers_[index];
    norm(me, layer.attention_norm);
    const Added added = beside(me, index, kQkv, normed_);
    linear(me, layer.qkv, normed_, n_, Target{qkv_.data(), size_t(qkv_width()), Store::overwrite, added});
    me.share(n_, 4, [&](int i) { rotate_and_keep(layer, i); });
    attend(me, Attention(plans_[plan_of_[index]], layer.shape, layer.pages, queries_.data(), attended_, partials_.data(), scratch_[me.number]));
    add_up(me, layer.out, attended_, layer.attention_out_norm, beside(me, index, kOut, attended_));
  }

  // x @ w.T is added to the residual, normed and scaled before if the model does so.
  void add_up(Member& me, const Weight& w, const Activations& x, const float* out_norm, const Added& added) {
    const size_t hidden = m_.hidden;
    if (!out_norm && m_.residual_scale == 1) return linear(me, w, x, n_, Target{x_.data(), hidden, Store::add, added});
    linear(me, w, x, n_, Target{mixed_.data(), hidden, Store::overwrite, added});
    me.share(n_, 4, [&](int i) {
      rms_norm(&mixed_[i * hidden], out_norm, m_.hidden, m_.epsilon, [&](int k, Floats low, Floats high) {
        add_to_residual(i, k, low);
        add_to_residual(i, k + kLanes, high);
      });
    });
  }

  void add_to_residual(int i, int k, Floats v) {
    float* place = &x_[size_t(i) * m_.hidden + k];
    store(place, fmadd(v, splat(m_.residual_scale), load(place)));
  }

  // Rotated queries to their buffer; rotated keys, and values, to their slots.
  void rotate_and_keep(const Layer& layer, int i) {
    const int dim = shape_.head_dim, n_heads = shape_.n_heads, n_kv_heads = shape_.n_kv_heads;
    float* heads = &qkv_[size_t(i) * qkv_width()];
    if (layer.q_norm) {
      const int q = layer.norms_whole ? q_width() : dim, k = layer.norms_whole ? kv_width() : dim;
      for (int at = 0; at < q_width(); at += q) rms_norm_in_place(heads + at, layer.q_norm, q, m_.epsilon);
      for (int at = 0; at < kv_width(); at += k) rms_norm_in_place(heads + q_width() + at, layer.k_norm, k, m_.epsilon);
    }
    const int turning = layer.turning < 0 ? 0 : rotations_[layer.turning].dims;
    const float* cosines = turning ? &cosines_[layer.turning][size_t(i) * turning / 2] : nullptr;
    const float* sines = turning ? &sines_[layer.turning][size_t(i) * turning / 2] : nullptr;
    for (int h = 0; h < n_heads; ++h) rotate(heads + h * dim, cosines, sines, turning, dim, &queries_[size_t(i) * q_width() + h * dim]);
    for (int h = 0; h < n_kv_heads; ++h) {
      const size_t place = (slots_[i] * n_kv_heads + h) * dim;
      rotate(heads + (n_heads + h) * dim, cosines, sines, turning, dim, layer.pages.keys + place);
      const float* value = heads + (n_heads + n_kv_heads + h) * dim;
      for (int d = 0; d < dim; d += kLanes) store_bf16(layer.pages.values + place + d, load(value + d));
    }
  }

  void feed_forward(Member& me, size_t index) {
    const Layer& layer = layers_[index];
    if (layer.experts) return mixture(me, layer, routings_[index]);
    norm(me, layer.mlp_norm);
    const Up up(layer.up, layer.activation, layer.is_gated, n_, beside(me, index, kUp, normed_));
    me.share(up.pieces.n(), 1, [&](int i) { up.run(i, normed_, active_); });
    add_up(me, layer.down, active_, layer.mlp_out_norm, beside(me, index, kDown, active_));
  }

  void mixture(Member& me, const Layer& layer, Routing& routing) {
    const auto normed_row = [&](int i) {
      float* row = &routed_[size_t(i) * m_.hidden];
      rms_norm(&x_[size_t(i) * m_.hidden], layer.mlp_norm, m_.hidden, m_.epsilon, [&](int k, Floats low, Floats high) {
        normed_.put(i, k, low, high);
        store(row + k, low);
        store(row + k + kLanes, high);
      });
      return row;
    };
    mixture_.run(me, *layer.experts, routing, normed_, n_, m_.hidden, layer.activation, layer.is_gated, m_.is_bf16, floats_[me.number], normed_row,
                 [&](int i, int k, Floats sum) { add_to_residual(i, k, sum); });
  }

  // The next sampling requests, as many as are computed together, and room for them.
  SamplingRequests some_requests() {
    const SamplingRequests some{std::min(requests_.n, kRequestsAtOnce), requests_.requests, requests_.choices};
    requests_ = {requests_.n - some.n, requests_.requests + some.n, requests_.choices + some.n};
    last_.resize(some.n, m_.hidden, m_.is_bf16);
    grow(logits_, size_t(some.n) * m_.vocab);
    return some;
  }

  void choose(Member& me, const SamplingRequests& some) {
    me.share(some.n, 4, [&](int i) { rms_norm(&x_[size_t(some.requests[i].token) * m_.hidden], m_.norm, m_.hidden, m_.epsilon, last_, i); });
    linear(me, m_.head, last_, some.n, Target{logits_.data(), size_t(m_.vocab), Store::overwrite});
    Team::wait_while(is_held_, true);
    me.share(some.n, 1, [&](int i) {
      float* logits = &logits_[size_t(i) * m_.vocab];
      shape_logits(logits);
      some.choices[i] = samplers_[me.number].choose(logits, m_.vocab, some.requests[i]);
    });
  }

  void shape_logits(float* logits) const {
    const float cap = m_.logit_softcap;
    if (m_.logit_scale == 1 && cap == 0) return;
    for (int k = 0; k < m_.vocab; k += kLanes) {
      const Lanes lanes = first_lanes(m_.vocab - k);
      Floats x = mul(load(lanes, logits + k), splat(m_.logit_scale));
      if (cap > 0) x = mul(tanh_of(mul(x, splat(1.0f / cap))), splat(cap));
      store(logits + k, lanes, x);
    }
  }

  const Model m_;
  const std::vector<Layer> layers_;
  const std::vector<Rotation> rotations_;
  const Shape shape_;  // the heads of all layers
  Team team_;
  std::vector<Scratch> scratch_;            // of each thread
  std::vector<std::vector<float>> floats_;  // the same: scores of experts, or a row of inputs
  std::vector<Sampler> samplers_;           // the same
  std::vector<Shape> windows_;  // of each window that layers have, one such layer
  std::vector<int> plan_of_;    // of each layer, its window
  bool has_out_norms_ = false, has_experts_ = false;
  int n_ = 0;  // tokens of the step; every buffer below has a row for each
  std::vector<AttentionPlan> plans_;  // of each window
  std::vector<Routing> routings_;     // of each layer
  Mixture mixture_;
  Adapters adapters_;
  std::vector<int> positions_;
  std::vector<size_t> slots_;
  std::vector<float> x_, qkv_, partials_, mixed_, routed_;
  std::vector<std::vector<float>> cosines_, sines_;  // of each rotation
  std::vector<bf16> queries_;
  Activations normed_, attended_, active_;
  std::atomic<bool> is_held_{false};  // nothing may be drawn yet
  SamplingRequests requests_{};  // what the step has not begun with
  Activations last_;          // of the requests that are computed together, and their logits [requests][vocab]
  std::vector<float> logits_;
};

}  // namespace sgl

namespace {

enum Fault : int32_t { kNone = 0, kNoMemory = 1, kNoThreads = 2, kOther = 3 };  // as `build.py` knows them

thread_local std::string message;

// What f does; no exception leaves it.
template <class F>
int32_t guarded(F f) noexcept {
  const auto say = [](const char* what) noexcept {
    try {
      message = what;
    } catch (...) {
      message.clear();
    }
  };
  try {
    f();
    return kNone;
  } catch (const std::bad_alloc& error) {
    return say(error.what()), kNoMemory;
  } catch (const std::length_error& error) {
    return say(error.what()), kNoMemory;
  } catch (const std::system_error& error) {
    return say(error.what()), kNoThreads;
  } catch (const std::exception& error) {
    return say(error.what()), kOther;
  } catch (...) {
    return say("unknown"), kOther;
  }
}

using namespace sgl;

#define AT(type, field) static_cast<int32_t>(offsetof(type, field))
#define SIZE(type) static_cast<int32_t>(sizeof(type))

// Of each structure its size and where its fields lie, in the order of `build.STRUCTURES`.
constexpr int32_t kLayout[] = {
    SIZE(Weight), AT(Weight, data), AT(Weight, bias), AT(Weight, n_in), AT(Weight, n_out), AT(Weight, kind), AT(Weight, padding),
    SIZE(Pages), AT(Pages, keys), AT(Pages, values),
    SIZE(Shape), AT(Shape, n_heads), AT(Shape, n_kv_heads), AT(Shape, head_dim), AT(Shape, page_size), AT(Shape, window), AT(Shape, scale),
    AT(Shape, softcap),
    SIZE(Experts), AT(Experts, count), AT(Experts, top_k), AT(Experts, has_shared), AT(Experts, is_normalised), AT(Experts, router), AT(Experts, up),
    AT(Experts, down),
    SIZE(Layer), AT(Layer, attention_norm), AT(Layer, attention_out_norm), AT(Layer, mlp_norm), AT(Layer, mlp_out_norm), AT(Layer, q_norm),
    AT(Layer, k_norm), AT(Layer, qkv), AT(Layer, out), AT(Layer, up), AT(Layer, down), AT(Layer, pages), AT(Layer, shape), AT(Layer, norms_whole),
    AT(Layer, turning), AT(Layer, activation), AT(Layer, is_gated), AT(Layer, experts),
    SIZE(Rotation), AT(Rotation, frequencies), AT(Rotation, dims), AT(Rotation, amplitude),
    SIZE(Model), AT(Model, n_layers), AT(Model, hidden), AT(Model, ffn), AT(Model, vocab), AT(Model, n_rotations), AT(Model, is_bf16), AT(Model, epsilon),
    AT(Model, embedding_scale), AT(Model, residual_scale), AT(Model, logit_scale), AT(Model, logit_softcap), AT(Model, padding), AT(Model, rotations),
    AT(Model, norm), AT(Model, embedding), AT(Model, head), AT(Model, layers),
    SIZE(Rows), AT(Rows, n_rows), AT(Rows, n_tokens), AT(Rows, tokens), AT(Rows, offsets), AT(Rows, starts), AT(Rows, pages),
    AT(Rows, adapters),
    SIZE(LowRank), AT(LowRank, down), AT(LowRank, up), AT(LowRank, begins), AT(LowRank, n_ranks), AT(LowRank, rank),
    SIZE(SamplingRequests), AT(SamplingRequests, n), AT(SamplingRequests, requests), AT(SamplingRequests, choices),
    SIZE(Tokens), AT(Tokens, ids), AT(Tokens, n), AT(Tokens, padding),
    SIZE(Bias), AT(Bias, token), AT(Bias, add),
    SIZE(SamplingRequest), AT(SamplingRequest, token), AT(SamplingRequest, n_top), AT(SamplingRequest, candidates),
    AT(SamplingRequest, scores), AT(SamplingRequest, temperature), AT(SamplingRequest, uniform), AT(SamplingRequest, top_p),
    AT(SamplingRequest, min_p),
    AT(SamplingRequest, repetition), AT(SamplingRequest, frequency), AT(SamplingRequest, presence), AT(SamplingRequest, prompt),
    AT(SamplingRequest, generated), AT(SamplingRequest, drafted), AT(SamplingRequest, bias), AT(SamplingRequest, mask),
    AT(SamplingRequest, top_k), AT(SamplingRequest, n_bias),
    SIZE(Choice), AT(Choice, log_total), AT(Choice, is_drawn), AT(Choice, token), AT(Choice, logprob), AT(Choice, seconds), AT(Choice, top_tokens),
    AT(Choice, top_logprobs),
};

#undef AT
#undef SIZE

}  // namespace

extern "C" {

const int32_t* sgl_layout(int32_t* n) noexcept {
  *n = static_cast<int32_t>(std::size(kLayout));
  return kLayout;
}

// What the kernels are made of. The same instructions give the same bits.
const char* sgl_instructions() noexcept { return sgl::kInstructions; }

// Of this thread's last call that did not give 0.
const char* sgl_message() noexcept { return message.c_str(); }

// Each of these gives 0, or a `Fault` after which nothing that it would have written is to be read.

int32_t sgl_new(const sgl::Model* model, int32_t n_threads, sgl::Step** made) noexcept {
  return guarded([=] { *made = new sgl::Step(*model, n_threads); });
}
int32_t sgl_delete(sgl::Step* step) noexcept {
  return guarded([=] { delete step; });
}
int32_t sgl_start(sgl::Step* step, const sgl::Rows* rows, const sgl::SamplingRequests* requests) noexcept {
  return guarded([=] { step->start(*rows, *requests); });
}
int32_t sgl_release(sgl::Step* step) noexcept {
  return guarded([=] { step->release(); });
}
int32_t sgl_finish(sgl::Step* step) noexcept {
  return guarded([=] { step->finish(); });
}
// The experts of the step that is finished: chosen [tokens][layers with experts][top_k]
int32_t sgl_experts(const sgl::Step* step, int32_t* chosen) noexcept {
  return guarded([=] { step->experts(chosen); });
}

// Single parts, for tests and measurements.

// y [n_rows][n_out] = x [n_rows][n_in] @ w.T + bias
int32_t sgl_linear(const sgl::Weight* w, const float* x, int32_t n_rows, float* y, int32_t n_threads) noexcept {
  return guarded([=] {
    sgl::Team team(n_threads);
    sgl::Activations rows;
    rows.resize(n_rows, w->n_in, w->kind == sgl::Kind::bf16);
    for (int i = 0; i < n_rows; ++i)
      for (int k = 0; k < w->n_in; k += sgl::kGroup) {
        const float* at = x + size_t(i) * w->n_in + k;
        rows.put(i, k, load(at), load(at + sgl::kLanes));
      }
    team.run([&](sgl::Member& me) { sgl::linear(me, *w, rows, n_rows, sgl::Target{y, size_t(w->n_out), sgl::Store::overwrite}); });
  });
}

// out [tokens][heads][head_dim] bf16 of queries, the same, over pages that hold all keys and values already
int32_t sgl_attention(
    const sgl::Shape* shape, const sgl::Rows* rows, const sgl::Pages* pages, const sgl::bf16* queries, sgl::bf16* out, int32_t n_threads) noexcept {
  return guarded([=]() mutable {
    sgl::Team team(n_threads);
    sgl::AttentionPlan plan;
    plan.make(sgl::tiles_of(*rows), *shape);
    std::vector<float> partials(size_t(plan.n_partials) * shape->n_heads * shape->partial());
    std::vector<sgl::Scratch> scratch(team.size());
    sgl::Activations mixed;
    mixed.resize(rows->n_tokens, shape->n_heads * shape->head_dim, true);
    team.run([&](sgl::Member& me) { sgl::attend(me, sgl::Attention(plan, *shape, *pages, queries, mixed, partials.data(), scratch[me.number])); });
    for (int i = 0; i < rows->n_tokens; ++i)
      for (int k = 0; k < mixed.n_in(); k += sgl::kGroup) out = std::copy_n(mixed.wide(i, k / sgl::kGroup), sgl::kGroup, out);
  });
}

// rows of logits [n][vocab]
int32_t sgl_choose(float* logits, int32_t vocab, const sgl::SamplingRequests* requests, int32_t n_threads) noexcept {
  return guarded([=] {
    sgl::Team team(n_threads);
    std::vector<sgl::Sampler> samplers(team.size());
    team.run([&](sgl::Member& me) {
      me.share(requests->n, 1, [&](int i) { requests->choices[i] = samplers[me.number].choose(logits + size_t(i) * vocab, vocab, requests->requests[i]); });
    });
  });
}

int32_t sgl_weight_row(const sgl::Weight* w, int32_t row, float* out) noexcept {
  return guarded([=] { sgl::weight_row(*w, row, out); });
}
}
