// States kept in memory as matrix operands, in the order of mma.m16n8k16's warps: of each 16 value rows and 16 channels, one
// 16-byte word to a lane. [value tiles][KEY / 16][32 lanes], rounded to the operand type.
//
// Behind each tile is its unit's exponent where there is one. There row r of a warp's first eight is value 4 (r / 2) + r % 2, and that of the other eight two further on.
#pragma once

#include "forward/wgmma/state.cuh"
#include "numbers.cuh"

enum : int {
  KEPT_TILE = KEY / 16 * 512,  // bytes of a value tile
};

// Where a chunk's slot lies among all sequences' chunks: slots of one sequence follow each other, and no two sequences
// share one, without a look at the sequences between.
DEVICE i64 chunk_slot(i64 first_token, int sequence, int chunk) { return first_token / CHUNK + sequence + chunk; }

struct KeepsStates {
  void* words;
  i64 first_token;  // among all
  int sequence, value_head, value_heads, tile;

  template <typename Element>
  METHOD void operator()(State<Element>& state, int chunk) const {
    constexpr int WORDS = KEPT_TILE / 4 + Unit<Element>::MOVES * 4;
    const i64 slot = chunk_slot(first_token, sequence, chunk);
    u32* const to = static_cast<u32*>(words) + ((slot * value_heads + value_head) * (VALUE / 16) + tile) * WORDS;
    const int lane = lane_index();
    if constexpr (Unit<Element>::MOVES) {
      state.unit.fit(state.s);
      if (lane == 0) to[KEPT_TILE / 4] = state.unit.exponent;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      // The lane's value lane / 4 + 8 half.
      const int row = lane / 16 * 2 + half * 4 + lane / 4 % 2, number = lane / 8 % 2;
#pragma unroll
      for (int n = 0; n < KEY / 8; ++n) {
        const float(&x)[4] = state.s[n];
        to[(n / 2 * 32 + row * 4 + lane % 4) * 4 + n % 2 * 2 + number] = Element::pack(x[half * 2], x[half * 2 + 1]);
      }
    }
  }
};
