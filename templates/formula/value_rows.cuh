// A write gate along V, held like v, from its logits.
#pragma once

#include "numbers.cuh"
#include "backward/value_rows.cuh"

// Four neighbouring logits of a token in memory, or none.
template <typename T>
struct FourLogits {
  const T* rows;
  i64 stride;
  METHOD float4 load(int row, int d) const {
    const uint2 pairs = *reinterpret_cast<const uint2*>(rows + row * stride + d);
    return {T::low(pairs.x), T::high(pairs.x), T::low(pairs.y), T::high(pairs.y)};
  }
};

template <>
struct FourLogits<float> {
  const float* rows;
  i64 stride;
  METHOD float4 load(int row, int d) const { return *reinterpret_cast<const float4*>(rows + row * stride + d); }
};

struct NoFourLogits {
  METHOD float4 load(int, int) const { return {0.0f, 0.0f, 0.0f, 0.0f}; }
};

// Logits lie from the warp's first value on, which is channel `value`; tokens that do not exist get 0.
template <typename Logits, typename Of>
DEVICE void compute_rows(ValueRows<float>& gates, const Logits& logits, int value, int exist, Of of) {
  const int lane = lane_index();
#pragma unroll
  for (int group = 0; group < CHUNK / 8; ++group) {
    const int t = group * 8 + lane / 4, d = lane % 4 * 4;
    gates.mine[group] = float4{0.0f, 0.0f, 0.0f, 0.0f};
    if (t < exist) {
      const float4 x = logits.load(t, d);
      gates.mine[group] = float4{of(x.x, t, value + d), of(x.y, t, value + d + 1), of(x.z, t, value + d + 2),
                                 of(x.w, t, value + d + 3)};
    }
  }
}
