// What happens to each row between the linears: norm, rotation, activation and gating.
#pragma once

#include <cmath>
#include <cstring>

#include "linear.hpp"

namespace sgl {

// 1 / the root of the mean square of x [n]; n is a multiple of 32.
inline float rms_factor(const float* x, int n, float epsilon) {
  Floats squares = zeros();
  for (int i = 0; i < n; i += kLanes) {
    const Floats v = load(x + i);
    squares = fmadd(v, v, squares);
  }
  return 1.0f / std::sqrt(sum_of(squares) / static_cast<float>(n) + epsilon);
}

// RMSNorm of x [n] to `put`(i, inputs [i, i + 16), inputs [i + 16, i + 32)); without a weight, x itself.
template <class Put>
inline void rms_norm(const float* x, const float* weight, int n, float epsilon, Put put) {
  if (!weight) {
    for (int i = 0; i < n; i += kGroup) put(i, load(x + i), load(x + i + kLanes));
    return;
  }
  const Floats scale = splat(rms_factor(x, n, epsilon));
  const auto normed = [&](int i) { return mul(mul(load(x + i), scale), load(weight + i)); };
  for (int i = 0; i < n; i += kGroup) put(i, normed(i), normed(i + kLanes));
}

inline void rms_norm(const float* x, const float* weight, int n, float epsilon, Activations& out, int row) {
  rms_norm(x, weight, n, epsilon, [&](int i, Floats low, Floats high) { out.put(row, i, low, high); });
}

inline void rms_norm_in_place(float* x, const float* weight, int n, float epsilon) {
  rms_norm(x, weight, n, epsilon, [&](int i, Floats low, Floats high) {
    store(x + i, low);
    store(x + i + kLanes, high);
  });
}

enum class Activation : int32_t { silu = 0, gelu = 1, gelu_tanh = 2, relu = 3, relu2 = 4 };

// x / (1 + 2^y)
inline Floats over_grown(Floats x, Floats y) { return div(x, add(splat(1.0f), exp2_of(min(splat(126.0f), y)))); }

// The error function, within 2e-7 (Abramowitz and Stegun, 7.1.26).
inline Floats erf_of(Floats x) {
  const Floats size = as_floats(both(as_ints(x), splat_int(0x7fffffff)));
  const Floats t = div(splat(1.0f), fmadd(splat(0.3275911f), size, splat(1.0f)));
  Floats p = splat(1.061405429f);
  for (const float next : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f}) p = fmadd(p, t, splat(next));
  const Floats left = mul(mul(p, t), exp2_of(mul(mul(size, size), splat(-kLog2e))));
  const Floats found = sub(splat(1.0f), left);
  return choose(at_least(x, zeros()), found, sub(zeros(), found));
}

// Kept out of the loops of a linear, whose registers are few.
[[gnu::noinline]] inline void activate_otherwise(Activation kind, float* at) {
  const Floats x = load(at), positive = max(zeros(), x);
  if (kind == Activation::gelu_tanh) {
    const Floats inner = mul(mul(x, splat(0.7978845608f)), fmadd(mul(x, x), splat(0.044715f), splat(1.0f)));
    store(at, over_grown(x, mul(inner, splat(-2.0f * kLog2e))));
  } else if (kind == Activation::gelu) {
    store(at, mul(mul(x, splat(0.5f)), add(splat(1.0f), erf_of(mul(x, splat(0.7071067812f))))));
  } else {
    store(at, kind == Activation::relu ? positive : mul(positive, positive));
  }
}

// What is at `at` becomes its activation.
inline Floats activated(Activation kind, float* at) {
  if (kind == Activation::silu) return over_grown(load(at), mul(load(at), splat(-kLog2e)));
  activate_otherwise(kind, at);
  return load(at);
}

// Where the results of gate and up go, 32 of one and 32 of the other in turn: activation(gate) * up is what the next linear reads.
struct Gated {
  Activations& out;
  float* kept;  // [rows of a panel][32]: gates until their ups are there, then the first half of the products
  int n_panel;
  Activation activation;
  Added added;

  void fetch(int, int) const {}

  void put(const Weight& w, int row, int column, Floats sum) const {
    float* place = kept + row % n_panel * kGroup + column % kGroup;
    sum = added.to(w, row, column, plus_bias(w, column, sum));
    if (column % (2 * kGroup) < kGroup) return store(place, sum);
    const Floats product = mul(activated(activation, place), sum);
    if (column % kGroup == 0) return store(place, product);
    out.put(row, column / 2 / kGroup * kGroup, load(place - kLanes), product);
  }
};

// The same without a gate: activation(up).
struct Ungated {
  Activations& out;
  float* kept;
  int n_panel;
  Activation activation;
  Added added;

  void fetch(int, int) const {}

  void put(const Weight& w, int row, int column, Floats sum) const {
    if (column >= w.n_out) return;
    float* place = kept + row % n_panel * kGroup + column % kGroup;
    store(place, added.to(w, row, column, plus_bias(w, column, sum)));
    const Floats active = activated(activation, place);
    if (column % kGroup == 0) return store(place, active);
    out.put(row, column - kLanes, load(place - kLanes), active);
  }
};

// The first linear of a feed-forward of `n_rows` rows, in pieces: gate and up, or up.
struct Up {
  const Weight& w;
  Activation activation;
  bool is_gated;
  Pieces pieces;
  Added added;

  Up(const Weight& w, Activation activation, bool is_gated, int n_rows, Added added = {})
      : w(w), activation(activation), is_gated(is_gated), pieces(w, n_rows, is_gated ? 2 * kGroup / block_columns(w.kind) : 1), added(added) {}

  void run(int i, const Activations& x, Activations& out) const {
    alignas(64) float kept[kPanelTiles * kTile * kGroup];
    if (is_gated) pieces.run(i, w, x, Gated{out, kept, pieces.n_panel, activation, added});
    else pieces.run(i, w, x, Ungated{out, kept, pieces.n_panel, activation, added});
  }
};

// The first n lanes, as bf16.
inline void store_bf16(bf16* out, int n, Floats x) {
  if (n >= kLanes) return store_bf16(out, x);
  alignas(64) bf16 all[kLanes];
  store_bf16(all, x);
  std::memcpy(out, all, n * sizeof(bf16));
}

// One head, as bf16: rotary positions of its first `turning` dimensions, the others as they are. cosines, sines [turning / 2]; dim is a
// multiple of 32.
inline void rotate(const float* head, const float* cosines, const float* sines, int turning, int dim, bf16* out) {
  const int half_dim = turning / 2;
  for (int i = 0; i < half_dim; i += kLanes) {
    const int n = half_dim - i;
    const Lanes lanes = first_lanes(n);
    const Floats a = load(lanes, head + i), b = load(lanes, head + half_dim + i);
    const Floats c = load(lanes, cosines + i), s = load(lanes, sines + i);
    store_bf16(out + i, n, fnmadd(b, s, mul(a, c)));
    store_bf16(out + half_dim + i, n, fmadd(a, s, mul(b, c)));
  }
  for (int i = turning; i < dim; i += kLanes) store_bf16(out + i, dim - i, load(first_lanes(dim - i), head + i));
}

}  // namespace sgl
