// One token where something is erased, from one pass over the decayed state D = Diag(alpha) S:
//   r = D^T e     n = z - r     S = D + k n^T     o = S^T q = D^T q + (k . q) n
// The sums D^T e, D^T q and k . q travel together. Returns n; `o` is complete where `writes_output`.
#pragma once

#include "numbers.cuh"
#include "decode/gates.cuh"
#include "decode/sums.cuh"

template <typename Decay, typename Erase, typename Write, typename State, typename Token>
DEVICE void advance(State& state, const Token& token, const Place& place, int buffer, float (&o)[TILE_VALUES]) {
  Decay::apply(state, token);

  float r[TILE_VALUES] = {}, dot = 0.0f;
#pragma unroll
  for (int j = 0; j < TILE_VALUES; ++j) o[j] = 0.0f;
#pragma unroll
  for (int step = 0; step < KEY_STEPS; ++step) {
#pragma unroll
    for (int i = 0; i < TILE_KEYS; ++i) {
      const float q = token.q.at(step, i), k = token.k.at(step, i), e = k * Erase::key(token, step, i);
      dot += k * q;
#pragma unroll
      for (int j = 0; j < TILE_VALUES; ++j) {
        r[j] += state.s[step][i][j] * e;
        o[j] += state.s[step][i][j] * q;
      }
    }
  }

  const int erased = SMEM_ERASED + buffer * KEY_WARPS * SUM_BYTES;
  const int read = SMEM_READ + buffer * KEY_WARPS * SUM_BYTES;
  const int dots = SMEM_DOTS + buffer * WARPS * 4;
#pragma unroll
  for (int j = 0; j < TILE_VALUES; ++j) {
    r[j] = sum_lanes(r[j]);
    o[j] = sum_lanes(o[j]);
  }
  dot = sum_lanes(dot);
  leave_sums(erased, place, r);
  leave_sums(read, place, o);
  if (lane_index() == 0) at<float>(dots + warp_index() * 4) = dot;
  __syncthreads();

  collect_sums(r, erased, place);
  float n[TILE_VALUES];
#pragma unroll
  for (int j = 0; j < TILE_VALUES; ++j) n[j] = Write::at(token, j) * token.v.at(j) - Erase::sum(token) * r[j];
#pragma unroll
  for (int step = 0; step < KEY_STEPS; ++step) {
#pragma unroll
    for (int i = 0; i < TILE_KEYS; ++i) {
      const float k = token.k.at(step, i);
#pragma unroll
      for (int j = 0; j < TILE_VALUES; ++j) state.s[step][i][j] += k * n[j];
    }
  }
  if (writes_output(place)) {
    collect_sums(o, read, place);
    dot = 0.0f;
#pragma unroll
    for (int warp = 0; warp < KEY_WARPS; ++warp) dot += at<float>(dots + (place.value_warp * KEY_WARPS + warp) * 4);
#pragma unroll
    for (int j = 0; j < TILE_VALUES; ++j) o[j] += dot * n[j];
  }
}
