// The factor warpgroup: everything of a chunk that no state enters, a chunk ahead of the state.
#pragma once

#include "forward/wgmma/blocks.cuh"
#include "forward/wgmma/products.cuh"
#include "forward/wgmma/ring.cuh"
#include "numbers.cuh"

template <class Cfg>
DEVICE void make_factors(int length, float scale) {
  ChunkFactors<Cfg> factors;
  Stage stage;
#pragma unroll 1
  for (int first = 0; first < length; first += CHUNK) {
    const Buffer<Cfg> buffer(stage);
    buffer.full().wait(stage.parity);
    if constexpr (Cfg::DECAY == CHANNEL || Cfg::OUTPUTS || Cfg::ERASE) factors.make(buffer, scale);
    fence_async();
    buffer.ready().arrive();
    stage.advance();
  }
}
