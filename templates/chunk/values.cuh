// A warp's 16 value rows of v, w and o.
//
// Each thread copies, reads and writes its own four numbers of a token, so no barrier is needed: lane l serves token
// l / 4 of each group of eight, values 4 (l % 4) and the three after. Four lanes make one full 32-byte sector.
// Transposing a pair of 8x8 matrices in registers then gives accumulator layout, with row r of the accumulator
// (r = lane / 4) standing for value 4 (r / 2) + r % 2 and row r + 8 for the value two further on.
#pragma once

#include "numbers.cuh"
#include "ptx/copy.cuh"
#include "ptx/elements.cuh"
#include "tile/tile.cuh"

DEVICE int value_row(int lane) { return lane / 8 * 4 + lane / 4 % 2; }

// Bytes of one warp's slice of a tensor.
template <typename T>
constexpr int SLICE = CHUNK * 16 * sizeof(T);

// Starts the copy of a chunk's tokens; `rows` points at the warp's first value.
template <typename T>
DEVICE void copy_slice(int region, const T* rows, i64 stride, int exist) {
  const int lane = lane_index(), mine = region + warp_index() * SLICE<T> + lane * (4 * sizeof(T));
#pragma unroll 1
  for (int group = 0; group < CHUNK / 8; ++group) {
    const int token = group * 8 + lane / 4;
    copy_async<4 * sizeof(T)>(mine + group * (128 * sizeof(T)), rows + token * stride + lane % 4 * 4, token < exist);
  }
}

// Reads one group of eight tokens of a slice in accumulator layout: columns are tokens.
template <typename T>
struct Slice {
  static METHOD void load(float (&x)[4], int region, int group, int lane) {
    const uint2 mine = at<uint2>(region + warp_index() * SLICE<T> + lane * 8 + group * 256);
    const u32 low = transpose(mine.x), high = transpose(mine.y);
    x[0] = T::low(low);
    x[1] = T::high(low);
    x[2] = T::low(high);
    x[3] = T::high(high);
  }
};

template <>
struct Slice<float> {
  static METHOD void load(float (&x)[4], int region, int group, int lane) {
    const int token = region + warp_index() * SLICE<float> + group * 512 + lane % 4 * 128 + value_row(lane) * 4;
    x[0] = at<float>(token);
    x[1] = at<float>(token + 64);
    x[2] = at<float>(token + 8);
    x[3] = at<float>(token + 72);
  }
};

// The write gate as z = w v sees it.
template <typename Factor>
struct TokenWrite {
  static METHOD void apply(float (&z)[4], int group, int lane) {
    const float2 w = Factor::pair(group * 8 + lane % 4 * 2);
    z[0] *= w.x;
    z[1] *= w.y;
    z[2] *= w.x;
    z[3] *= w.y;
  }
};

template <typename T, int REGION>
struct ChannelWrite {
  static METHOD void apply(float (&z)[4], int group, int lane) {
    float w[4];
    Slice<T>::load(w, REGION, group, lane);
#pragma unroll
    for (int c = 0; c < 4; ++c) z[c] *= w[c];
  }
};

// Writes a chunk's outputs, accumulator layout, columns are tokens; tokens from `exist` on are not written.
template <typename Element>
DEVICE void store_outputs(const float (&out)[CHUNK / 8][4], float scale, Element* rows, i64 stride, int exist) {
  const int lane = lane_index();
  Element* row = rows + lane / 4 * stride + lane % 4 * 4;
#pragma unroll
  for (int group = 0; group < CHUNK / 8; ++group) {
    const u32 low = transpose(Element::pack(out[group][0] * scale, out[group][1] * scale));
    const u32 high = transpose(Element::pack(out[group][2] * scale, out[group][3] * scale));
    if (group * 8 + lane / 4 < exist) *reinterpret_cast<uint2*>(row) = {low, high};
    row += 8 * stride;
    asm("" : "+l"(row));  // or the offset of every group would live in registers throughout
  }
}
