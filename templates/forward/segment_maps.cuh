// A segment maps the state S it starts from to A S + B, and A is what it makes of the identity where nothing is written.
// Which rows a block makes: of A, or of B, the state after a start from zeros. The first segment's start is known, which
// gives its end at once; the last one's end is nobody's start.
#pragma once

#include "numbers.cuh"
#include "forward/segments.cuh"
#include "ptx/elements.cuh"

struct Map : Segment {
  bool composes;  // rows of A
};

DEVICE Map find_map(Work work) {
  const int block = work.value_block + MAP_BLOCKS, part = block % (MAP_BLOCKS + SLICES);
  const bool composes = part < MAP_BLOCKS;
  work.value_block = composes ? part : part - MAP_BLOCKS;
  return {find_segment(work, block / (MAP_BLOCKS + SLICES)), composes};
}

// The identity, or where A is diagonal one row of ones that stands for it.
template <class Rows>
DEVICE void begin_map(Rows& state, int value) {
  const int lane = lane_index();
#pragma unroll
  for (int n = 0; n < KEY / 8; ++n) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int k = n * 8 + lane % 4 * 2 + c % 2, row = value + lane / 4 + c / 2 * 8;
      state.s[n][c] = row == (MAP_ROWS == 1 ? 0 : k) ? 1.0f : 0.0f;
    }
  }
}
