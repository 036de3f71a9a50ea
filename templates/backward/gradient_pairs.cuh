// Gradients of the scores: dP_ij = scale dO_i . N_j for i >= j and dL_ij = -dR_i . N_j for i > j, times the decay between
// i and j where it is one factor per pair. 16x16 blocks over the warps; sums over value tiles may come in parts.
// The diagonal of dP, which carries no decay, goes to a vector of its own and is zero in the tile. `Totals` takes what
// each pair gives to the decay between its tokens.
#pragma once

#include "numbers.cuh"
#include "backward/value_rows.cuh"
#include "chunk/unit.cuh"

enum : int {
  BLOCKS = CHUNK / 16,
  PAIR_BLOCKS = BLOCKS * (BLOCKS + 1) / 2,
  PAIR_TASKS = (PAIR_BLOCKS + WARPS - 1) / WARPS,
};

// Sixteen tokens of a slice as a B operand whose columns are tokens: {x, y} of the first eight, {z, w} of the rest.
DEVICE uint4 load_token_columns(int slice, int row) {
  const int lane = lane_index();
  const uint2 near = at<uint2>(slice + (row + lane / 4) * 32 + lane % 4 * 8);
  const uint2 far = at<uint2>(slice + (row + 8 + lane / 4) * 32 + lane % 4 * 8);
  return {near.x, near.y, far.x, far.y};
}

// The decay, if any, is not one factor per pair: its gradient follows from those along K.
struct NoPairTotals {
  struct Block {};
  METHOD void multiply(Block&, int, int) const {}
  METHOD void add(Block&, int, int, int, int, float2, float2, float2) const {}
  METHOD void store(const Block&, int, int) const {}
};

struct NoErasePairs {
  struct Sums {};
  METHOD float2 gradient(const Sums&, int, int) const { return {0.0f, 0.0f}; }
  METHOD void multiply(Sums&, int, int, const uint4&) const {}
  METHOD void raise(Sums&, float) const {}
  METHOD void store(const Sums&, int, int, int, int, float2) const {}
};

// dL, from dR's slices.
template <typename Element, int DR, int DL>
struct ErasePairs {
  struct Sums {
    float sum[2][4] = {};
  };
  METHOD void multiply(Sums& sums, int tile, int i0, const uint4& n) const {
    u32 a[4];
    load_tokens(a, DR + tile * SLICE<Element>, i0);
    Element::mma(sums.sum[0], a, n.x, n.y);
    Element::mma(sums.sum[1], a, n.z, n.w);
  }
  METHOD void raise(Sums& sums, float factor) const { change_unit(sums.sum, factor); }
  METHOD float2 gradient(const Sums& sums, int n, int half) const {
    return {-sums.sum[n][half * 2], -sums.sum[n][half * 2 + 1]};
  }
  METHOD void store(const Sums& sums, int n, int half, int i, int j, float2 decay) const {
    const float2 l = gradient(sums, n, half);
    const float l0 = i > j ? l.x * decay.x : 0.0f;
    const float l1 = i > j + 1 ? l.y * decay.y : 0.0f;
    at<u32>(DL + Tile<CHUNK, 2>::offset(i, j)) = Element::pack(l0, l1);
  }
};

template <typename Element, typename Erase>
struct PairGradients {
  float p[PAIR_TASKS][2][4] = {};
  typename Erase::Sums l[PAIR_TASKS];

  template <typename Visit>
  static METHOD void each_block(Visit visit) {
#pragma unroll
    for (int t = 0; t < PAIR_TASKS; ++t) {
      const int block = warp_index() + t * WARPS;
      if (block < PAIR_BLOCKS) {
        int row = 0, col = block;
        while (col > row) col -= ++row;
        visit(t, row * 16, col * 16);
      }
    }
  }

  METHOD void multiply(const Erase& erase, int grad, int n, int tiles) {
    each_block([&](int t, int i0, int j0) {
#pragma unroll 1
      for (int tile = 0; tile < tiles; ++tile) {
        u32 a[4];
        load_tokens(a, grad + tile * SLICE<Element>, i0);
        const uint4 b = load_token_columns(n + tile * SLICE<Element>, j0);
        Element::mma(p[t][0], a, b.x, b.y);
        Element::mma(p[t][1], a, b.z, b.w);
        erase.multiply(l[t], tile, i0, b);
      }
    });
  }

  template <typename Pair, typename Totals>
  METHOD void store(const Erase& erase, const Totals& totals, int dp, int diagonal, float scale) const {
    const int lane = lane_index();
    each_block([&](int t, int i0, int j0) {
      typename Totals::Block block;
      totals.multiply(block, i0, j0);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int i = i0 + half * 8 + lane / 4, j = j0 + n * 8 + lane % 4 * 2;
          const float2 decay = {Pair::of(i, j), Pair::of(i, j + 1)};
          const float p0 = p[t][n][half * 2] * scale, p1 = p[t][n][half * 2 + 1] * scale;
          at<u32>(dp + Tile<CHUNK, 2>::offset(i, j)) =
              Element::pack(i > j ? p0 * decay.x : 0.0f, i > j + 1 ? p1 * decay.y : 0.0f);
          if (i == j) at<float>(diagonal + i * 4) = p0;
          if (i == j + 1) at<float>(diagonal + i * 4) = p1;
          erase.store(l[t], n, half, i, j, decay);
          totals.add(block, n, half, i, j, decay, {p0, p1}, erase.gradient(l[t], n, half));
        }
      }
      totals.store(block, i0, j0);
    });
  }
};
