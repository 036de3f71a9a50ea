// Sums over K: first over the lanes of a warp that hold different keys, then over the block's KEY_WARPS warps through
// shared memory. Two buffers take turns, so a token needs one barrier: a buffer is written again only after the
// barrier of the token between.
#pragma once

#include "numbers.cuh"
#include "decode/tile.cuh"
#include "ptx/shared.cuh"

constexpr int SUM_BYTES = BLOCK_VALUES * 4;  // one warp's sums of one vector over the block's values

// Every lane ends with the total of its warp.
DEVICE float sum_lanes(float x) {
#pragma unroll
  for (int distance = KEY_LANE_STRIDE; distance < KEY_LANE_STRIDE * KEY_LANES; distance *= 2) {
    x += __shfl_xor_sync(0xffffffffu, x, distance);
  }
  return x;
}

// Leaves a warp's sums of one vector; `rows` is a table of [KEY_WARPS][BLOCK_VALUES].
DEVICE void leave_sums(int rows, const Place& place, const float (&x)[TILE_VALUES]) {
  if (place.key_lane == 0) {
#pragma unroll
    for (int j = 0; j < TILE_VALUES; j += 4) {
      at<float4>(rows + place.key_warp * SUM_BYTES + (place.column + j) * 4) = {x[j], x[j + 1], x[j + 2], x[j + 3]};
    }
  }
}

// Adds up what the warps left.
DEVICE void collect_sums(float (&x)[TILE_VALUES], int rows, const Place& place) {
#pragma unroll
  for (int j = 0; j < TILE_VALUES; j += 4) {
    float4 sum = at<float4>(rows + (place.column + j) * 4);
#pragma unroll
    for (int warp = 1; warp < KEY_WARPS; ++warp) {
      const float4 more = at<float4>(rows + warp * SUM_BYTES + (place.column + j) * 4);
      sum.x += more.x;
      sum.y += more.y;
      sum.z += more.z;
      sum.w += more.w;
    }
    x[j] = sum.x;
    x[j + 1] = sum.y;
    x[j + 2] = sum.z;
    x[j + 3] = sum.w;
  }
}

// The tiles that finish a token's outputs: those of the first keys.
DEVICE bool writes_output(const Place& place) {
  return place.key_warp == 0 && place.key_lane == 0 && place.has_value();
}
