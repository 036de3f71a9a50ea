#pragma once

#include "numbers.cuh"
#include "ptx/shared.cuh"

// S becomes A S + B from segment to segment, float32, where A is a matrix. KEY threads have 4 rows by 4 channels each of a
// sum over a part of A's rows; then all add up the parts.
enum : int {
  PART = KEY / PARTS,  // rows of A
  TILE = 4,
  HELD = ROWS + 4,     // numbers from a channel of S to the next, so that neighbours share no bank
};
static_assert(PART * PARTS == KEY && ROWS == TILE * PARTS);

// `next`: where the state after the first segment lies, and at the same distance, B of each. `map`: A of the second segment.
DEVICE void join_segments(float* next, const float* map, int steps) {
  const int part = threadIdx.x / KEY, within = threadIdx.x % KEY;
  const int row = within / (KEY / TILE) * TILE, k = within % (KEY / TILE) * TILE;  // of a part's sum
  auto held = [](int channel, int first) { return SMEM_S + (channel * HELD + first) * 4; };
  auto sums = [](int of, int row, int channel) { return SMEM_SUMS + ((of * ROWS + row) * KEY + channel) * 4; };
  // A thread adds up rows `own` and on of channel `within`.
  const int own = part * TILE;
  float s[TILE];
#pragma unroll
  for (int r = 0; r < TILE; ++r) s[r] = next[(own + r) * KEY + within];
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    at<float4>(held(within, own)) = {s[0], s[1], s[2], s[3]};
    next += VALUE * KEY;
#pragma unroll
    for (int r = 0; r < TILE; ++r) s[r] = next[(own + r) * KEY + within];
    __syncthreads();
    float sum[TILE][TILE] = {};
#pragma unroll 4
    for (int j = part * PART; j < (part + 1) * PART; ++j) {
      const float4 a = *reinterpret_cast<const float4*>(map + j * KEY + k), x = at<float4>(held(j, row));
      const float channels[TILE] = {a.x, a.y, a.z, a.w}, rows[TILE] = {x.x, x.y, x.z, x.w};
#pragma unroll
      for (int r = 0; r < TILE; ++r) {
#pragma unroll
        for (int c = 0; c < TILE; ++c) sum[r][c] += rows[r] * channels[c];
      }
    }
#pragma unroll
    for (int r = 0; r < TILE; ++r) at<float4>(sums(part, row + r, k)) = {sum[r][0], sum[r][1], sum[r][2], sum[r][3]};
    __syncthreads();
#pragma unroll
    for (int r = 0; r < TILE; ++r) {
#pragma unroll
      for (int of = 0; of < PARTS; ++of) s[r] += at<float>(sums(of, own + r, within));
      next[(own + r) * KEY + within] = s[r];
    }
    map += MAP_ROWS * KEY;
  }
}
