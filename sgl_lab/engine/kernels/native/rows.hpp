// What happens to each row between the linears: norm, rotation and activation.
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

// silu(gate) * up of gate_up [2 * n] into row `row` of `out`.
inline void gated(const float* gate_up, int n, Activations& out, int row) {
  const auto value = [&](int i) {
    const __m512 gate = _mm512_loadu_ps(gate_up + i);
    const __m512 decay = exp2_of(_mm512_min_ps(_mm512_set1_ps(126.0f), _mm512_mul_ps(gate, _mm512_set1_ps(-kLog2e))));
    return _mm512_mul_ps(_mm512_div_ps(gate, _mm512_add_ps(_mm512_set1_ps(1.0f), decay)), _mm512_loadu_ps(gate_up + n + i));
  };
  for (int i = 0; i < n; i += kGroup) out.put(row, i, value(i), value(i + kLanes));
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
