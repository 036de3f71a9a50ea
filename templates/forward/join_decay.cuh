#pragma once

#include "numbers.cuh"

// S becomes A S + B where A is diagonal, float32. A thread has one channel of ROWS values; `next` points at B.
DEVICE void join(float (&s)[ROWS], const float* next, const float* map) {
  const int k = threadIdx.x;
  const float decay = map[k];
#pragma unroll
  for (int row = 0; row < ROWS; ++row) s[row] = s[row] * decay + next[row * KEY + k];
}
