// L and P where the decay, if any, is one factor per pair of tokens:
//   L_ij = row_i * pair_ij * (e_i . k_j)   i > j     P_ij = pair_ij * (q_i . k_j)   i >= j
// in 16x16 blocks on and below the diagonal, one block to a warp. Blocks above the diagonal are never read.
// Tiles read: q, k, e of [CHUNK][KEY]. Written: p (operand type) and l (float32), [CHUNK][CHUNK]. Without QUERIES L alone:
// q and p are no tiles then.
#pragma once

#include "numbers.cuh"
#include "ptx/elements.cuh"
#include "tile/tile.cuh"

// q_i . k_j and e_i . k_j of one block.
template <typename Element, bool QUERIES = true, typename Left>
DEVICE void raw_scores(float (&query)[2][4], typename Left::Sums& erase, const Left& left, int q, int k, int i0, int j0) {
  const int lane = lane_index();
#pragma unroll 4
  for (int d = 0; d < KEY; d += 16) {
    u32 key[4], a[4];
    load_block<KEY>(key, k, j0, d, lane);
    if constexpr (QUERIES) {
      load_block<KEY>(a, q, i0, d, lane);
      Element::mma(query[0], a, key[0], key[2]);
      Element::mma(query[1], a, key[1], key[3]);
    }
    left.multiply(erase, i0, d, key, lane);
  }
}

template <typename Element, typename Left, typename Decay, bool QUERIES = true>
DEVICE void scores_pair(const Left& left, int q, int k, int p) {
  constexpr int BLOCKS = CHUNK / 16;
  const int lane = lane_index();
  for (int task = warp_index(); task < BLOCKS * (BLOCKS + 1) / 2; task += WARPS) {
    int row = 0;
    while ((row + 1) * (row + 2) / 2 <= task) ++row;
    const int i0 = row * 16, j0 = (task - row * (row + 1) / 2) * 16;

    float query[2][4] = {};
    typename Left::Sums erase;
    raw_scores<Element, QUERIES>(query, erase, left, q, k, i0, j0);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int i = i0 + half * 8 + lane / 4, j = j0 + n * 8 + lane % 4 * 2;
        const float2 decay = {Decay::of(i, j), Decay::of(i, j + 1)};
        if constexpr (QUERIES) {
          const float p0 = i >= j ? query[n][half * 2] * decay.x : 0.0f;
          const float p1 = i >= j + 1 ? query[n][half * 2 + 1] * decay.y : 0.0f;
          at<u32>(p + Tile<CHUNK, 2>::offset(i, j)) = Element::pack(p0, p1);
        }
        left.store(erase, n, half, i, j, decay);
      }
    }
  }
}
