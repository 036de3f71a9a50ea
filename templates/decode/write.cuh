// One token where nothing is erased: S = Diag(alpha) S + k z^T, o = S^T q, complete where `writes_output`.
#pragma once

#include "numbers.cuh"
#include "decode/gates.cuh"
#include "decode/sums.cuh"

template <typename Decay, typename Write, typename State, typename Token>
DEVICE void advance(State& state, const Token& token, const Place& place, int buffer, float (&o)[TILE_VALUES]) {
  Decay::apply(state, token);

  float z[TILE_VALUES];
#pragma unroll
  for (int j = 0; j < TILE_VALUES; ++j) {
    z[j] = Write::at(token, j) * token.v.at(j);
    o[j] = 0.0f;
  }
#pragma unroll
  for (int step = 0; step < KEY_STEPS; ++step) {
#pragma unroll
    for (int i = 0; i < TILE_KEYS; ++i) {
      const float q = token.q.at(step, i), k = token.k.at(step, i);
#pragma unroll
      for (int j = 0; j < TILE_VALUES; ++j) {
        state.s[step][i][j] += k * z[j];
        o[j] += state.s[step][i][j] * q;
      }
    }
  }

  const int read = SMEM_READ + buffer * KEY_WARPS * SUM_BYTES;
#pragma unroll
  for (int j = 0; j < TILE_VALUES; ++j) o[j] = sum_lanes(o[j]);
  leave_sums(read, place, o);
  __syncthreads();
  if (writes_output(place)) collect_sums(o, read, place);
}
