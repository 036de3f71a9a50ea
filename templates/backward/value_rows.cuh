// A warp's 16 value rows of a chunk, held in registers: each thread has four neighbouring values of a token of every
// group of eight, as in the slices of forward.
#pragma once

#include "numbers.cuh"
#include "chunk/values.cuh"

template <typename T>
struct ValueRows {
  uint2 mine[CHUNK / 8];
  METHOD void fetch(const T* rows, i64 stride, int exist) {
    const int lane = lane_index();
#pragma unroll
    for (int group = 0; group < CHUNK / 8; ++group) {
      const int token = group * 8 + lane / 4;
      mine[group] = uint2{0, 0};
      if (token < exist) mine[group] = *reinterpret_cast<const uint2*>(rows + token * stride + lane % 4 * 4);
    }
  }
  // One group in accumulator layout: columns are tokens.
  METHOD void column(float (&x)[4], int group) const {
    const u32 low = transpose(mine[group].x), high = transpose(mine[group].y);
    x[0] = T::low(low);
    x[1] = T::high(low);
    x[2] = T::low(high);
    x[3] = T::high(high);
  }
};

// float32 numbers change lanes one by one: value 4 (r / 2) + r % 2 of a token lies in lane 4 token + r / 2.
template <>
struct ValueRows<float> {
  float4 mine[CHUNK / 8];
  METHOD void fetch(const float* rows, i64 stride, int exist) {
    const int lane = lane_index();
#pragma unroll
    for (int group = 0; group < CHUNK / 8; ++group) {
      const int token = group * 8 + lane / 4;
      mine[group] = float4{0.0f, 0.0f, 0.0f, 0.0f};
      if (token < exist) mine[group] = *reinterpret_cast<const float4*>(rows + token * stride + lane % 4 * 4);
    }
  }
  METHOD void column(float (&x)[4], int group) const {
    const int lane = lane_index();
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int source = (lane % 4 * 2 + c % 2) * 4 + lane / 8;
      const float even = __shfl_sync(0xffffffffu, c < 2 ? mine[group].x : mine[group].z, source);
      const float odd = __shfl_sync(0xffffffffu, c < 2 ? mine[group].y : mine[group].w, source);
      x[c] = lane / 4 % 2 ? odd : even;
    }
  }
};

// Writes accumulators, columns are tokens, as rows of values; tokens from `exist` on are not written.
template <typename T>
struct ValueStore {
  static METHOD void store(const float (&x)[CHUNK / 8][4], T* rows, i64 stride, int exist) {
    store_outputs(x, 1.0f, rows, stride, exist);
  }
};

template <>
struct ValueStore<float> {
  static METHOD void store(const float (&x)[CHUNK / 8][4], float* rows, i64 stride, int exist) {
    const int lane = lane_index();
#pragma unroll
    for (int group = 0; group < CHUNK / 8; ++group) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int token = group * 8 + lane % 4 * 2 + c % 2, value = value_row(lane) + c / 2 * 2;
        if (token < exist) rows[token * stride + value] = x[group][c];
      }
    }
  }
};

// Accumulators as a slice in shared memory, [CHUNK][16] operands: packed first, stored once its place is free.
template <typename Element>
struct SliceWords {
  uint2 words[CHUNK / 8];
  METHOD void pack(const float (&x)[CHUNK / 8][4]) {
#pragma unroll
    for (int group = 0; group < CHUNK / 8; ++group) {
      words[group].x = transpose(Element::pack(x[group][0], x[group][1]));
      words[group].y = transpose(Element::pack(x[group][2], x[group][3]));
    }
  }
  METHOD void store(int slice) const {
    const int lane = lane_index();
#pragma unroll
    for (int group = 0; group < CHUNK / 8; ++group) at<uint2>(slice + group * 256 + lane * 8) = words[group];
  }
};

// Sixteen tokens of a slice as the A operand of a product over its values. The depth index runs over the values in the
// order of a kept state's rows.
DEVICE void load_tokens(u32 (&a)[4], int slice, int row) {
  const int lane = lane_index();
  const uint2 near = at<uint2>(slice + (row + lane / 4) * 32 + lane % 4 * 8);
  const uint2 far = at<uint2>(slice + (row + 8 + lane / 4) * 32 + lane % 4 * 8);
  a[0] = near.x;
  a[1] = far.x;
  a[2] = near.y;
  a[3] = far.y;
}

// Sum over a warp's 16 value rows of each token; every lane of a column holds it.
DEVICE float2 sum_values(const float (&x)[4]) {
  float2 sum = {x[0] + x[2], x[1] + x[3]};
#pragma unroll
  for (int step = 4; step < 32; step *= 2) {
    sum.x += __shfl_xor_sync(0xffffffffu, sum.x, step);
    sum.y += __shfl_xor_sync(0xffffffffu, sum.y, step);
  }
  return sum;
}
