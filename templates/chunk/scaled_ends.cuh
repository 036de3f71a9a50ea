// K^ = k 2^(G_C - G) and E^ = e 2^G in tiles of their own, where k and e are needed as they are later on. Eight channels
// of a token to a thread.
#pragma once

#include "numbers.cuh"
#include "ptx/elements.cuh"
#include "tile/tile.cuh"

template <typename Element, typename Left>
DEVICE void scale_ends(const Left& left, int k, int sums, int end_keys) {
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
    store_unit<Element, KEY>(end_keys, row, d, x);
  }
}
