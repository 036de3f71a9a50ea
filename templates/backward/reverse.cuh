// The sequential part of backward, last chunk first: dS held transposed in accumulators as S is in forward.
//   dN = PT dO + K^ dS      dR = MT dN      dS' = Q^T dO + decay dS - E^T dR
// Factors that are one per token are applied to accumulators and operands instead of tiles, as in forward.
#pragma once

#include "numbers.cuh"
#include "chunk/state.cuh"

// sum[.][j] += a[.][i] y[i][j] for token blocks i >= j, y a lower triangular tile [CHUNK][CHUNK].
template <typename Element>
DEVICE void multiply_triangle_transposed(float (&sum)[CHUNK / 8][4], const u32 (&a)[CHUNK / 16][4], int y) {
  const int lane = lane_index();
#pragma unroll
  for (int j = 0; j < CHUNK / 16; ++j) {
#pragma unroll
    for (int i = j; i < CHUNK / 16; ++i) {
      u32 block[4];
      load_block_transposed<CHUNK>(block, y, i * 16, j * 16, lane);
      Element::mma(sum[j * 2], a[i], block[0], block[1]);
      Element::mma(sum[j * 2 + 1], a[i], block[2], block[3]);
    }
  }
}

template <typename Element, typename Factor>
DEVICE void to_operands(u32 (&a)[CHUNK / 16][4], const float (&x)[CHUNK / 8][4]) {
  const int lane = lane_index();
#pragma unroll
  for (int b = 0; b < CHUNK / 16; ++b) to_operand<Element, Factor>(a[b], x, b, lane);
}

// x = scale x, columns also by `Factor`.
template <typename Factor>
DEVICE void scale_tokens(float (&x)[CHUNK / 8][4], float scale) {
  const int lane = lane_index();
#pragma unroll
  for (int group = 0; group < CHUNK / 8; ++group) {
    const float2 factor = Factor::pair(group * 8 + lane % 4 * 2);
    x[group][0] *= scale * factor.x;
    x[group][1] *= scale * factor.y;
    x[group][2] *= scale * factor.x;
    x[group][3] *= scale * factor.y;
  }
}

// dN of a chunk from dO, in operands, and dS: `held` is K^ dS before its factor `Out` per token.
template <typename Element, typename Out>
DEVICE void write_gradient(float (&dn)[CHUNK / 8][4], const u32 (&grad)[CHUNK / 16][4], int p, float scale,
                           float (&held)[CHUNK / 8][4]) {
#pragma unroll
  for (int group = 0; group < CHUNK / 8; ++group) {
#pragma unroll
    for (int c = 0; c < 4; ++c) dn[group][c] = 0.0f;
  }
  multiply_triangle_transposed<Element>(dn, grad, p);
  scale_tokens<Out>(held, 1.0f);
#pragma unroll
  for (int group = 0; group < CHUNK / 8; ++group) {
#pragma unroll
    for (int c = 0; c < 4; ++c) dn[group][c] = dn[group][c] * scale + held[group][c];
  }
}

// Nothing is erased: dR = dN, and nothing flows back through the residual.
struct KeepAll {
  template <typename Element>
  METHOD void solve(float (&)[CHUNK / 8][4]) const {}
  template <typename Element>
  METHOD void subtract(State<Element>&, const float (&)[CHUNK / 8][4]) const {}
};

// dN becomes dR = MT dN. dN enters as the sum of two operands: where keys repeat, rows of M cancel, and what one operand
// rounds away would be all that is left.
template <typename Element, int M>
DEVICE void solve_transposed(float (&dn)[CHUNK / 8][4]) {
  u32 high[CHUNK / 16][4], low[CHUNK / 16][4];
  to_operands<Element, One>(high, dn);
#pragma unroll
  for (int b = 0; b < CHUNK / 16; ++b) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const float x = dn[b * 2 + r / 2][r % 2 * 2], y = dn[b * 2 + r / 2][r % 2 * 2 + 1];
      low[b][r] = Element::pack(x - Element::low(high[b][r]), y - Element::high(high[b][r]));
    }
  }
#pragma unroll
  for (int group = 0; group < CHUNK / 8; ++group) {
#pragma unroll
    for (int c = 0; c < 4; ++c) dn[group][c] = 0.0f;
  }
  multiply_triangle_transposed<Element>(dn, low, M);
  multiply_triangle_transposed<Element>(dn, high, M);
}

// dR = MT dN; dS loses E^T dR. E^ lies in tile `left`, up to the factor `Row` per token.
template <typename Row, int M>
struct ReverseResidual {
  int left;

  template <typename Element>
  METHOD void solve(float (&dn)[CHUNK / 8][4]) const {
    solve_transposed<Element, M>(dn);
  }

  template <typename Element>
  METHOD void subtract(State<Element>& grad, const float (&dr)[CHUNK / 8][4]) const {
    const int lane = lane_index();
    float x[CHUNK / 8][4];
#pragma unroll
    for (int group = 0; group < CHUNK / 8; ++group) {
#pragma unroll
      for (int c = 0; c < 4; ++c) x[group][c] = -dr[group][c];
    }
    u32 a[CHUNK / 16][4];
    to_operands<Element, Row>(a, x);
    grad.template advance<One>(a, left, lane);
  }
};

// Columns of operands, which are tokens, times `scale` and the factor of their token.
template <typename Element, typename Factor>
DEVICE void scale_token_operands(u32 (&a)[CHUNK / 16][4], float scale) {
  const int lane = lane_index();
#pragma unroll
  for (int t = 0; t < CHUNK / 16; ++t) {
    const float2 near = Factor::pair(t * 16 + lane % 4 * 2), far = Factor::pair(t * 16 + lane % 4 * 2 + 8);
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const float2 factor = r < 2 ? near : far;
      a[t][r] = Element::pack(Element::low(a[t][r]) * (scale * factor.x), Element::high(a[t][r]) * (scale * factor.y));
    }
  }
}

// dS over one chunk. dO lies in the warp's slice `grad`.
template <typename Into, typename Out, typename Carry, typename Element, typename Erase>
DEVICE void reverse_state(State<Element>& state, const Erase& erase, int grad, int q, int k, int p, float scale) {
  const int lane = lane_index();
  scale *= state.unit.down();
  float dn[CHUNK / 8][4];
  u32 a[CHUNK / 16][4];
  {
    float x[CHUNK / 8][4];
#pragma unroll
    for (int group = 0; group < CHUNK / 8; ++group) Slice<Element>::load(x[group], grad, group, lane);
    to_operands<Element, One>(a, x);
  }
  float held[CHUNK / 8][4] = {};
  state.read(held, k, lane);
  write_gradient<Element, Out>(dn, a, p, scale, held);
  erase.template solve<Element>(dn);
  scale_token_operands<Element, Into>(a, scale);
  state.template advance<Carry>(a, q, lane);
  erase.subtract(state, dn);
}
