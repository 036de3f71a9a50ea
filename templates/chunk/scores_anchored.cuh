// L and P where every channel decays at its own rate:
//   L_ij = row_i * sum_d e_id k_jd 2^(G_id - G_jd)   i > j     P_ij = sum_d q_id k_jd 2^(G_id - G_jd)   i >= j
// G the prefix sums, which only fall. The factor is split at an anchor row a, j <= a <= i, into
// 2^(G_i - G_a) on the row and 2^(G_a - G_j) on the column: no exponent is above 0, at any decay.
//
// Blocks below the diagonal are anchored at their first row. A diagonal block is halved, 16 to 8, 4, 2, 1: at level h
// the later half of each 2h rows meets the earlier half, anchored at the later half's first row, and the factor of a
// row is 2^-|G_r - G_a| whichever half it is in. Each level is one product, of which only its own pairs are kept; what
// remains is the diagonal itself, where the factor is 1. A task takes two levels.
// Tiles read: q, k, sums, and those of `left`. Written: p and l; blocks above the diagonal are never read. Without QUERIES
// L alone: q and p are no tiles then.
#pragma once

#include "numbers.cuh"
#include "ptx/elements.cuh"
#include "tile/tile.cuh"

// Where G of the anchor stands for row r at level h.
template <int H>
DEVICE int anchor_row(int r) {
  return r / (2 * H) * (2 * H) + H;
}

// Entries (i, j) and (i, j + 1), j even, of a diagonal block, by the highest bit in which i and j differ. The task of
// levels 8 and 4 keeps pairs that differ there, the task of levels 2 and 1 the rest and the diagonal.
template <int HIGH>
DEVICE bool keeps_pair(int i, int j) {
  return HIGH == 8 ? (i ^ j) % 16 >= 4 : (i ^ j) % 16 < 4;
}

template <int HIGH>
DEVICE float2 diagonal_pair(float2 high, float2 low, float2 diagonal, int i, int j) {
  if (HIGH == 2 && i / 2 == j / 2) return i == j ? float2{diagonal.x, 0.0f} : float2{low.x, diagonal.y};
  if (i < j) return {0.0f, 0.0f};
  return (i ^ j) & HIGH ? high : low;
}

template <typename Element, bool QUERIES, int HIGH, typename Left>
DEVICE void scores_diagonal(const Left& left, int q, int k, int sums, int p, int i0) {
  float query[2][2][4] = {}, diagonal[2][4] = {};
  typename Left::Sums erase[2];
#pragma unroll 1
  for (int d = 0; d < KEY; d += 16) {
    const int lane = lane_index();  // anew: addresses held through the loop would be registers too many
    u32 query_block[4], key_block[4];
    if constexpr (QUERIES) load_block<KEY>(query_block, q, i0, d, lane);
    load_block<KEY>(key_block, k, i0, d, lane);
    Fragment x;
    if constexpr (QUERIES) x = unpack<Element>(query_block);
    const Fragment y = unpack<Element>(key_block);
    const typename Left::Operand e = left.gate(y, i0, d, lane);
    const Fragment sum = Stored<float, KEY>::fragment(sums, i0, d, lane);
    if constexpr (QUERIES && HIGH == 2) {
      Element::mma(diagonal[0], query_block, key_block[0], key_block[2]);
      Element::mma(diagonal[1], query_block, key_block[1], key_block[3]);
    }
#pragma unroll
    for (int level = 0; level < 2; ++level) {
      Fragment factor;
#pragma unroll
      for (int part = 0; part < 4; ++part) {
        const int row = lane / 4 + part % 2 * 8;
        const int anchor = level == 0 ? anchor_row<HIGH>(row) : anchor_row<HIGH / 2>(row);
        const float2 base = load_pair<KEY>(sums, i0 + anchor, d, part, lane);
        factor.pair[part] = {exp2(-fabsf(sum.pair[part].x - base.x)), exp2(-fabsf(sum.pair[part].y - base.y))};
      }
      u32 a[4], b[4];
      if constexpr (QUERIES) pack_product<Element>(a, x, factor);
      pack_product<Element>(b, y, factor);
      if constexpr (QUERIES) {
        Element::mma(query[level][0], a, b[0], b[2]);
        Element::mma(query[level][1], a, b[1], b[3]);
      }
      left.multiply(erase[level], e, factor, b);
    }
  }
  const int lane = lane_index();
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int i = i0 + half * 8 + lane / 4, j = i0 + n * 8 + lane % 4 * 2;
      if (keeps_pair<HIGH>(i, j)) {
        if constexpr (QUERIES) {
          const float2 high = {query[0][n][half * 2], query[0][n][half * 2 + 1]};
          const float2 low = {query[1][n][half * 2], query[1][n][half * 2 + 1]};
          const float2 pair =
              diagonal_pair<HIGH>(high, low, {diagonal[n][half * 2], diagonal[n][half * 2 + 1]}, i, j);
          at<u32>(p + Tile<CHUNK, 2>::offset(i, j)) = Element::pack(pair.x, pair.y);
        }
        left.template store_diagonal<HIGH>(erase, n, half, i, j);
      }
    }
  }
}

template <typename Element, bool QUERIES, typename Left>
DEVICE void scores_below(const Left& left, int q, int k, int sums, int p, int i0, int j0) {
  const int lane = lane_index();
  float query[2][4] = {};
  typename Left::Sums erase;
#pragma unroll 1
  for (int d = 0; d < KEY; d += 16) {
    const Fragment row_sum = Stored<float, KEY>::fragment(sums, i0, d, lane);
    const Fragment col_sum = Stored<float, KEY>::fragment(sums, j0, d, lane);
    Fragment row_factor, col_factor;
#pragma unroll
    for (int part = 0; part < 4; ++part) {
      const float2 base = load_pair<KEY>(sums, i0, d, part, lane);
      row_factor.pair[part] = {exp2(row_sum.pair[part].x - base.x), exp2(row_sum.pair[part].y - base.y)};
      col_factor.pair[part] = {exp2(base.x - col_sum.pair[part].x), exp2(base.y - col_sum.pair[part].y)};
    }
    u32 a[4], b[4];
    if constexpr (QUERIES) pack_product<Element>(a, Stored<Element, KEY>::fragment(q, i0, d, lane), row_factor);
    pack_product<Element>(b, Stored<Element, KEY>::fragment(k, j0, d, lane), col_factor);
    if constexpr (QUERIES) {
      Element::mma(query[0], a, b[0], b[2]);
      Element::mma(query[1], a, b[1], b[3]);
    }
    left.multiply(erase, left.load(k, i0, d, lane), row_factor, b);
  }
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int i = i0 + half * 8 + lane / 4, j = j0 + n * 8 + lane % 4 * 2;
      if constexpr (QUERIES) {
        at<u32>(p + Tile<CHUNK, 2>::offset(i, j)) = Element::pack(query[n][half * 2], query[n][half * 2 + 1]);
      }
      left.store_below(erase, n, half, i, j);
    }
  }
}

template <typename Element, bool QUERIES = true, typename Left>
DEVICE void scores_anchored(const Left& left, int q, int k, int sums, int p) {
  constexpr int BLOCKS = CHUNK / 16;
  for (int task = warp_index(); task < BLOCKS * 2 + BLOCKS * (BLOCKS - 1) / 2; task += WARPS) {
    if (task < BLOCKS) {
      scores_diagonal<Element, QUERIES, 8>(left, q, k, sums, p, task * 16);
    } else if (task < BLOCKS * 2) {
      scores_diagonal<Element, QUERIES, 2>(left, q, k, sums, p, (task - BLOCKS) * 16);
    } else {
      int row = 1, col = task - BLOCKS * 2;
      while (col >= row) col -= row++;
      scores_below<Element, QUERIES>(left, q, k, sums, p, row * 16, col * 16);
    }
  }
}
