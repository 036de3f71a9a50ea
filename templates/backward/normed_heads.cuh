// dq or dk of one token and key head where its row was normalised: the sum over value heads, in a fixed order, then back
// through y = r x with r = 1 / sqrt(sum of x^2 + 1e-6): r (dy - y (y . dy)). One warp.
#pragma once

#include "numbers.cuh"
#include "ptx/elements.cuh"
#include "ptx/sums.cuh"

template <typename Element>
DEVICE void sum_normed_heads(const float* heads, const Element* inputs, Element* rows, i64 token, int key_head, int group,
                             int value_heads) {
  constexpr int PAIRS = (KEY / 2 + 31) / 32;
  const int lane = lane_index();
  float2 sum[PAIRS], x[PAIRS];
  float squares = 0.0f, along = 0.0f;
#pragma unroll
  for (int i = 0; i < PAIRS; ++i) {
    const int d = (i * 32 + lane) * 2;
    sum[i] = {0.0f, 0.0f};
    x[i] = {0.0f, 0.0f};
    if (d < KEY) {
      for (int head = key_head * group; head < (key_head + 1) * group; ++head) {
        const float2 part = *reinterpret_cast<const float2*>(heads + (token * value_heads + head) * KEY + d);
        sum[i] = {sum[i].x + part.x, sum[i].y + part.y};
      }
      const u32 pair = *reinterpret_cast<const u32*>(inputs + d);
      x[i] = {Element::low(pair), Element::high(pair)};
    }
    squares += x[i].x * x[i].x + x[i].y * x[i].y;
  }
  squares = sum_warp(squares);
  float scale;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(scale) : "f"(squares + 1e-6f));
#pragma unroll
  for (int i = 0; i < PAIRS; ++i) {
    x[i] = {x[i].x * scale, x[i].y * scale};
    along += x[i].x * sum[i].x + x[i].y * sum[i].y;
  }
  along = sum_warp(along);
#pragma unroll
  for (int i = 0; i < PAIRS; ++i) {
    const int d = (i * 32 + lane) * 2;
    if (d < KEY) {
      *reinterpret_cast<u32*>(rows + d) =
          Element::pack(scale * (sum[i].x - x[i].x * along), scale * (sum[i].y - x[i].y * along));
    }
  }
}
