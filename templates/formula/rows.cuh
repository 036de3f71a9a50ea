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

// A warp has 4 AT_ONCE rows in registers: of each a lane has units of eight numbers, 64 apart. `keep(row, scale)` is called by
// one of the lanes that share a row.
template <typename Element, int AT_ONCE = 1, typename Keep>
DEVICE void normalise_rows(int tile, Keep keep) {
  constexpr int UNITS = (KEY + 63) / 64, ROUND = WARPS * 4 * AT_ONCE;
  const int lane = lane_index(), mine = lane % 8 * 8;
#pragma unroll 1
  for (int first = warp_index() * (4 * AT_ONCE) + lane / 8; first < CHUNK; first += ROUND) {
    u32 pairs[AT_ONCE][UNITS][4];
    float scale[AT_ONCE];
#pragma unroll
    for (int r = 0; r < AT_ONCE; ++r) {
#pragma unroll
      for (int u = 0; u < UNITS; ++u) {
        const int d = u * 64 + mine;
        const bool exists = KEY % 64 == 0 || d < KEY;
        const uint4 words = exists ? at<uint4>(tile + Tile<KEY, 2>::offset(first + r * 4, d)) : uint4{0, 0, 0, 0};
        u32(&to)[4] = pairs[r][u];
        to[0] = words.x, to[1] = words.y, to[2] = words.z, to[3] = words.w;
      }
    }
#pragma unroll
    for (int r = 0; r < AT_ONCE; ++r) {
      float squares[2] = {};
#pragma unroll
      for (int u = 0; u < UNITS; ++u) {
#pragma unroll
        for (int p = 0; p < 4; ++p) {
          const float low = Element::low(pairs[r][u][p]), high = Element::high(pairs[r][u][p]);
          squares[0] += low * low;
          squares[1] += high * high;
        }
      }
      scale[r] = squares[0] + squares[1];
    }
#pragma unroll
    for (int step = 1; step < 8; step *= 2) {
#pragma unroll
      for (int r = 0; r < AT_ONCE; ++r) scale[r] += __shfl_xor_sync(0xffffffffu, scale[r], step);
    }
#pragma unroll
    for (int r = 0; r < AT_ONCE; ++r) {
      scale[r] = inverse_norm(scale[r]);
      if (mine == 0) keep(first + r * 4, scale[r]);
#pragma unroll
      for (int u = 0; u < UNITS; ++u) {
        const int d = u * 64 + mine;
        u32(&x)[4] = pairs[r][u];
#pragma unroll
        for (int p = 0; p < 4; ++p) x[p] = Element::pack(Element::low(x[p]) * scale[r], Element::high(x[p]) * scale[r]);
        if (KEY % 64 == 0 || d < KEY) at<uint4>(tile + Tile<KEY, 2>::offset(first + r * 4, d)) = {x[0], x[1], x[2], x[3]};
      }
    }
  }
}

template <typename Element, int AT_ONCE = 1>
DEVICE void normalise_rows(int tile) {
  normalise_rows<Element, AT_ONCE>(tile, [](int, float) {});
}
