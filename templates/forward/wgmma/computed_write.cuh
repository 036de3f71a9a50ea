// A write gate along V, computed as a warp takes it from its logits. Where there is no token there is no value, and any
// finite number will do.
#pragma once

#include "forward/wgmma/computed.cuh"
#include "forward/wgmma/values.cuh"
#include "numbers.cuh"

template <class Of, typename... T>
struct Values<Computed<Of, T...>> : Values<T>... {
  enum : bool { ALONE = (Values<T>::ALONE || ... || false) };
  int value;  // the lane's first, of the block's

  METHOD Values(int tile, int warp, int lane) : Values<T>(tile, warp, lane)..., value(warp * 16 + lane / 4) {}
  METHOD void load(float (&near)[4], float (&far)[4], int tokens) const {
#pragma unroll
    for (int c = 0; c < 4; ++c) near[c] = far[c] = 0.0f;
    (Values<T>::load(near, far, tokens), ...);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      near[c] = Of::of(near[c], value + c / 2 * 8);
      far[c] = Of::of(far[c], value + c / 2 * 8);
    }
  }
};
