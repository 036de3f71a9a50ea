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

// The lane's part of the sum of S dS: of sums of rows of one by rows of the other, the diagonal.
template <typename Element>
DEVICE float state_overlap(const u32 (&s)[KEY / 16][4], const uint4* words, int lane) {
  float near[4] = {}, far[4] = {};
#pragma unroll
  for (int d = 0; d < KEY / 16; ++d) {
    const uint4 ds = words[d * 32 + lane];
    Element::mma(near, s[d], ds.x, ds.z);
    Element::mma(far, s[d], ds.y, ds.w);
  }
  const int apart = lane / 4 - lane % 4 * 2;
  return apart == 0 ? near[0] + far[2] : apart == 1 ? near[1] + far[3] : 0.0f;
}
