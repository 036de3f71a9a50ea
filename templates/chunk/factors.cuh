// Elementwise factors. `of(i)` is the factor at i, `pair(i)` the factors at i and at i + 1, i even; multiplying by One
// costs nothing.
#pragma once

#include "numbers.cuh"
#include "ptx/shared.cuh"

struct One {
  static METHOD float of(int) { return 1.0f; }
  static METHOD float2 pair(int) { return {1.0f, 1.0f}; }
};

// A float32 vector in shared memory, indexed by token or by channel.
template <int VECTOR>
struct Each {
  static METHOD float of(int i) { return at<float>(VECTOR + i * 4); }
  static METHOD float2 pair(int i) { return at<float2>(VECTOR + i * 4); }
};

// The vector's entry for the chunk's last token.
template <int VECTOR>
struct AtEnd {
  static METHOD float2 pair(int) {
    const float end = at<float>(VECTOR + (CHUNK - 1) * 4);
    return {end, end};
  }
};

// No decay between two tokens, or none that is one factor per pair.
struct NoPairDecay {
  static METHOD float of(int, int) { return 1.0f; }
};
