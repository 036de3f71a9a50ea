// The state from chunk to chunk: the only work that waits for the chunk before.
#pragma once

#include "forward/wgmma/state.cuh"
#include "forward/wgmma/values.cuh"
#include "numbers.cuh"

// w V of 16 tokens from 16 t on. A gate that is one number per token is `factor`, of the first eight and of the rest.
template <class Cfg>
DEVICE void load_written(float (&z)[2][4], float2 (&factor)[2], const Buffer<Cfg>& buffer, int t, int warp, int lane) {
  const Values<typename Cfg::Element> values(Cfg::SMEM_V_TILE, warp, lane);
  values.load(z[0], z[1], t * 16);
  if constexpr (Cfg::WRITE == CHANNEL) {
    const Values<typename Cfg::Write> gates(Cfg::SMEM_W_TILE, warp, lane);
    float w[2][4];
    gates.load(w[0], w[1], t * 16);
#pragma unroll
    for (int c = 0; c < 8; ++c) z[c / 4][c % 4] *= w[c / 4][c % 4];
  }
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    factor[n] = {1.0f, 1.0f};
    if constexpr (Cfg::TIED) factor[n] = Columns(buffer.vector(Cfg::SMEM_BETA), lane)[t * 2 + n];
    else if constexpr (Cfg::WRITE == TOKEN) factor[n] = Columns(buffer.vector(Cfg::SMEM_WRITE), lane)[t * 2 + n];
  }
}

// Chooses the unit of S for a chunk, by what it holds and what will be written to it.
template <class Cfg>
DEVICE void choose_unit(State<typename Cfg::Element>& state, const Buffer<Cfg>& buffer, int warp, int lane) {
  float z[CHUNK / 8][4];
#pragma unroll
  for (int t = 0; t < CHUNK / 16; ++t) {
    float written[2][4];
    float2 w[2];
    load_written(written, w, buffer, t, warp, lane);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int c = 0; c < 4; ++c) z[t * 2 + n][c] = written[n][c] * (c % 2 ? w[n].y : w[n].x) * state.unit.down();
    }
  }
  state.unit.fit(state.s, z);
}

// R = w V - E^ S, in float32, or w V where nothing is erased: `r` holds E^ S up to the factor of `residual`. Values come in
// units of 1, R is in those that `down` leads to.
template <class Cfg>
DEVICE void subtract_held(float (&r)[CHUNK / 8][4], const Buffer<Cfg>& buffer, int warp, int lane, float down) {
#pragma unroll
  for (int t = 0; t < CHUNK / 16; ++t) {
    float z[2][4];
    float2 w[2];
    load_written(z, w, buffer, t, warp, lane);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      float2 f = {-1.0f, -1.0f};
      if constexpr (Buffer<Cfg>::RESIDUAL) f = Columns(buffer.vector(Cfg::SMEM_RESIDUAL), lane)[t * 2 + n];
      float(&to)[4] = r[t * 2 + n];
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const float written = z[n][c] * (c % 2 ? w[n].y : w[n].x) * down;
        to[c] = Cfg::ERASE ? to[c] * (c % 2 ? f.y : f.x) + written : written;
      }
    }
  }
}

// N = M R, R being in `n`, begins.
template <class Cfg>
DEVICE void begin_writes(float (&n)[CHUNK / 8][4], u32 (&r)[CHUNK / 16][4], const Buffer<Cfg>& buffer) {
  to_operands<typename Cfg::Element>(r, n);
  pin(r);
  products_begin();
  multiply_rows(n, r, ByColumns<CHUNK>(buffer.m()), false);
  products_commit();
}

// A chunk, queries' reads of S early: as S enters, beside what is erased of it.
template <class Cfg, typename Wait>
DEVICE void advance_early(State<typename Cfg::Element>& state, float (&out)[CHUNK / 8][4], const Buffer<Cfg>& buffer,
                          const Wait& values_wait, float scale, int warp, int lane) {
  using Element = typename Cfg::Element;
  constexpr bool MOVES = Unit<Element>::MOVES;
  float n[CHUNK / 8][4];
  u32 writes[CHUNK / 16][4];
  if constexpr (MOVES) {
    values_wait();
    choose_unit(state, buffer, warp, lane);
  }
  if constexpr (Cfg::OUTPUTS || Cfg::ERASE) read_state<Cfg>(n, out, state.s, buffer);
  if constexpr (!MOVES) values_wait();
  if constexpr (Cfg::ERASE) products_wait<Cfg::OUTPUTS>(n);
  subtract_held(n, buffer, warp, lane, state.unit.down());
  if constexpr (Cfg::WRITE == CHANNEL && Values<typename Cfg::Write>::ALONE) __syncwarp();
  Barrier{Cfg::SMEM_VALUES_READ}.arrive_alone();
  if constexpr (Cfg::ERASE) begin_writes(n, writes, buffer);
  // While they are under way: the decay of S, and of what queries read of it.
  if constexpr (Cfg::OUTPUTS) products_wait<Cfg::ERASE ? 1 : 0>(out);
  decay_state(state.s, buffer, lane);
  if constexpr (Cfg::OUTPUTS && Cfg::DECAY == TOKEN) {
    scale_columns(out, Columns(buffer.vector(Cfg::SMEM_QUERY), lane));
  } else if constexpr (Cfg::OUTPUTS) {
    scale_all(out, scale);
  }
  if constexpr (Cfg::ERASE) products_wait<0>(n);
  to_operands<Element>(writes, n);
  u32 decayed[CHUNK / 16][4];
  if constexpr (Cfg::DECAY == TOKEN) {
    scale_columns(n, Columns(buffer.vector(Cfg::SMEM_DECAY_OUT), lane));
    to_operands<Element>(decayed, n);
    pin(decayed);
  }
  // Every lane has read the buffer's vectors; outputs bring the lanes together later.
  if constexpr (!Cfg::OUTPUTS) __syncwarp();
  if constexpr (Cfg::OUTPUTS || Cfg::DECAY != TOKEN) pin(writes);
  if constexpr (Cfg::OUTPUTS) pin(out);
  pin(state.s);
  products_begin();
  if constexpr (Cfg::OUTPUTS) {
    multiply_rows(out, writes, ByColumns<CHUNK>(buffer.p()), true);
    products_commit();
  }
  if constexpr (Cfg::DECAY == TOKEN) multiply_columns(state.s, decayed, ByRows<KEY>(buffer.keys()));
  else multiply_columns(state.s, writes, ByRows<KEY>(buffer.keys()));
  products_commit();
  if constexpr (Cfg::OUTPUTS) {
    products_wait<1>(out);
    if constexpr (MOVES) scale_all(out, state.unit.up());
  }
}

// A chunk, queries' reads of S late. `place`: 16 bytes of each lane's own, where registers are short.
template <class Cfg, typename Wait>
DEVICE void advance_late(State<typename Cfg::Element>& state, float (&out)[CHUNK / 8][4], const Buffer<Cfg>& buffer,
                         const Wait& values_wait, float scale, int place, int warp, int lane) {
  using Element = typename Cfg::Element;
  constexpr bool MOVES = Unit<Element>::MOVES, WHOLE = Entering<Cfg>::WHOLE, SHORT = Cfg::OUTPUTS && WHOLE && CHUNK > 32;
  float n[CHUNK / 8][4];
  u32 writes[CHUNK / 16][4];
  if constexpr (MOVES) {
    values_wait();
    choose_unit(state, buffer, warp, lane);
  }
  Entering<Cfg> entering;
  if constexpr (WHOLE && (Cfg::OUTPUTS || Cfg::ERASE)) entering.take(state.s);
  if constexpr (SHORT) entering.put_by(place);
  if constexpr (Cfg::ERASE && WHOLE) entering.read_whole(n, ByColumns<KEY>(buffer.erased()), false);
  else if constexpr (Cfg::ERASE) entering.read_parts(n, state.s, ByColumns<KEY>(buffer.erased()));
  if constexpr (!MOVES) values_wait();
  if constexpr (Cfg::ERASE) products_wait<0>(n);
  subtract_held(n, buffer, warp, lane, state.unit.down());
  if constexpr (Cfg::WRITE == CHANNEL && Values<typename Cfg::Write>::ALONE) __syncwarp();
  Barrier{Cfg::SMEM_VALUES_READ}.arrive_alone();
  if constexpr (Cfg::ERASE) begin_writes(n, writes, buffer);
  if constexpr (WHOLE) decay_state(state.s, buffer, lane);
  if constexpr (Cfg::ERASE) products_wait<0>(n);
  to_operands<Element>(writes, n);
  pin(writes);
  if constexpr (!WHOLE) {
    if constexpr (Cfg::OUTPUTS) entering.read_parts(out, state.s, ByColumns<KEY>(buffer.queries()));
    decay_state(state.s, buffer, lane);
  }
  // Every lane has read the buffer's vectors; outputs bring the lanes together later.
  if constexpr (!Cfg::OUTPUTS) __syncwarp();
  pin(state.s);
  products_begin();
  multiply_columns(state.s, writes, ByRows<KEY>(buffer.keys()));
  if constexpr (Cfg::OUTPUTS) multiply_rows(out, writes, ByColumns<CHUNK>(buffer.p()), !WHOLE);
  products_commit();
  if constexpr (SHORT) {
    products_wait<0>(out, state.s);
    entering.fetch(place);
    __syncwarp();  // every lane has its part, over which outputs come
  }
  if constexpr (Cfg::OUTPUTS && WHOLE) entering.read_whole(out, ByColumns<KEY>(buffer.queries()), true);
  if constexpr (Cfg::OUTPUTS) {
    products_wait<0>(out, state.s);
    scale_all(out, scale * state.unit.up());
  } else {
    products_wait<0>(state.s);
  }
}

// From chunk to chunk of `length` tokens. Rows of o are the warp's own values'; `keep` sees the state of each chunk.
template <class Cfg, typename Keep>
DEVICE void advance_chunks(State<typename Cfg::Element>& state, typename Cfg::Element* o_rows, i64 o_stride, int length,
                           float scale, const Keep& keep) {
  const int warp = warp_index() - STATE_WARP;
  int place = 0;  // of outputs on their way
  if constexpr (Cfg::OUTPUTS) place = Cfg::SMEM_OUT + warp * OUT_BYTES;
  Stage stage;
#pragma unroll 1
  for (int first = 0, chunk = 0; first < length; first += CHUNK, ++chunk) {
    const Buffer<Cfg> buffer(stage);
    keep(state, chunk);
    buffer.ready().wait(stage.parity);
    const auto values_wait = [&] { Barrier{Cfg::SMEM_VALUES}.wait(chunk % 2); };
    const int lane = lane_index();
    float out[CHUNK / 8][4];
    constexpr bool LATE = Cfg::DECAY == CHANNEL;
    if constexpr (LATE) advance_late(state, out, buffer, values_wait, scale, place + lane * 16, warp, lane);
    else advance_early(state, out, buffer, values_wait, scale, warp, lane);
    if constexpr (Cfg::OUTPUTS) store_outputs(out, place, o_rows + first * o_stride, o_stride, length - first, lane);
    if constexpr (!LATE) products_wait<0>(state.s);
    buffer.empty().arrive_alone();
    stage.advance();
  }
}
