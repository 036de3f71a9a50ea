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
    products_commit();
    if constexpr (!LAST) {
      if constexpr (Cfg::OUTPUTS && Cfg::ERASE) products_wait<0>(out, n);
      else if constexpr (Cfg::OUTPUTS) products_wait<0>(out);
      else products_wait<0>(n);
    }
  }
  if constexpr (!LAST) read_state<Cfg, FROM + Cfg::STEPS>(n, out, s, buffer);
}

// S as the operand of two products, the second of which comes late, when sums and operands of others are spent: accumulators
// for both at once would be registers too many beside factors of every channel. Made in parts of Cfg::STEPS steps where
// registers are shorter still, and then known only after the wait for it.
template <class Cfg>
struct Entering {
  using Element = typename Cfg::Element;
  enum : int { STEPS = KEY / 16, WHOLE = Cfg::STEPS >= STEPS };
  u32 operand[WHOLE ? STEPS : Cfg::STEPS][4];

  METHOD void take(const float (&s)[KEY / 8][4]) {
    to_operands<Element>(operand, s);
    pin(operand);
  }
  // The last step's part lies in shared memory meanwhile; each lane has its own place.
  METHOD void put_by(int place) const {
    const u32(&a)[4] = operand[STEPS - 1];
    at<uint4>(place) = {a[0], a[1], a[2], a[3]};
  }
  METHOD void fetch(int place) {
    const uint4 a = at<uint4>(place);
    u32(&to)[4] = operand[STEPS - 1];
    to[0] = a.x, to[1] = a.y, to[2] = a.z, to[3] = a.w;
    pin(to);
  }
  // Begins sum (+)= S times the rows of a tile, where S is whole.
  METHOD void read_whole(float (&sum)[CHUNK / 8][4], const ByColumns<KEY>& tile, bool keep) const {
    products_begin();
    multiply_rows(sum, operand, tile, keep);
    products_commit();
  }
  // Begins sum = S times the rows of a tile. Each part waits for the one before.
  template <int FROM = 0>
  METHOD void read_parts(float (&sum)[CHUNK / 8][4], const float (&s)[KEY / 8][4], const ByColumns<KEY>& tile) {
    to_operands<Element, FROM>(operand, s);
    pin(operand);
    products_begin();
    multiply_rows<FROM>(sum, operand, tile, FROM > 0);
    products_commit();
    if constexpr (FROM + Cfg::STEPS < STEPS) {
      products_wait<0>(sum);
      read_parts<FROM + Cfg::STEPS>(sum, s, tile);
    }
  }
};

// The decay of S over a chunk.
template <class Cfg>
DEVICE void decay_state(float (&s)[KEY / 8][4], const Buffer<Cfg>& buffer, int lane) {
  if constexpr (Cfg::DECAY == TOKEN) scale_all(s, at<float>(buffer.chunk_decay()));
  if constexpr (Cfg::DECAY == CHANNEL) {
#pragma unroll
    for (int d = 0; d < KEY / 16; ++d) {
      const float4 f = at<float4>(buffer.chunk_decay() + d * 64 + lane % 4 * 16);
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        s[d * 2][c] *= c % 2 ? f.y : f.x;
        s[d * 2 + 1][c] *= c % 2 ? f.w : f.z;
      }
    }
  }
}
