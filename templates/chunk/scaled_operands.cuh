// Q^ = q 2^G, K^ = k 2^(G_C - G), E^ = e 2^G, over q, k and where `left` puts E^; and each channel's decay over the
// chunk. Eight channels of a token to a thread, which alone touches them. Without QUERIES there is no q.
#pragma once

#include "numbers.cuh"
#include "ptx/elements.cuh"
#include "tile/tile.cuh"

template <typename Element, bool QUERIES = true, typename Left>
DEVICE void scale_operands(const Left& left, int q, int k, int sums, int state_decay) {
  for (int i = thread_index(); i < CHUNK * (KEY / 8); i += THREADS) {
    const int row = i / (KEY / 8), d = i % (KEY / 8) * 8;
    float sum[8], end[8], into[8], x[8];
    Stored<float, KEY>::unit(sum, sums, row, d);
    Stored<float, KEY>::unit(end, sums, CHUNK - 1, d);
#pragma unroll
    for (int c = 0; c < 8; ++c) into[c] = exp2(sum[c]);
    Stored<Element, KEY>::unit(x, k, row, d);
    left.scale(x, into, row, d);
#pragma unroll
    for (int c = 0; c < 8; ++c) x[c] *= exp2(end[c] - sum[c]);
    store_unit<Element, KEY>(k, row, d, x);
    if constexpr (QUERIES) {
      Stored<Element, KEY>::unit(x, q, row, d);
#pragma unroll
      for (int c = 0; c < 8; ++c) x[c] *= into[c];
      store_unit<Element, KEY>(q, row, d, x);
    }
    if (row == CHUNK - 1) {
#pragma unroll
      for (int c = 0; c < 8; ++c) at<float>(state_decay + (d + c) * 4) = into[c];
    }
  }
}
