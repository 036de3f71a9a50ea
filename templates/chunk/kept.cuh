// Keeps the states of mma.sync's warps in memory.
#pragma once

#include "numbers.cuh"
#include "chunk/kept_layout.cuh"
#include "chunk/state.cuh"

template <typename Element>
DEVICE void keep_state(State<Element>& state, uint4* words) {
  const int lane = lane_index();
  keep_unit(state.unit, state.s, words);
#pragma unroll
  for (int d = 0; d < KEY / 16; ++d) {
    u32 a[4];
    to_operand<Element, One>(a, state.s, d, lane);
    words[d * 32 + lane] = {a[0], a[1], a[2], a[3]};
  }
}
