// Gradients of gates with one number per token, from the sums that warps left behind.
#pragma once

#include "forward/wgmma/ring.cuh"
#include "numbers.cuh"
#include "ptx/elements.cuh"
#include "ptx/sums.cuh"

// The warp's sums over its channels of the tokens it has, a row of [KEY / 64][CHUNK] to a warpgroup.
DEVICE void store_row_sums(int sums, float2 x, int group, int block, int lane) {
  const float2 sum = {sum_quad(x.x), sum_quad(x.y)};
  if (lane % 4 == 0) {
    const int first = sums + group * (CHUNK * 4) + (block * 16 + lane / 4) * 4;
    at<float>(first) = sum.x;
    at<float>(first + 32) = sum.y;
  }
}

// Of the lane's two tokens, 2 lane and the next: the sum of COUNT rows of [COUNT][CHUNK].
template <int COUNT>
DEVICE float2 sum_parts(int parts, int lane) {
  float2 sum = {0.0f, 0.0f};
#pragma unroll
  for (int part = 0; part < COUNT; ++part) {
    const float2 x = at<float2>(parts + part * (CHUNK * 4) + lane * 8);
    sum = {sum.x + x.x, sum.y + x.y};
  }
  return sum;
}

DEVICE float2 add_both(float2 x, float2 y) { return {x.x + y.x, x.y + y.y}; }

// The lane's two tokens of a gate's gradient.
DEVICE void write_tokens(float* rows, i64 stride, int exist, float2 x, int lane) {
  if (lane * 2 < exist) rows[lane * 2 * stride] = x.x;
  if (lane * 2 + 1 < exist) rows[(lane * 2 + 1) * stride] = x.y;
}
template <typename T>
DEVICE void write_tokens(T* rows, i64 stride, int exist, float2 x, int lane) {
  const u32 pair = T::pack(x.x, x.y);
  if (lane * 2 < exist) rows[lane * 2 * stride].bits = static_cast<u16>(pair);
  if (lane * 2 + 1 < exist) rows[(lane * 2 + 1) * stride].bits = static_cast<u16>(pair >> 16);
}

// dg_t = sum over i >= t of dG_i, and what the chunk's end adds to all; one warp.
template <class Cfg, typename T>
DEVICE void write_decay_gradient(T* rows, i64 stride, int exist) {
  const int lane = lane_index();
  float2 sum = sum_parts<Cfg::DECAY_PARTS>(Cfg::SMEM_DECAY_ROWS, lane);
  const float after = sum_warp(lane < WARPS ? at<float>(Cfg::SMEM_DECAY_TAIL + lane * 4) : 0.0f);
  sum.x += sum.y;
  float later = sum.x;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const float other = __shfl_down_sync(0xffffffffu, later, step);
    if (lane + step < 32) later += other;
  }
  const float next = later - sum.x + after;
  write_tokens(rows, stride, exist, {next + sum.x, next + sum.y}, lane);
}

// A warp's part of what the chunk's end adds to dG.
DEVICE void store_tail(int tails, float tail) {
  const int lane = lane_index();
  tail = sum_warp(tail);
  tails += warp_index() * 4;  // an exchange, of all lanes
  if (lane == 0) at<float>(tails) = tail;
}
