// Prefix sums of a channel-wise decay in base 2: g [CHUNK][KEY] stored as T, sums float32 (the same tile where T is).
// A channel's tokens are shared by DECAY_THREADS threads.
#pragma once

#include "numbers.cuh"
#include "ptx/elements.cuh"
#include "ptx/shared.cuh"

template <typename T>
struct DecayTile {
  static METHOD float of(int g, int row, int d) { return load_number(&at<T>(g + Tile<KEY, sizeof(T)>::offset(row, d))); }
};

template <typename T>
DEVICE void channel_decay(int g, int sums, int totals) {
  constexpr int LENGTH = CHUNK / DECAY_THREADS;
  if (DECAY_THREADS > 1) {
    for (int i = thread_index(); i < KEY * DECAY_THREADS; i += THREADS) {
      float sum = 0.0f;
#pragma unroll 8
      for (int t = 0; t < LENGTH; ++t) sum += log2_decay(DecayTile<T>::of(g, i / KEY * LENGTH + t, i % KEY));
      at<float>(totals + i * 4) = sum;
    }
    __syncthreads();
  }
  for (int i = thread_index(); i < KEY * DECAY_THREADS; i += THREADS) {
    const int d = i % KEY, segment = i / KEY;
    float sum = 0.0f;
    for (int before = 0; before < segment; ++before) sum += at<float>(totals + (before * KEY + d) * 4);
#pragma unroll 8
    for (int t = segment * LENGTH; t < (segment + 1) * LENGTH; ++t) {
      sum += log2_decay(DecayTile<T>::of(g, t, d));
      at<float>(sums + Tile<KEY, 4>::offset(t, d)) = sum;
    }
  }
}
