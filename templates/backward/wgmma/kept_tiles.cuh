// Kept states: a warp's 16 value rows as the register operand of products over channels, and as rows of a tile. Their order
// is that in which they were kept, and that of all tiles whose rows are values.
#pragma once

#include "chunk/kept_layout.cuh"
#include "forward/wgmma/blocks.cuh"
#include "numbers.cuh"

enum : int {
  ROW_BLOCK = 64,                     // value rows of a warpgroup, and channels
  VALUE_BLOCK = VALUE * ROW_BLOCK * 2,  // bytes of a state's tile to so many channels
};

// Groups of 16 channels, FROM and on, of a warp's words.
template <int FROM = 0, int M>
DEVICE void fetch_kept(u32 (&a)[M][4], const uint4* words, int lane) {
#pragma unroll
  for (int d = 0; d < M; ++d) {
    const uint4 x = words[(FROM + d) * 32 + lane];
    a[d][0] = x.x, a[d][1] = x.y, a[d][2] = x.z, a[d][3] = x.w;
  }
}

// The same as rows `row` and on of a tile [VALUE][KEY].
template <int FROM = 0, int M>
DEVICE void store_kept(int tile, int row, const u32 (&a)[M][4], int lane) {
#pragma unroll
  for (int d = FROM; d < FROM + M; ++d) {
    RowCursor<ROW_BLOCK>(tile + d * 16 / ROW_BLOCK * VALUE_BLOCK, row, lane).store(a[d - FROM], d * 16 % ROW_BLOCK);
  }
}

// Half of a warp's words at a time: registers are short.
template <int FROM = 0>
DEVICE void copy_kept(int tile, int row, const uint4* words, int lane) {
  u32 a[KEY / 32][4];
  fetch_kept<FROM>(a, words, lane);
  store_kept<FROM>(tile, row, a, lane);
  if constexpr (FROM == 0) copy_kept<KEY / 32>(tile, row, words, lane);
}

// Sums of rows of S by rows of dS, of which the diagonal is wanted: the lane's part of the sum of S dS.
template <typename Element>
struct Overlap {
  float near[4] = {}, far[4] = {};

  METHOD void add(const u32 (&s)[4], const u32 (&ds)[4]) {
    Element::mma(near, s, ds[0], ds[2]);
    Element::mma(far, s, ds[1], ds[3]);
  }
  METHOD float sum(int lane) const {
    const int apart = lane / 4 - lane % 4 * 2;
    return apart == 0 ? near[0] + far[2] : apart == 1 ? near[1] + far[3] : 0.0f;
  }
};
