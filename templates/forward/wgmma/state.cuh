// The state warpgroups: 64 value rows of S^T to each, in accumulators throughout and, rounded, as the register operand of
// products whose other operand is a tile. A warp has 16 of the rows, a lane rows lane / 4 and eight on.
//
//   R = w V - E^ S      N = M R      O = Q^ S + P N      S' = D S + K^T N
//
// Factors that are one per token come from the vectors of the chunk's buffer; M, P and the tiles are the factors' work.
#pragma once

#include "chunk/unit.cuh"
#include "forward/wgmma/blocks.cuh"
#include "forward/wgmma/products.cuh"
#include "forward/wgmma/ring.cuh"
#include "numbers.cuh"
#include "ptx/elements.cuh"

template <typename Element>
struct State {
  float s[KEY / 8][4];  // rows: values; columns: channels of K
  Unit<Element> unit;   // of s, and of what is written to it

  // `state` may be null: zeros.
  METHOD void load(const float* state, int value) {
    each(value, [&](float& x, int k, int v) {
      x = state == nullptr ? 0.0f : state[k * STATE_KEY_STRIDE + v * STATE_VALUE_STRIDE];
    });
  }
  METHOD void store(float* state, int value) {
    each(value, [&](float& x, int k, int v) {
      state[k * STATE_KEY_STRIDE + v * STATE_VALUE_STRIDE] = x * unit.up();
    });
  }

  // Each of the lane's numbers, its channel and its value row.
  template <typename Do>
  METHOD void each(int value, Do act) {
    const int lane = lane_index();
#pragma unroll
    for (int n = 0; n < KEY / 8; ++n) {
#pragma unroll
      for (int c = 0; c < 4; ++c) act(s[n][c], n * 8 + lane % 4 * 2 + c % 2, value + lane / 4 + c / 2 * 8);
    }
  }
};

// Accumulators as the register operand of products over their columns, 16 FROM and on.
template <typename Element, int FROM = 0, int N, int M>
DEVICE void to_operands(u32 (&a)[M][4], const float (&x)[N][4]) {
#pragma unroll
  for (int b = 0; b < M; ++b) {
    const int n = (FROM + b) * 2;
    if (n >= N) continue;
    a[b][0] = Element::pack(x[n][0], x[n][1]);
    a[b][1] = Element::pack(x[n][2], x[n][3]);
    a[b][2] = Element::pack(x[n + 1][0], x[n + 1][1]);
    a[b][3] = Element::pack(x[n + 1][2], x[n + 1][3]);
  }
}

template <int N>
DEVICE void scale_columns(float (&x)[N][4], const Columns& factors) {
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const float2 f = factors[n];
    x[n][0] *= f.x;
    x[n][1] *= f.y;
    x[n][2] *= f.x;
    x[n][3] *= f.y;
  }
}
template <int N>
DEVICE void scale_all(float (&x)[N][4], float factor) {
#pragma unroll
  for (int n = 0; n < N; ++n) {
#pragma unroll
    for (int c = 0; c < 4; ++c) x[n][c] *= factor;
  }
}

// sum[.][i] (+)= a[.][j] y[i][j] over the rows i of a tile of COLS columns, j from 16 FROM on.
template <int FROM = 0, int COLS, int M>
DEVICE void multiply_rows(float (&sum)[CHUNK / 8][4], const u32 (&a)[M][4], const ByColumns<COLS>& y, bool keep) {
#pragma unroll
  for (int s = 0; s < M; ++s) {
    if ((FROM + s) * 16 < COLS) multiply<0>(sum, a[s], y.step(FROM + s), keep || s > 0);
  }
}

// s[.][d] += n[.][t] k[t][d] over the tokens of a tile [CHUNK][KEY].
DEVICE void multiply_columns(float (&s)[KEY / 8][4], const u32 (&n)[CHUNK / 16][4], const ByRows<KEY>& k) {
#pragma unroll
  for (int t = 0; t < CHUNK / 16; ++t) multiply<1>(s, n[t], k.step(t), true);
}

// What queries read of S is scaled by itself, before what they read of the chunk is added; by channels S is scaled instead.
template <class Cfg>
constexpr bool READ_IS_SCALED = Cfg::OUTPUTS && Cfg::DECAY != CHANNEL;

// What of S each token erases, and what each query reads of it, into sums that are groups of products of their own. The
// operand of S is made in parts of Cfg::STEPS steps, as many as registers ask for; each waits for the part before.
template <class Cfg, int FROM = 0>
DEVICE void read_state(float (&n)[CHUNK / 8][4], float (&out)[CHUNK / 8][4], const float (&s)[KEY / 8][4],
                       const Buffer<Cfg>& buffer) {
  constexpr bool LAST = FROM + Cfg::STEPS >= KEY / 16;
  constexpr int MINE = LAST ? KEY / 16 - FROM : Cfg::STEPS;
  {
    u32 entering[MINE][4];
    to_operands<typename Cfg::Element, FROM>(entering, s);
    pin(entering);
    products_begin();
    if constexpr (Cfg::ERASE) {
      multiply_rows<FROM>(n, entering, ByColumns<KEY>(buffer.erased()), FROM > 0);
      if constexpr (LAST && Cfg::OUTPUTS) products_commit();
    }
    if constexpr (Cfg::OUTPUTS) multiply_rows<FROM>(out, entering, ByColumns<KEY>(buffer.queries()), FROM > 0);
    // Where nothing waits for them alone, they end with what the chunk adds.
    if constexpr (!LAST || Cfg::ERASE || READ_IS_SCALED<Cfg>) products_commit();
    if constexpr (!LAST) {
      if constexpr (Cfg::OUTPUTS && Cfg::ERASE) products_wait<0>(out, n);
      else if constexpr (Cfg::OUTPUTS) products_wait<0>(out);
      else products_wait<0>(n);
    }
  }
  if constexpr (!LAST) read_state<Cfg, FROM + Cfg::STEPS>(n, out, s, buffer);
}
