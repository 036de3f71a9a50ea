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

template <typename Element>
struct KeepsStates {
  uint4* first;  // the tile's words of chunk 0
  i64 apart;     // from chunk to chunk

  // `first_token`: among all.
  METHOD KeepsStates(void* words, i64 first_token, int sequence, int value_head, int value_heads, int tile)
      : first(kept_words<Element>(words, chunk_slot(first_token, sequence, 0), value_head, value_heads, tile)),
        apart(static_cast<i64>(value_heads) * ((VALUE + 15) / 16) * KEPT_WORDS<Element>) {}

  METHOD void operator()(State<Element>& state, int chunk) const {
    uint4* const kept = first + chunk * apart;
    keep_unit(state.unit, state.s, kept);
    const int lane = lane_index();
    // A lane has two values, eight rows apart, and of each 16-byte word of theirs one half, near or far. It takes the other
    // half of one of them from its neighbour, and gives its half of the other.
    const bool far = lane / 8 % 2;
    const int row = lane / 16 * 2 + (far ? 4 : 0) + lane / 4 % 2;
#pragma unroll
    for (int d = 0; d < KEY / 16; ++d) {
      u32 mine[2], theirs[2];
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const float(&x)[4] = state.s[d * 2 + n];
        const u32 upper = Element::pack(x[0], x[1]), lower = Element::pack(x[2], x[3]);
        mine[n] = far ? lower : upper;
        theirs[n] = __shfl_xor_sync(0xffffffffu, far ? upper : lower, 8);
      }
      kept[d * 32 + row * 4 + lane % 4] = far ? uint4{theirs[0], mine[0], theirs[1], mine[1]}
                                              : uint4{mine[0], theirs[0], mine[1], theirs[1]};
    }
    __syncwarp();  // or stores would be put off, and their words held beside what products take
  }
};
