// The left operand of L = e kT from a tile of operands. `Row` is what is left of the erase gate, one factor per token.
#pragma once

#include "numbers.cuh"
#include "tile/tile.cuh"

template <typename Element, typename Row, int L>
struct LeftTile {
  int tile;
  struct Sums {
    float sum[2][4] = {};
  };
  METHOD void multiply(Sums& sums, int i0, int d, const u32 (&key)[4], int lane) const {
    u32 a[4];
    load_block<KEY>(a, tile, i0, d, lane);
    Element::mma(sums.sum[0], a, key[0], key[2]);
    Element::mma(sums.sum[1], a, key[1], key[3]);
  }
  // w and what the pairs (i, j) and (i, j + 1) erase of each other, times `factor`.
  METHOD float2 add(float2 w, const Sums& sums, int n, int half, int i, float2 factor) const {
    const float row = Row::of(i);
    return {w.x + sums.sum[n][half * 2] * row * factor.x, w.y + sums.sum[n][half * 2 + 1] * row * factor.y};
  }
  METHOD void store(const Sums& sums, int n, int half, int i, int j, float2 decay) const {
    const float row = Row::of(i);
    const float l0 = i > j ? sums.sum[n][half * 2] * decay.x * row : 0.0f;
    const float l1 = i > j + 1 ? sums.sum[n][half * 2 + 1] * decay.y * row : 0.0f;
    at<float2>(L + Tile<CHUNK, 4>::offset(i, j)) = {l0, l1};
  }
};
