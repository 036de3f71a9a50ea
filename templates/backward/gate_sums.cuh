// Sums of what formulas give to parameters: over a block's threads, and over the chunks' slots of all blocks. Both in a fixed
// order, so that a schedule gives the same bits in every run.
#pragma once

#include "numbers.cuh"
#include "ptx/elements.cuh"
#include "ptx/shared.cuh"
#include "ptx/sums.cuh"
#include "ptx/warp.cuh"

// Every thread ends with the block's sum; `words` has a number to a warp.
DEVICE float sum_block(float x, int words) {
  const float own = sum_warp(x);
  __syncthreads();  // what was there is read
  if (lane_index() == 0) at<float>(words + warp_index() * 4) = own;
  __syncthreads();
  float sum = 0.0f;
  for (int warp = 0; warp < WARPS; ++warp) sum += at<float>(words + warp * 4);
  return sum;
}

// What the channels of a warp give to a number of the token, kept for each warp: [WARPS][CHUNK].
DEVICE void add_token(int sums, int t, float x) {
  const float sum = sum_warp(x);
  if (lane_index() == 0) at<float>(sums + (warp_index() * CHUNK + t) * 4) += sum;
}

DEVICE void clear_tokens(int sums) {
  for (int i = thread_index(); i < WARPS * CHUNK; i += THREADS) at<float>(sums + i * 4) = 0.0f;
}

DEVICE float sum_token(int sums, int t) {
  float sum = 0.0f;
  for (int warp = 0; warp < WARPS; ++warp) sum += at<float>(sums + (warp * CHUNK + t) * 4);
  return sum;
}

// A parameter's gradient for one head, from [slots][heads][CHANNELS]: slots are shared by the threads that a channel has.
template <int CHANNELS>
DEVICE void sum_slots(float* gradient, const float* partials, i64 slots, int head, int heads, int words) {
  constexpr int WIDTH = CHANNELS == 1 ? 1 : 16, SHARES = THREADS / WIDTH;
  const int column = thread_index() % WIDTH, share = thread_index() / WIDTH;
  for (int first = 0; first < CHANNELS; first += WIDTH) {
    float sum = 0.0f;
    for (i64 slot = share; slot < slots; slot += SHARES) sum += partials[(slot * heads + head) * CHANNELS + first + column];
    __syncthreads();
    at<float>(words + thread_index() * 4) = sum;
    __syncthreads();
    for (int left = SHARES / 2; left > 0; left /= 2) {
      if (share < left) at<float>(words + thread_index() * 4) += at<float>(words + (thread_index() + left * WIDTH) * 4);
      __syncthreads();
    }
    if (share == 0) gradient[head * CHANNELS + first + column] = at<float>(words + column * 4);
  }
}
