// What a segment makes of the state it starts from, beside what it writes: A, which a block on mma.sync makes of the same
// factors as its rows of B. Nothing is written to A.
#pragma once

#include "numbers.cuh"
#include "chunk/state.cuh"
#include "forward/segment_maps.cuh"
#include "forward/segment_rows.cuh"

// Where a chunk erases: 16 rows of A^T to a warp, those from `row` on, advanced as rows of S^T are. `Row`: what of E^ is no
// part of its tile, a factor per token.
template <typename Element, typename Writes, typename Row, typename Out, typename Carry>
struct Transition {
  State<Element> state;
  int row;
  bool mine;  // the warp has rows

  METHOD Transition(int tile, bool composes) : row(tile * 16), mine(composes && row < MAP_ROWS) {
    if (mine) begin_map(state, row);
  }
  // R is what is erased alone.
  METHOD void advance(const Writes& writes, int k) {
    if (!mine) return;
    const int lane = lane_index();
    if constexpr (Unit<Element>::MOVES) state.unit.fit(state.s);
    float n[CHUNK / 8][4] = {};
    state.read(n, writes.left, lane);
#pragma unroll
    for (int group = 0; group < CHUNK / 8; ++group) {
      const float2 row = Row::pair(group * 8 + lane % 4 * 2);
      n[group][0] *= -row.x;
      n[group][1] *= -row.y;
      n[group][2] *= -row.x;
      n[group][3] *= -row.y;
    }
    writes.template solve<Element>(n);
    advance_only<Out, Carry>(state, n, k);
  }
  METHOD void store(float* map) const {
    if (mine) store_rows<MAP_ROWS>(state, map, row);
  }
};

// Where nothing is erased A is diagonal: the decay of each channel, two channels to a thread.
template <typename Carry>
struct DiagonalTransition {
  float2 decay[(KEY / 2 + THREADS - 1) / THREADS];
  bool mine;  // the block makes A

  METHOD explicit DiagonalTransition(bool composes) : mine(composes) {
    each([&](float2& x, int) { x = {1.0f, 1.0f}; });
  }
  METHOD void advance() {
    each([&](float2& x, int channel) {
      const float2 factor = Carry::pair(channel);
      x.x *= factor.x;
      x.y *= factor.y;
    });
  }
  METHOD void store(float* map) {
    each([&](float2& x, int channel) {
      if (mine) *reinterpret_cast<float2*>(map + channel) = x;
    });
  }

 private:
  // Each of the thread's pairs, and its first channel.
  template <typename Do>
  METHOD void each(Do act) {
#pragma unroll
    for (int i = 0; i < (KEY / 2 + THREADS - 1) / THREADS; ++i) {
      const int channel = (i * THREADS + thread_index()) * 2;
      if (channel < KEY) act(decay[i], channel);
    }
  }
};
