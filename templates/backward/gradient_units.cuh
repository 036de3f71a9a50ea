// Units of the states that a chunk's gradients are made of, and what they come to: N is in the state's unit, dR in that of
// the state's gradient, and sums of products in both their operands'.
#pragma once

#include "backward/gradient_keys.cuh"
#include "chunk/kept_layout.cuh"
#include "chunk/unit.cuh"
#include "numbers.cuh"

// Where the kept states of a chunk are.
template <typename Element>
struct KeptStates {
  i64 slot;
  int value_head, value_heads;

  METHOD uint4* tile(void* workspace, int tile) const {
    return kept_words<Element>(workspace, slot, value_head, value_heads, tile);
  }
  METHOD int exponent(void* workspace, int tile) const {
    return static_cast<int>(this->tile(workspace, tile)[KEPT_TILE / 16].x);
  }

  // Brings a tile to the chunk's unit, of which its own is a part: the numbers that the thread has copied.
  METHOD void settle(int kept, void* workspace, const Unit<Element>& unit, int tile) const {
    if constexpr (Unit<Element>::MOVES) {
      const int smaller = unit.exponent - exponent(workspace, tile);
      if (smaller == 0) return;
      const float factor = power_of_two(-smaller);
      const int lane = lane_index();
#pragma unroll 1
      for (int d = 0; d < KEY / 16; ++d) {
        u32(&words)[4] = at<u32[4]>(kept + (d * 32 + lane) * 16);
#pragma unroll
        for (int i = 0; i < 4; ++i) words[i] = Element::pack(Element::low(words[i]) * factor, Element::high(words[i]) * factor);
      }
    }
  }
};

template <typename Element>
struct ChunkUnits {
  Unit<Element> state, gradient;

  // The largest unit of all value tiles.
  METHOD ChunkUnits(const KeptStates<Element>& kept, void* states, void* gradients) {
    if constexpr (Unit<Element>::MOVES) {
#pragma unroll 1
      for (int tile = 0; tile < (VALUE + 15) / 16; ++tile) {
        const int of_state = kept.exponent(states, tile), of_gradient = kept.exponent(gradients, tile);
        if (state.exponent < of_state) state.exponent = of_state;
        if (gradient.exponent < of_gradient) gradient.exponent = of_gradient;
      }
    }
  }

  METHOD void raise(float (&dr)[CHUNK / 8][4]) const {
    if constexpr (Unit<Element>::MOVES) change_unit(dr, gradient.up());
  }

  template <typename Left, typename Tail, typename Pairs, typename Decay, typename Erase, typename PairErase>
  METHOD void raise(KeySums& sums, Left& left, Tail& tail, Pairs& pairs, const Decay& decay, const Erase& erase,
                    const PairErase& pair_erase) const {
    if constexpr (Unit<Element>::MOVES) {
      const float both = state.up() * gradient.up();
      change_unit(sums.q, state.up());
      change_unit(sums.k, both);
      erase.raise(left, both);
      decay.raise(tail, both);
#pragma unroll
      for (int t = 0; t < PAIR_TASKS; ++t) {
        change_unit(pairs.p[t], state.up());
        pair_erase.raise(pairs.l[t], both);
      }
    }
  }
};
