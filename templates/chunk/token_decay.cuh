// Decay with one number per token: prefix sums gamma in base 2 and the factors that follow from them.
#pragma once

#include "numbers.cuh"
#include "chunk/token_gates.cuh"

// gamma_i = log2 of the decay from the chunk's start through token i; `into` = 2^gamma_i, `out` = 2^(gamma_C - gamma_i).
DEVICE void token_decay(const TokenGate& g, int gamma, int into, int out) {
  const int lane = lane_index();
  float sum[TOKEN_ROWS];
  float before = 0.0f;
#pragma unroll
  for (int r = 0; r < TOKEN_ROWS; ++r) {
    sum[r] = log2_decay(g.value[r]);
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const float other = __shfl_up_sync(0xffffffffu, sum[r], step);
      if (lane >= step) sum[r] += other;
    }
    sum[r] += before;
    before = __shfl_sync(0xffffffffu, sum[r], 31);
  }
  const float total = before;
  store_tokens(gamma, [&](int r, int) { return sum[r]; });
  store_tokens(into, [&](int r, int) { return exp2(sum[r]); });
  store_tokens(out, [&](int r, int) { return exp2(total - sum[r]); });
}

// 2^(gamma_i - gamma_j) for i >= j; 1 above the diagonal, where the product is masked anyway.
template <int GAMMA>
struct PairDecay {
  static METHOD float of(int i, int j) {
    return exp2(fminf(at<float>(GAMMA + i * 4) - at<float>(GAMMA + j * 4), 0.0f));
  }
};
