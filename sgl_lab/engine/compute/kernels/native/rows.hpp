// What happens to each row between the linears: norm, rotation and gating.
#pragma once

#include <cmath>

#include "linear.hpp"

namespace sgl {

// RMSNorm of x [n] into row `row` of `out`; n is a multiple of 32.
inline void rms_norm(const float* x, const float* weight, int n, float epsilon, Activations& out, int row) {
  Floats squares = zeros();
  for (int i = 0; i < n; i += kLanes) {
    const Floats v = load(x + i);
    squares = fmadd(v, v, squares);
  }
  const Floats scale = splat(1.0f / std::sqrt(sum_of(squares) / static_cast<float>(n) + epsilon));
  const auto normed = [&](int i) { return mul(mul(load(x + i), scale), load(weight + i)); };
  for (int i = 0; i < n; i += kGroup) out.put(row, i, normed(i), normed(i + kLanes));
}

// Where the results of gate and up go, 32 of one and 32 of the other in turn: silu(gate) * up is what the next linear reads.
struct Gated {
  Activations& out;
  float* kept;  // [rows of a panel][32]: gates until their ups are there, then the first half of the products
  int n_panel;

  void fetch(int, int) const {}

  void put(const Weight& w, int row, int column, Floats sum) const {
    float* place = kept + row % n_panel * kGroup + column % kGroup;
    sum = plus_bias(w, column, sum);
    if (column % (2 * kGroup) < kGroup) return store(place, sum);
    const Floats gate = load(place);
    const Floats decay = exp2_of(min(splat(126.0f), mul(gate, splat(-kLog2e))));
    const Floats product = mul(div(gate, add(splat(1.0f), decay)), sum);
    if (column % kGroup == 0) return store(place, product);
    out.put(row, column / 2 / kGroup * kGroup, load(place - kLanes), product);
  }
};

// One phase: silu(x @ gate.T) * (x @ up.T), the two interleaved in one weight.
inline void gated_linear(Member& me, const Weight& w, const Activations& x, int n_rows, Activations& out) {
  alignas(64) float kept[kPanelTiles * kTile * kGroup];
  linear(me, w, x, n_rows, Gated{out, kept, kPanelTiles * x.tile()}, 2 * kGroup / block_columns(w.kind));
}

// Rotary position embedding of one head, as bf16. cosines, sines [dim / 2]; dim is a multiple of 32.
inline void rotate(const float* head, const float* cosines, const float* sines, int dim, bf16* out) {
  const int half_dim = dim / 2;
  for (int i = 0; i < half_dim; i += kLanes) {
    const Floats a = load(head + i), b = load(head + half_dim + i);
    const Floats c = load(cosines + i), s = load(sines + i);
    store_bf16(out + i, fnmadd(b, s, mul(a, c)));
    store_bf16(out + half_dim + i, fmadd(a, s, mul(b, c)));
  }
}

}  // namespace sgl
