// Tiles [CHUNK][KEY] as warps with 16 channels of their own see them: channels are rows of fragments, tokens columns.
//
// A lane has channels lane / 4 and eight on, and of 16 tokens 2 (lane % 4), the next, and those eight on: two channels (c) by
// two pairs of tokens (t).
#pragma once

#include "forward/wgmma/blocks.cuh"
#include "numbers.cuh"
#include "ptx/elements.cuh"
#include "ptx/shared.cuh"

// 16 tokens of a tile of 16-bit numbers.
template <typename T>
struct TokenBlock {
  u32 pairs[4];

  METHOD void load(int tile, int first, int channel, int lane) {
    RowCursor<KEY>(tile, first, lane).load_transposed(pairs, channel);
  }
  METHOD u32 pair(int c, int t) const { return pairs[c * 2 + t]; }
  METHOD float2 numbers(int c, int t) const { return {T::low(pair(c, t)), T::high(pair(c, t))}; }
};
template <>
struct TokenBlock<float> {
  float2 stored[4];

  METHOD void load(int tile, int first, int channel, int lane) {
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      const int row = first + p % 2 * 8 + lane % 4 * 2, column = channel + p / 2 * 8 + lane / 4;
      stored[p] = {at<float>(tile + Tile<KEY, 4>::offset(row, column)), at<float>(tile + Tile<KEY, 4>::offset(row + 1, column))};
    }
  }
  METHOD float2 numbers(int c, int t) const { return stored[c * 2 + t]; }
};

// The same of accumulators, [n-tile][2 c + token], into a tile stored as T.
template <typename T>
struct BlockStore {
  static METHOD void store(int tile, int first, int channel, const float (&x)[2][4], int lane) {
    u32 pairs[4];
#pragma unroll
    for (int p = 0; p < 4; ++p) pairs[p] = T::pack(x[p % 2][p / 2 * 2], x[p % 2][p / 2 * 2 + 1]);
    RowCursor<KEY>(tile, first, lane).store_transposed(pairs, channel);
  }
};
template <>
struct BlockStore<float> {
  static METHOD void store(int tile, int first, int channel, const float (&x)[2][4], int lane) {
#pragma unroll
    for (int p = 0; p < 8; ++p) {
      const int row = first + p / 4 * 8 + lane % 4 * 2 + p % 2, column = channel + p % 4 / 2 * 8 + lane / 4;
      at<float>(tile + Tile<KEY, 4>::offset(row, column)) = x[p / 4][p % 4];
    }
  }
};
