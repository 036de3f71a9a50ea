// Rows of a tile [CHUNK][KEY] normalised in place: y = x / sqrt(sum of x^2 + 1e-6). Eight lanes share a row.
#pragma once

#include "numbers.cuh"
#include "ptx/elements.cuh"
#include "tile/tile.cuh"

DEVICE float inverse_norm(float squares) {
  float y;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(squares + 1e-6f));
  return y;
}

template <typename Element>
DEVICE void normalise_rows(int tile) {
  const int lane = lane_index(), mine = lane % 8 * 8;
#pragma unroll 1
  for (int row = warp_index() * 4 + lane / 8; row < CHUNK; row += WARPS * 4) {
    float x[8], squares = 0.0f;
    for (int d = mine; d < KEY; d += 64) {
      Stored<Element, KEY>::unit(x, tile, row, d);
#pragma unroll
      for (int c = 0; c < 8; ++c) squares += x[c] * x[c];
    }
#pragma unroll
    for (int step = 1; step < 8; step *= 2) squares += __shfl_xor_sync(0xffffffffu, squares, step);
    const float scale = inverse_norm(squares);
    for (int d = mine; d < KEY; d += 64) {
      Stored<Element, KEY>::unit(x, tile, row, d);
#pragma unroll
      for (int c = 0; c < 8; ++c) x[c] *= scale;
      store_unit<Element, KEY>(tile, row, d, x);
    }
  }
}
