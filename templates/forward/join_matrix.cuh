#pragma once

#include "numbers.cuh"
#include "ptx/shared.cuh"

// S becomes A S + B, float32. A thread has one channel of ROWS values; `s` is S and `next` points at B.
DEVICE void join(float (&s)[ROWS], const float* next, const float* map) {
  const int k = threadIdx.x;
  __syncthreads();  // all have read the S before
#pragma unroll
  for (int row = 0; row < ROWS; ++row) at<float>(SMEM_S + (k * ROWS + row) * 4) = s[row];
  __syncthreads();
#pragma unroll
  for (int row = 0; row < ROWS; ++row) s[row] = next[row * KEY + k];
#pragma unroll 16
  for (int j = 0; j < KEY; ++j) {
    const float a = map[j * KEY + k];
#pragma unroll
    for (int row = 0; row < ROWS; row += 4) {
      const float4 x = at<float4>(SMEM_S + (j * ROWS + row) * 4);
      s[row] += a * x.x;
      s[row + 1] += a * x.y;
      s[row + 2] += a * x.z;
      s[row + 3] += a * x.w;
    }
  }
}
