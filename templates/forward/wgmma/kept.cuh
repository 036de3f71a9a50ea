// Keeps the states of wgmma's warps in memory, where row r of a warp's first eight is value 4 (r / 2) + r % 2, and that of
// the other eight two further on.
#pragma once

#include "chunk/kept_layout.cuh"
#include "forward/wgmma/state.cuh"
#include "numbers.cuh"

// Nothing asks for them.
struct KeepsNothing {
  template <typename Element>
  METHOD void operator()(const State<Element>&, int) const {}
};

struct KeepsStates {
  void* words;
  i64 first_token;  // among all
  int sequence, value_head, value_heads, tile;

  template <typename Element>
  METHOD void operator()(State<Element>& state, int chunk) const {
    const i64 slot = chunk_slot(first_token, sequence, chunk);
    uint4* const kept = kept_words<Element>(words, slot, value_head, value_heads, tile);
    keep_unit(state.unit, state.s, kept);
    u32* const to = &kept->x;
    const int lane = lane_index();
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
