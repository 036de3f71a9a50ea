#pragma once

#include "numbers.cuh"
#include "ptx/base.cuh"

// S becomes A S + B from segment to segment, float32, where A is diagonal. A thread has one channel of ROWS values. `next`:
// where the state after the first segment lies, and at the same distance, B of each. `map`: A of the second segment.
DEVICE void join_segments(float* next, const float* map, int steps) {
  const int k = threadIdx.x;
  float s[ROWS];
#pragma unroll
  for (int row = 0; row < ROWS; ++row) s[row] = next[row * KEY + k];
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    next += VALUE * KEY;
    const float a = map[k];
#pragma unroll
    for (int row = 0; row < ROWS; ++row) {
      s[row] = s[row] * a + next[row * KEY + k];
      next[row * KEY + k] = s[row];
    }
    map += MAP_ROWS * KEY;
  }
}
