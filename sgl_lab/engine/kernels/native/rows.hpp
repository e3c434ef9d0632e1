// What happens to each row between the linears: norm, rotation and gating.
#pragma once

#include <cmath>

#include "linear.hpp"

namespace sgl {

// RMSNorm of x [n] into row `row` of `out`; n is a multiple of 32.
inline void rms_norm(const float* x, const float* weight, int n, float epsilon, Activations& out, int row) {
  __m512 squares = _mm512_setzero_ps();
  for (int i = 0; i < n; i += kLanes) {
    const __m512 v = _mm512_loadu_ps(x + i);
    squares = _mm512_fmadd_ps(v, v, squares);
  }
  const __m512 scale = _mm512_set1_ps(1.0f / std::sqrt(_mm512_reduce_add_ps(squares) / static_cast<float>(n) + epsilon));
  const auto normed = [&](int i) { return _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(x + i), scale), _mm512_loadu_ps(weight + i)); };
  for (int i = 0; i < n; i += kGroup) out.put(row, i, normed(i), normed(i + kLanes));
}

// Where the results of gate and up go, 32 of one and 32 of the other in turn: silu(gate) * up is what the next linear reads.
struct Gated {
  Activations& out;
  float* kept;  // [rows of a panel][32]: gates until their ups are there, then the first half of the products
  int n_panel;

  void fetch(int, int) const {}

  void put(const Weight& w, int row, int column, __m512 sum) const {
    float* place = kept + row % n_panel * kGroup + column % kGroup;
    sum = plus_bias(w, column, sum);
    if (column % (2 * kGroup) < kGroup) return _mm512_store_ps(place, sum);
    const __m512 gate = _mm512_load_ps(place);
    const __m512 decay = exp2_of(_mm512_min_ps(_mm512_set1_ps(126.0f), _mm512_mul_ps(gate, _mm512_set1_ps(-kLog2e))));
    const __m512 product = _mm512_mul_ps(_mm512_div_ps(gate, _mm512_add_ps(_mm512_set1_ps(1.0f), decay)), sum);
    if (column % kGroup == 0) return _mm512_store_ps(place, product);
    out.put(row, column / 2 / kGroup * kGroup, _mm512_load_ps(place - kLanes), product);
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
    const __m512 a = _mm512_loadu_ps(head + i), b = _mm512_loadu_ps(head + half_dim + i);
    const __m512 c = _mm512_loadu_ps(cosines + i), s = _mm512_loadu_ps(sines + i);
    store_bf16(out + i, _mm512_fnmadd_ps(b, s, _mm512_mul_ps(a, c)));
    store_bf16(out + half_dim + i, _mm512_fmadd_ps(a, s, _mm512_mul_ps(b, c)));
  }
}

}  // namespace sgl
