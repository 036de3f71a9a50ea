// Gates from their logits. `of(x, t, d)` is a gate's value where its logit is x, at token t of the chunk and channel d.
// Tokens that do not exist get 0 after the formula: no decay, nothing erased, nothing written, whatever a formula makes of
// a logit of 0.
#pragma once

#include "numbers.cuh"
#include "chunk/token_gates.cuh"
#include "chunk/values.cuh"
#include "formula/tiles.cuh"
#include "ptx/elements.cuh"

// A gate along V in a warp's slice, over the logits, which are as wide; a thread has the numbers that it copied. `value` is
// the warp's first.
template <typename From, typename To, typename Of>
DEVICE void compute_slice(int region, int value, int exist, Of of) {
  const int lane = lane_index(), mine = region + warp_index() * SLICE<From> + lane * 8;
#pragma unroll 1
  for (int group = 0; group < CHUNK / 8; ++group) {
    const int t = group * 8 + lane / 4, d = value + lane % 4 * 4;
    uint2& words = at<uint2>(mine + group * 256);
    const float x[4] = {From::low(words.x), From::high(words.x), From::low(words.y), From::high(words.y)};
    words = t < exist ? uint2{To::pack(of(x[0], t, d), of(x[1], t, d + 1)), To::pack(of(x[2], t, d + 2), of(x[3], t, d + 3))}
                      : uint2{0, 0};
  }
}

template <typename Of>
DEVICE void compute_wide_slice(int region, int value, int exist, Of of) {
  const int lane = lane_index(), mine = region + warp_index() * SLICE<float> + lane * 16;
#pragma unroll 1
  for (int group = 0; group < CHUNK / 8; ++group) {
    const int t = group * 8 + lane / 4, d = value + lane % 4 * 4;
    float4& x = at<float4>(mine + group * 512);
    x = t < exist ? float4{of(x.x, t, d), of(x.y, t, d + 1), of(x.z, t, d + 2), of(x.w, t, d + 3)}
                  : float4{0.0f, 0.0f, 0.0f, 0.0f};
  }
}

// A gate with one number per token; `of(r)` is entry r of the lane that calls.
template <typename Of>
DEVICE void compute_tokens(TokenGate& gate, int exist, Of of) {
  const int lane = lane_index();
#pragma unroll
  for (int r = 0; r < TOKEN_ROWS; ++r) {
    const int token = r * 32 + lane;
    gate.value[r] = (CHUNK >= 32 || token < CHUNK) && token < exist ? of(r) : 0.0f;
  }
}
