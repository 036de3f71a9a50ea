// Gates along K from their logits, in tiles. `of(x, t, d)` is a gate's value where its logit is x, at token t of the chunk and
// channel d. Tokens that do not exist get 0 after the formula, whatever it makes of a logit of 0.
#pragma once

#include "numbers.cuh"
#include "ptx/elements.cuh"
#include "tile/tile.cuh"

// Where eight neighbouring logits of a token lie: in a tile, in memory, or nowhere.
template <typename T>
struct TileLogits {
  int tile;
  METHOD void unit(float (&x)[8], int row, int d) const { Stored<T, KEY>::unit(x, tile, row, d); }
};

template <typename T>
struct MemoryLogits {
  const T* rows;
  i64 stride;
  METHOD void unit(float (&x)[8], int row, int d) const {
    const uint4 pairs = *reinterpret_cast<const uint4*>(rows + row * stride + d);
    const u32 words[4] = {pairs.x, pairs.y, pairs.z, pairs.w};
#pragma unroll
    for (int c = 0; c < 8; c += 2) {
      x[c] = T::low(words[c / 2]);
      x[c + 1] = T::high(words[c / 2]);
    }
  }
};

template <>
struct MemoryLogits<float> {
  const float* rows;
  i64 stride;
  METHOD void unit(float (&x)[8], int row, int d) const {
#pragma unroll
    for (int c = 0; c < 8; c += 4) {
      const float4 four = *reinterpret_cast<const float4*>(rows + row * stride + d + c);
      x[c] = four.x;
      x[c + 1] = four.y;
      x[c + 2] = four.z;
      x[c + 3] = four.w;
    }
  }
};

struct NoLogits {
  METHOD void unit(float (&x)[8], int, int) const {
#pragma unroll
    for (int c = 0; c < 8; ++c) x[c] = 0.0f;
  }
};

// Eight neighbouring gates of a token, stored as T.
template <typename T>
struct GateUnit {
  static METHOD void store(int tile, int row, int d, const float (&x)[8]) { store_unit<T, KEY>(tile, row, d, x); }
};

template <>
struct GateUnit<float> {
  static METHOD void store(int tile, int row, int d, const float (&x)[8]) {
    at<float4>(tile + Tile<KEY, 4>::offset(row, d)) = {x[0], x[1], x[2], x[3]};
    at<float4>(tile + Tile<KEY, 4>::offset(row, d + 4)) = {x[4], x[5], x[6], x[7]};
  }
};

// A gate along K, AT_ONCE units of eight at a time. The tile may be that of the logits where numbers are as wide.
template <typename T, int AT_ONCE = 1, typename Logits, typename Of>
DEVICE void compute_tile(int tile, const Logits& logits, int exist, Of of) {
#pragma unroll(AT_ONCE)
  for (int i = thread_index(); i < CHUNK * (KEY / 8); i += THREADS) {
    const int row = i / (KEY / 8), d = i % (KEY / 8) * 8;
    float x[8] = {};
    if (row < exist) {
      logits.unit(x, row, d);
#pragma unroll
      for (int c = 0; c < 8; ++c) x[c] = of(x[c], row, d + c);
    }
    GateUnit<T>::store(tile, row, d, x);
  }
}
