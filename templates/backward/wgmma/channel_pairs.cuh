// Gradients of the scores where every channel decays at its own rate, which has its place along K:
//   dP_ij = scale (dO_i . N_j)   i >= j        dL_ij = -(dR_i . N_j)   i > j
// dP's diagonal, which carries no decay, goes to a vector of its own.
#pragma once

#include "forward/wgmma/blocks.cuh"
#include "forward/wgmma/products.cuh"
#include "forward/wgmma/ring.cuh"
#include "numbers.cuh"

// Rows of the warp's 16 tokens, dP to the first warpgroup and dL to the second.
template <class Cfg>
struct ChannelPairs {
  using Element = typename Cfg::Element;
  float d[CHUNK / 8][4];

  static METHOD bool has(int group) { return Cfg::ERASE || group == 0; }
  static METHOD int rows(int group) {
    if constexpr (Cfg::ERASE) return group == 0 ? Cfg::SMEM_DO : Cfg::SMEM_DR;
    else return Cfg::SMEM_DO;
  }
  static METHOD int tile(int group) {
    if constexpr (Cfg::ERASE) return group == 0 ? Cfg::SMEM_DP : Cfg::SMEM_DL;
    else return Cfg::SMEM_DP;
  }

  // Begins the products, a group of them.
  METHOD void begin(int group) {
    const ByRows<CHUNK> left(rows(group)), writes(Cfg::SMEM_N);
    products_begin();
#pragma unroll
    for (int s = 0; s < VALUE / 16; ++s) multiply_turned<1, 1>(d, left.step(s), writes.step(s), s > 0);
    products_commit();
  }

  // Once they are done, while one group of others may be under way.
  METHOD void store(float scale, int group, int block) {
    products_wait<1>(d);
    const int lane = lane_index(), first = block * 16 + lane / 4, apart = first - lane % 4 * 2;
    const float factor = group == 0 ? scale : -1.0f;
    const RowCursor<CHUNK> rows(tile(group), block * 16, lane);
#pragma unroll
    for (int other = 0; other < CHUNK / 16; ++other) {
      float x[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const int n = other * 2 + i, later = apart + c / 2 * 8 - n * 8 - c % 2;  // tokens from the column's to the row's
          const float gradient = d[n][c] * factor;
          if (later == 0 && group == 0) at<float>(Cfg::SMEM_DIAGONAL + (first + c / 2 * 8) * 4) = gradient;
          x[i][c] = later > 0 ? gradient : 0.0f;
        }
      }
      store_sums<Element>(rows, x[0], x[1], other * 16);
    }
  }
};
