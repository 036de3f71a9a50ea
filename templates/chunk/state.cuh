// The sequential part: S held transposed in accumulators, 16 value rows to a warp, and the four products that read
// and advance it. Only here does one chunk depend on another.
//   R = Z - E^ S      N = M R      O = scale (Q^ S + P N)      S' = decay S + K^T N
// with E^, Q^, K^ the tiles of a chunk; factors that are one per token are applied to accumulators instead.
#pragma once

#include "numbers.cuh"
#include "chunk/factors.cuh"
#include "chunk/unit.cuh"
#include "chunk/values.cuh"

// A product's operand from accumulators: columns 16 b and on of `x`, columns scaled by `Factor`.
template <typename Element, typename Factor, int N>
DEVICE void to_operand(u32 (&a)[4], const float (&x)[N][4], int b, int lane) {
  const int col = b * 16 + lane % 4 * 2;
  const float2 near = Factor::pair(col), far = Factor::pair(col + 8);
  a[0] = Element::pack(x[b * 2][0] * near.x, x[b * 2][1] * near.y);
  a[1] = Element::pack(x[b * 2][2] * near.x, x[b * 2][3] * near.y);
  a[2] = Element::pack(x[b * 2 + 1][0] * far.x, x[b * 2 + 1][1] * far.y);
  a[3] = Element::pack(x[b * 2 + 1][2] * far.x, x[b * 2 + 1][3] * far.y);
}

// sum[.][i] += a[.][j] y[i][j] for token blocks j <= i, y a lower triangular tile [CHUNK][CHUNK].
template <typename Element>
DEVICE void multiply_triangle(float (&sum)[CHUNK / 8][4], const u32 (&a)[CHUNK / 16][4], int y, int lane) {
#pragma unroll
  for (int i = 0; i < CHUNK / 16; ++i) {
#pragma unroll
    for (int j = 0; j <= i; ++j) {
      u32 block[4];
      load_block<CHUNK>(block, y, i * 16, j * 16, lane);
      Element::mma(sum[i * 2], a[j], block[0], block[2]);
      Element::mma(sum[i * 2 + 1], a[j], block[1], block[3]);
    }
  }
}

template <typename Element>
struct State {
  float s[KEY / 8][4];  // rows: values; columns: channels of K
  Unit<Element> unit;   // of s, and of what is written to it

  // `state` may be null: zeros.
  METHOD void load(const float* state, int value) {
    const int lane = lane_index();
#pragma unroll
    for (int n = 0; n < KEY / 8; ++n) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int k = n * 8 + lane % 4 * 2 + c % 2, v = value + value_row(lane) + c / 2 * 2;
        s[n][c] = state == nullptr ? 0.0f : state[k * STATE_KEY_STRIDE + v * STATE_VALUE_STRIDE];
      }
    }
  }

  METHOD void store(float* state, int value) const {
    const int lane = lane_index();
#pragma unroll
    for (int n = 0; n < KEY / 8; ++n) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int k = n * 8 + lane % 4 * 2 + c % 2, v = value + value_row(lane) + c / 2 * 2;
        state[k * STATE_KEY_STRIDE + v * STATE_VALUE_STRIDE] = s[n][c] * unit.up();
      }
    }
  }

  // Chooses the unit, and brings Z of a chunk to it.
  METHOD void admit(float (&z)[CHUNK / 8][4]) {
    if constexpr (Unit<Element>::MOVES) {
      if (unit.exponent != 0) change_unit(z, unit.down());
      unit.fit(s, z);
    }
  }

  // sum[.][t] += S^T x_t over the tokens of a tile [CHUNK][KEY].
  METHOD void read(float (&sum)[CHUNK / 8][4], int tile, int lane) const {
#pragma unroll
    for (int d = 0; d < KEY / 16; ++d) {
      u32 a[4];
      to_operand<Element, One>(a, s, d, lane);
#pragma unroll
      for (int t = 0; t < CHUNK / 16; ++t) {
        u32 block[4];
        load_block<KEY>(block, tile, t * 16, d * 16, lane);
        Element::mma(sum[t * 2], a, block[0], block[2]);
        Element::mma(sum[t * 2 + 1], a, block[1], block[3]);
      }
    }
  }

  // S = decay S + sum over tokens of k_t n_t, tile [CHUNK][KEY].
  template <typename Decay>
  METHOD void advance(const u32 (&writes)[CHUNK / 16][4], int tile, int lane) {
#pragma unroll
    for (int d = 0; d < KEY / 16; ++d) {
#pragma unroll
      for (int n = d * 2; n < d * 2 + 2; ++n) {
        const float2 decay = Decay::pair(n * 8 + lane % 4 * 2);
        s[n][0] *= decay.x;
        s[n][1] *= decay.y;
        s[n][2] *= decay.x;
        s[n][3] *= decay.y;
      }
#pragma unroll
      for (int t = 0; t < CHUNK / 16; ++t) {
        u32 block[4];
        load_block_transposed<KEY>(block, tile, t * 16, d * 16, lane);
        Element::mma(s[d * 2], writes[t], block[0], block[1]);
        Element::mma(s[d * 2 + 1], writes[t], block[2], block[3]);
      }
    }
  }
};

// Z of a chunk.
template <typename Element, typename Write>
DEVICE void load_values(float (&z)[CHUNK / 8][4], int v, int lane) {
#pragma unroll
  for (int group = 0; group < CHUNK / 8; ++group) {
    Slice<Element>::load(z[group], v, group, lane);
    Write::apply(z[group], group, lane);
  }
}

// What a chunk writes where nothing is erased: N = Z.
struct WriteAll {
  template <typename Element, typename Write>
  static METHOD void residual(float (&n)[CHUNK / 8][4], State<Element>& state, int v) {
    load_values<Element, Write>(n, v, lane_index());
    state.admit(n);
  }
  template <typename Element>
  static METHOD void solve(float (&)[CHUNK / 8][4]) {}
};

// What a chunk writes after erasing: N = M (Z - E^ S). E^ lies in tile `left`, up to the factor `Row` per token.
template <typename Row, int M>
struct WriteResidual {
  int left;

  template <typename Element, typename Write>
  METHOD void residual(float (&r)[CHUNK / 8][4], State<Element>& state, int v) const {
    const int lane = lane_index();
    if constexpr (Unit<Element>::MOVES) {
      load_values<Element, Write>(r, v, lane);
      state.admit(r);
    }
    float held[CHUNK / 8][4] = {};
    state.read(held, left, lane);
    if constexpr (!Unit<Element>::MOVES) load_values<Element, Write>(r, v, lane);
#pragma unroll
    for (int group = 0; group < CHUNK / 8; ++group) {
      const float2 row = Row::pair(group * 8 + lane % 4 * 2);
      r[group][0] -= held[group][0] * row.x;
      r[group][1] -= held[group][1] * row.y;
      r[group][2] -= held[group][2] * row.x;
      r[group][3] -= held[group][3] * row.y;
    }
  }

  template <typename Element>
  METHOD void solve(float (&n)[CHUNK / 8][4]) const {
    const int lane = lane_index();
    u32 r[CHUNK / 16][4];
#pragma unroll
    for (int b = 0; b < CHUNK / 16; ++b) to_operand<Element, One>(r[b], n, b, lane);
#pragma unroll
    for (int group = 0; group < CHUNK / 8; ++group) {
#pragma unroll
      for (int c = 0; c < 4; ++c) n[group][c] = 0.0f;
    }
    multiply_triangle<Element>(n, r, M, lane);
  }
};

// O, written out, and the next state. `Into`: decay from the chunk's start through a token, where it is no part of the
// tile q; `Out`: from a token through the chunk's end, where it is no part of k; `Decay`: over the whole chunk.
template <typename Into, typename Out, typename Decay, typename Element>
DEVICE void advance_state(State<Element>& state, const float (&n)[CHUNK / 8][4], int q, int k, int p, float scale,
                          Element* o, i64 o_stride, int exist) {
  const int lane = lane_index();
  u32 writes[CHUNK / 16][4];
#pragma unroll
  for (int b = 0; b < CHUNK / 16; ++b) to_operand<Element, One>(writes[b], n, b, lane);
  float out[CHUNK / 8][4] = {};
  state.read(out, q, lane);
#pragma unroll
  for (int group = 0; group < CHUNK / 8; ++group) {
    const float2 into = Into::pair(group * 8 + lane % 4 * 2);
    out[group][0] *= into.x;
    out[group][1] *= into.y;
    out[group][2] *= into.x;
    out[group][3] *= into.y;
  }
  multiply_triangle<Element>(out, writes, p, lane);
  store_outputs(out, scale * state.unit.up(), o, o_stride, exist);
#pragma unroll
  for (int b = 0; b < CHUNK / 16; ++b) to_operand<Element, Out>(writes[b], n, b, lane);
  state.template advance<Decay>(writes, k, lane);
}

// The next state alone.
template <typename Out, typename Decay, typename Element>
DEVICE void advance_only(State<Element>& state, const float (&n)[CHUNK / 8][4], int k) {
  const int lane = lane_index();
  u32 writes[CHUNK / 16][4];
#pragma unroll
  for (int b = 0; b < CHUNK / 16; ++b) to_operand<Element, Out>(writes[b], n, b, lane);
  state.template advance<Decay>(writes, k, lane);
}
