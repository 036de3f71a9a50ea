// States kept in memory as matrix operands: of each 16 value rows and 16 channels, one 16-byte word to a lane, so that
// a warp moves 512 neighbouring bytes at a time. [value tiles][KEY / 16][32 lanes], rounded to the operand type, and behind
// each tile its unit's exponent where there is one.
#pragma once

#include "numbers.cuh"
#include "chunk/state.cuh"

enum : int {
  KEPT_TILE = KEY / 16 * 512,  // bytes of a value tile
};

// Words of a value tile, unit and all.
template <typename Element>
constexpr int KEPT_WORDS = KEPT_TILE / 16 + Unit<Element>::MOVES;

template <typename Element>
DEVICE void keep_state(State<Element>& state, uint4* words) {
  const int lane = lane_index();
  if constexpr (Unit<Element>::MOVES) {
    state.unit.fit(state.s);
    if (lane == 0) words[KEPT_TILE / 16] = {static_cast<u32>(state.unit.exponent), 0, 0, 0};
  }
#pragma unroll
  for (int d = 0; d < KEY / 16; ++d) {
    u32 a[4];
    to_operand<Element, One>(a, state.s, d, lane);
    words[d * 32 + lane] = {a[0], a[1], a[2], a[3]};
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
