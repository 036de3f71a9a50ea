// Scores of a chunk where the decay, if any, is one factor per pair of tokens, in the registers of the factor warpgroup:
//   P_ij = scale D(j, i) (q_i . k_j)   i >= j        L_ij = b_i D(j, i) (e_i . k_j)   i > j
// with D(j, i) the decay after token j through token i. Warp w has rows 16 w and on, lane l of it as accumulators have them:
//
//                 columns  0 1  2 3  4 5  6 7 | 8 9 ..
//   row 16 w +  0          l0   l1   l2   l3  | l0          sum[n][0], sum[n][1]: columns 8 n + 2 (l % 4) and the next
//               1          l4   l5   l6   l7  | l4
//              ..
//               8          l0   l1   l2   l3  | l0          sum[n][2], sum[n][3]
//
// What lies right of the warp's own block is not used.
#pragma once

#include "forward/wgmma/products.cuh"
#include "forward/wgmma/solve_rows.cuh"
#include "numbers.cuh"

// Rows of the operands of a warpgroup product.
enum : int { PRODUCT_ROWS = 64 };

// q_i . k_j and e_i . k_j: by warpgroup products where a chunk has as many rows as those.
template <class Cfg>
DEVICE void raw_scores(float (&p)[CHUNK / 8][4], float (&l)[CHUNK / 8][4], const Buffer<Cfg>& buffer) {
  using Element = typename Cfg::Element;
  if constexpr (CHUNK == PRODUCT_ROWS) {
    const ByColumns<KEY> keys(buffer.keys());
    fence_async();  // copies were ordinary writes
    products_begin();
#pragma unroll
    for (int s = 0; s < KEY / 16; ++s) {
      if constexpr (Cfg::ERASE) multiply_tiles(l, ByColumns<KEY>(buffer.erased()).step(s), keys.step(s), s > 0);
      if constexpr (Cfg::OUTPUTS) multiply_tiles(p, ByColumns<KEY>(buffer.queries()).step(s), keys.step(s), s > 0);
    }
    products_commit();
    if constexpr (Cfg::OUTPUTS && Cfg::ERASE) products_wait<0>(p, l);
    else if constexpr (Cfg::OUTPUTS) products_wait<0>(p);
    else products_wait<0>(l);
  } else {
    const int lane = lane_index(), block = warp_index();
#pragma unroll
    for (int n = 0; n < CHUNK / 8; ++n) {
#pragma unroll
      for (int c = 0; c < 4; ++c) p[n][c] = l[n][c] = 0.0f;
    }
    if (block >= BLOCKS) return;
#pragma unroll 4
    for (int d = 0; d < KEY; d += 16) {
      u32 query[4], erased[4];
      if constexpr (Cfg::OUTPUTS) RowCursor<KEY>(buffer.queries(), block * 16, lane).load(query, d);
      if constexpr (Cfg::ERASE) RowCursor<KEY>(buffer.erased(), block * 16, lane).load(erased, d);
#pragma unroll
      for (int other = 0; other < BLOCKS; ++other) {
        if (other > block) continue;
        u32 key[4];
        RowCursor<KEY>(buffer.keys(), 0, lane).load(key, d, other * 16);
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          if constexpr (Cfg::OUTPUTS) Element::mma(p[other * 2 + n], query, key[n], key[n + 2]);
          if constexpr (Cfg::ERASE) Element::mma(l[other * 2 + n], erased, key[n], key[n + 2]);
        }
      }
    }
  }
}

// What a warp has of L, as the inverse takes it.
template <typename Element>
struct RowsOfL {
  float near[2][2];  // below the diagonals of the two 8x8 blocks on the diagonal
  float halves[2];   // the 8x8 block below the one and left of the other
  float sum[CHUNK / 8][4];  // the blocks left of these

  // A block of the latter as an operand, high and low.
  METHOD void operand(u32 (&high)[4], u32 (&low)[4], int block) const {
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      const float(&pair)[4] = sum[block * 2 + p / 2];
      const Halved<Element> l(pair[p % 2 * 2], pair[p % 2 * 2 + 1]);
      high[p] = l.high;
      low[p] = l.low;
    }
  }
};

// Decays between blocks are split at the later one's first token, so that none is above 1; within a block each pair has its
// own.
struct NoDecays {
  METHOD float since(int) const { return 1.0f; }
  METHOD float2 until(int) const { return {1.0f, 1.0f}; }
  METHOD float between(int, int, int) const { return 1.0f; }
};

// `gamma`: log2 of the decay from the chunk's start through each token, of which the block's is the `first`.
struct PairDecays {
  Columns gamma;
  float anchor, row[2];
  METHOD PairDecays(int vector, int first, int lane) : gamma(vector, lane), anchor(at<float>(vector + first * 4)) {
#pragma unroll
    for (int half = 0; half < 2; ++half) row[half] = at<float>(vector + (first + lane / 4 + half * 8) * 4);
  }
  METHOD float since(int half) const { return exp2(row[half] - anchor); }
  METHOD float2 until(int n) const { return {exp2(anchor - gamma[n].x), exp2(anchor - gamma[n].y)}; }
  METHOD float between(int half, int n, int c) const {
    return exp2(fminf(row[half] - (c == 0 ? gamma[n].x : gamma[n].y), 0.0f));
  }
};

// Scores of a block with another, 16 columns from 8 n on, with their factors: P as operands, L where it stays.
template <class Cfg, typename Decays>
struct ScaledScores {
  using Element = typename Cfg::Element;
  const Decays& decays;
  const float (&p)[CHUNK / 8][4];
  RowsOfL<Element>& l;
  const RowCursor<CHUNK>& to;
  float by_p[2], by_l[2];

  // With itself. Entry [i][c] is of the 8x8 block i of columns, rows 8 (c / 2) and on.
  METHOD void own(int n, int lane) const {
    const int apart = lane / 4 - lane % 4 * 2;  // tokens apart, of the first of the lane's two, in an 8x8 block on the diagonal
    float x[2][4] = {}, y[2][4] = {};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int c = i * 2; c < 4; ++c) {
        const bool below = i == 0 && c >= 2;
        const float decay = decays.between(c / 2, n + i, c % 2);
        if constexpr (Cfg::OUTPUTS) x[i][c] = below || apart >= c % 2 ? p[n + i][c] * decay * by_p[c / 2] : 0.0f;
        if constexpr (Cfg::ERASE) y[i][c] = below || apart > c % 2 ? l.sum[n + i][c] * decay * by_l[c / 2] : 0.0f;
      }
    }
    if constexpr (Cfg::OUTPUTS) store_sums<Element>(to, x[0], x[1], n * 8);
    if constexpr (Cfg::ERASE) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        l.near[0][c] = y[0][c];
        l.near[1][c] = y[1][c + 2];
        l.halves[c] = y[0][c + 2];
      }
    }
  }

  // With one before it, decays since the later block's first token being part of the factors.
  METHOD void left(int n) const {
    float x[2][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float2 until = decays.until(n + i);
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const float decay = c % 2 ? until.y : until.x;
        if constexpr (Cfg::OUTPUTS) x[i][c] = p[n + i][c] * decay * by_p[c / 2];
        if constexpr (Cfg::ERASE) l.sum[n + i][c] *= decay * by_l[c / 2];
      }
    }
    if constexpr (Cfg::OUTPUTS) store_sums<Element>(to, x[0], x[1], n * 8);
  }
};

template <class Cfg, typename Decays>
DEVICE void scale_scores(RowsOfL<typename Cfg::Element>& l, const float (&p)[CHUNK / 8][4], const Buffer<Cfg>& buffer,
                         const Decays& decays, float scale, int block, int lane) {
  const RowCursor<CHUNK> to(Cfg::OUTPUTS ? buffer.p() : 0, block * 16, lane);
  ScaledScores<Cfg, Decays> scores{decays, p, l, to, {scale, scale}, {1.0f, 1.0f}};
  if constexpr (Cfg::ERASE == TOKEN) {
    const int beta = buffer.vector(Cfg::SMEM_BETA) + (block * 16 + lane / 4) * 4;
    scores.by_l[0] = at<float>(beta);
    scores.by_l[1] = at<float>(beta + 32);
  }
#pragma unroll
  for (int other = 0; other < BLOCKS; ++other) {
    if (other == block) scores.own(other * 2, lane);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    scores.by_p[half] *= decays.since(half);
    scores.by_l[half] *= decays.since(half);
  }
#pragma unroll
  for (int other = 0; other + 1 < BLOCKS; ++other) {
    if (other < block) scores.left(other * 2);
  }
}

template <class Cfg>
DEVICE void scale_scores(RowsOfL<typename Cfg::Element>& l, const float (&p)[CHUNK / 8][4], const Buffer<Cfg>& buffer,
                         float scale, int block) {
  const int lane = lane_index();
  if constexpr (Cfg::DECAY == TOKEN) {
    scale_scores<Cfg>(l, p, buffer, PairDecays(buffer.vector(Cfg::SMEM_GAMMA), block * 16, lane), scale, block, lane);
  } else {
    scale_scores<Cfg>(l, p, buffer, NoDecays{}, scale, block, lane);
  }
}

// PARTS: groups of warps that divide the work, as where channels decay; here one warpgroup makes all.
template <class Cfg, int PARTS = 1>
struct ChunkFactors {
  METHOD ChunkFactors() {
    // Nothing else is ever written there.
    for (Stage stage; stage.parity == 0; stage.advance()) {
      const Buffer<Cfg> buffer(stage);
      if constexpr (Cfg::OUTPUTS) clear_above(buffer.p());
      if constexpr (Cfg::ERASE) clear_above(buffer.m());
    }
  }

  METHOD void make(const Buffer<Cfg>& buffer, float scale) const {
    using Element = typename Cfg::Element;
    if constexpr (Cfg::ERASE == CHANNEL) make_erased(buffer);
    RowsOfL<Element> l;
    float p[CHUNK / 8][4];
    raw_scores<Cfg>(p, l.sum, buffer);
    if (warp_index() < BLOCKS) scale_scores<Cfg>(l, p, buffer, scale, warp_index());
    if constexpr (Cfg::ERASE) solve_rows<Element>(l, buffer.m());
  }
};
