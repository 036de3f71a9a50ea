// The load warpgroup: a chunk's tiles into its buffer of the ring, its values, and the vectors over its tokens.
#pragma once

#include "forward/wgmma/copies.cuh"
#include "forward/wgmma/ring.cuh"
#include "forward/wgmma/vectors.cuh"

// Rows of q, k, v and of the gates. Values are `written` for as many tokens, and zeros after them.
template <class Cfg, class Q, class K, class V, class G, class B, class W>
DEVICE void load_chunks(const Q& q, const K& k, const V& v, const G& g, const B& b, const W& w, int length, int written,
                        float scale) {
  const int lane = lane_index();
  const bool has_gates = TokenGates<Cfg>::ANY && warp_index() % WARPS == 0;
  TokenGates<Cfg> gates;
  // Before the first token nothing is there.
  const auto fetch = [&](int from) { gates.fetch(g, b, w, from, BACK && from < 0 ? from : length, lane); };
  if (has_gates) fetch(first_chunk(length));
  Stage stage;
#pragma unroll 1
  for (int first = first_chunk(length), parity = 1; is_chunk(first, length); first += NEXT_CHUNK, parity ^= 1) {
    const Buffer<Cfg> buffer(stage);
    const int exist = length - first;
    buffer.empty().wait(stage.parity ^ 1);
    if constexpr (Cfg::OUTPUTS) copy_tile<KEY>(buffer.queries(), q, first, exist);
    copy_tile<KEY>(buffer.keys(), k, first, exist);
    if constexpr (Cfg::ERASE == CHANNEL) copy_tile<KEY>(buffer.gates(), b, first, exist);
    if constexpr (Cfg::DECAY == CHANNEL) copy_tile<KEY>(buffer.decays(), g, first, exist);
    buffer.full().arrive_copied();
    if (has_gates) {
      store_vectors<Cfg>(buffer, gates, scale, lane);
      buffer.full().arrive();
      fetch(first + NEXT_CHUNK);
    } else {
      buffer.full().arrive_alone();  // copies alone do not tell that the buffer was empty
    }
    Barrier{Cfg::SMEM_VALUES_READ}.wait(parity);
    copy_tile<VALUES>(Cfg::SMEM_V_TILE, v, first, written - first);
    if constexpr (Cfg::WRITE == CHANNEL) copy_tile<VALUES>(Cfg::SMEM_W_TILE, w, first, written - first);
    Barrier{Cfg::SMEM_VALUES}.arrive_copied();
    stage.advance();
  }
}
