// Where states are kept in memory, as matrix operands in the order of mma.m16n8k16's warps: of each 16 value rows and 16
// channels, one 16-byte word to a lane, so that a warp moves 512 neighbouring bytes at a time. [value tiles][KEY / 16][32
// lanes], rounded to the operand type, and behind each tile its unit's exponent where there is one.
#pragma once

#include "chunk/unit.cuh"
#include "numbers.cuh"

enum : int {
  KEPT_TILE = KEY / 16 * 512,  // bytes of a value tile
};

// Words of a value tile, unit and all.
template <typename Element>
constexpr int KEPT_WORDS = KEPT_TILE / 16 + Unit<Element>::MOVES;

// Keeps the exponent of a tile's unit, which is the one that suits these numbers.
template <typename Element, int N>
DEVICE void keep_unit(Unit<Element>& unit, float (&x)[N][4], uint4* words) {
  if constexpr (Unit<Element>::MOVES) {
    unit.fit(x);
    if (lane_index() == 0) words[KEPT_TILE / 16] = {static_cast<u32>(unit.exponent), 0, 0, 0};
  }
}

// Where a chunk's slot lies among all sequences' chunks: slots of one sequence follow each other, and no two sequences
// share one, without a look at the sequences between.
DEVICE i64 chunk_slot(i64 first_token, int sequence, int chunk) { return first_token / CHUNK + sequence + chunk; }

// The kept state of a chunk, first value tile of `tile`.
template <typename Element>
DEVICE uint4* kept_words(void* workspace, i64 slot, int value_head, int value_heads, int tile) {
  const i64 index = (slot * value_heads + value_head) * ((VALUE + 15) / 16) + tile;
  return static_cast<uint4*>(workspace) + index * KEPT_WORDS<Element>;
}
