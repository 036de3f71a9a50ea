#pragma once

#include "chunk/erase_operand.cuh"
#include "forward/wgmma/pair_scores.cuh"

// e = b k as operands, where no decay scales them later: over b, or in a tile of its own.
template <class Cfg>
DEVICE void make_erased(const Buffer<Cfg>& buffer) {
  gate_keys<typename Cfg::Element, typename Cfg::Erase>(buffer.gates(), buffer.keys(), buffer.erased());
  if constexpr (CHUNK == PRODUCT_ROWS) fence_async();
  group_sync();
}
