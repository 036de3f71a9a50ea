// Sums over the rows of accumulators whose columns are a chunk's tokens.
#pragma once

#include "numbers.cuh"

// Of a warp's 16 rows, x[n][c] being a lane's part of column 8 n + 2 (lane % 4) + c; it ends with those of columns 2 lane and
// the next. Each step halves the columns that a lane has left.
DEVICE float2 sum_columns(float (&x)[CHUNK / 8][2], int lane) {
#pragma unroll
  for (int half = CHUNK / 16, step = 16; half > 0; half /= 2, step /= 2) {
    const bool upper = lane & step;
#pragma unroll
    for (int n = 0; n < half; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const float keep = upper ? x[n + half][c] : x[n][c], give = upper ? x[n][c] : x[n + half][c];
        x[n][c] = keep + __shfl_xor_sync(0xffffffffu, give, step);
      }
    }
  }
  return {x[0][0], x[0][1]};
}

// The same of the columns of one block, 16 of them; lanes with bit 2 clear end with that of column `block_column`.
DEVICE float sum_block_columns(const float (&x)[2][2], int lane) {
  const bool far = lane & 16, second = lane & 8;
  float half[2];
#pragma unroll
  for (int c = 0; c < 2; ++c) {
    half[c] = (far ? x[1][c] : x[0][c]) + __shfl_xor_sync(0xffffffffu, far ? x[0][c] : x[1][c], 16);
  }
  const float sum = (second ? half[1] : half[0]) + __shfl_xor_sync(0xffffffffu, second ? half[0] : half[1], 8);
  return sum + __shfl_xor_sync(0xffffffffu, sum, 4);
}
DEVICE int block_column(int lane) { return lane / 16 * 8 + lane % 4 * 2 + lane / 8 % 2; }
