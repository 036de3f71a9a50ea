// The factor warpgroup: everything of a chunk that no state enters, a chunk ahead of the state.
#pragma once

#include "forward/wgmma/blocks.cuh"
#include "forward/wgmma/products.cuh"
#include "forward/wgmma/ring.cuh"
#include "numbers.cuh"

template <class Cfg>
DEVICE void make_factors(int length, float scale) {
  if constexpr (Cfg::DECAY != CHANNEL) {
    // Nothing else is ever written there.
    for (Stage stage; stage.parity == 0; stage.advance()) {
      const Buffer<Cfg> buffer(stage);
      if constexpr (Cfg::OUTPUTS) clear_above(buffer.p());
      if constexpr (Cfg::ERASE) clear_above(buffer.m());
    }
  }
  Stage stage;
#pragma unroll 1
  for (int first = 0, chunk = 0; first < length; first += CHUNK, ++chunk) {
    const Buffer<Cfg> buffer(stage);
    buffer.full().wait(stage.parity);
    if constexpr (Cfg::DECAY == CHANNEL || Cfg::OUTPUTS || Cfg::ERASE) make_chunk_factors<Cfg>(buffer, chunk, scale);
    fence_async();
    buffer.ready().arrive();
    stage.advance();
  }
}
