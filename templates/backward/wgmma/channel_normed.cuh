// Rows of dq or dk on their way back through their norms where warps have channels and not rows: of y = r x with
// r = 1 / sqrt(sum of x^2 + 1e-6), dx = r (dy - y (y . dy)). The block left dy in memory, in float32.
#pragma once

#include "backward/wgmma/channel_keys.cuh"
#include "numbers.cuh"
#include "ptx/elements.cuh"
#include "ptx/sums.cuh"
#include "work/chunk_work.cuh"

// Where the block left rows of its value head.
DEVICE HeadRows made_rows(const ChunkWork& work, void* heads, const void* cu_seqlens, int tokens, int value_heads) {
  const i64 token = cu_seqlens == nullptr ? static_cast<i64>(work.batch) * tokens + work.first : work.first;
  float* const rows = static_cast<float*>(heads) + (token * value_heads + work.value_head) * KEY;
  return {rows, static_cast<i64>(value_heads) * KEY, work.exist};
}

// A row to a warp, all of the warp's at once: `tile` has y, `norms` r. A lane has neighbouring numbers.
template <typename Element>
DEVICE void write_normed(const HeadRows& dy, int tile, int norms, Element* rows, i64 stride) {
  constexpr int OWN = KEY / 32, ROWS = CHUNK / WARPS;
  static_assert(OWN == 2 || OWN == 4, "64 or 128 channels");
  const int channel = lane_index() * OWN;
  float from[ROWS][OWN];
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    const int token = r * WARPS + warp_index();
#pragma unroll
    for (int c = 0; c < OWN; ++c) from[r][c] = 0.0f;
    if (token >= dy.exist) continue;
    const float* const row = dy.rows + token * dy.stride + channel;
#pragma unroll
    for (int c = 0; c < OWN; c += 2) {
      const float2 pair = *reinterpret_cast<const float2*>(row + c);
      from[r][c] = pair.x, from[r][c + 1] = pair.y;
    }
  }
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    const int token = r * WARPS + warp_index();
    u32 y[OWN / 2];
    float dot = 0.0f;
#pragma unroll
    for (int p = 0; p < OWN / 2; ++p) {
      y[p] = at<u32>(tile + Tile<KEY, 2>::offset(token, channel + p * 2));
      dot += Element::low(y[p]) * from[r][p * 2] + Element::high(y[p]) * from[r][p * 2 + 1];
    }
    dot = sum_warp(dot);
    const float norm = at<float>(norms + token * 4);
    if (token >= dy.exist) continue;
#pragma unroll
    for (int p = 0; p < OWN / 2; ++p) {
      const float low = from[r][p * 2] - Element::low(y[p]) * dot, high = from[r][p * 2 + 1] - Element::high(y[p]) * dot;
      y[p] = Element::pack(low * norm, high * norm);
    }
    Element* const row = rows + token * stride + channel;
    if constexpr (OWN == 4) *reinterpret_cast<uint2*>(row) = {y[0], y[1]};
    else *reinterpret_cast<u32*>(row) = y[0];
  }
}
