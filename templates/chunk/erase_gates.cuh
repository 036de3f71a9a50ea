// How a channel-wise decay meets the erase gate: e = b k before it is scaled.
#pragma once

#include "numbers.cuh"
#include "tile/tile.cuh"

// One number per token: e = k here, and the gate multiplies rows of L and of the residual later.
struct TokenErase {
  static METHOD Fragment gate(const Fragment& k, int, int, int) { return k; }
  static METHOD void gate(float (&)[8], int, int) {}
};

// One number per channel, in a tile stored as T.
template <typename T>
struct ChannelErase {
  int tile;
  METHOD Fragment gate(const Fragment& k, int row, int d, int lane) const {
    Fragment e = Stored<T, KEY>::fragment(tile, row, d, lane);
#pragma unroll
    for (int p = 0; p < 4; ++p) e.pair[p] = {e.pair[p].x * k.pair[p].x, e.pair[p].y * k.pair[p].y};
    return e;
  }
  METHOD void gate(float (&k)[8], int row, int d) const {
    float b[8];
    Stored<T, KEY>::unit(b, tile, row, d);
#pragma unroll
    for (int c = 0; c < 8; ++c) k[c] *= b[c];
  }
};
