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
  constexpr bool RESIDUAL = Cfg::ERASE == TOKEN || (Cfg::ERASE == CHANNEL && Cfg::DECAY == TOKEN);
#pragma unroll
  for (int t = 0; t < CHUNK / 16; ++t) {
    float z[2][4];
    float2 w[2];
    load_written(z, w, buffer, t, warp, lane);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      float2 f = {-1.0f, -1.0f};
      if constexpr (RESIDUAL) f = Columns(buffer.vector(Cfg::SMEM_RESIDUAL), lane)[t * 2 + n];
      float(&to)[4] = r[t * 2 + n];
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const float written = z[n][c] * (c % 2 ? w[n].y : w[n].x) * down;
        to[c] = Cfg::ERASE ? to[c] * (c % 2 ? f.y : f.x) + written : written;
      }
    }
  }
}

// Keeps S as it enters a chunk, where backward wants it.
struct KeepsNothing {
  template <typename Element>
  METHOD void operator()(const State<Element>&, int) const {}
};

// From chunk to chunk of `length` tokens. Rows of o are the warp's own values'; `keep` sees the state of each chunk.
template <class Cfg, typename Keep>
DEVICE void advance_chunks(State<typename Cfg::Element>& state, typename Cfg::Element* o_rows, i64 o_stride, int length,
                           float scale, const Keep& keep) {
  using Element = typename Cfg::Element;
  const int warp = warp_index() - STATE_WARP;
  Stage stage;
#pragma unroll 1
  for (int first = 0, chunk = 0; first < length; first += CHUNK, ++chunk) {
    const Buffer<Cfg> buffer(stage);
    keep(state, chunk);
    buffer.ready().wait(stage.parity);
    const int lane = lane_index();
    float n[CHUNK / 8][4], out[CHUNK / 8][4];
    u32 writes[CHUNK / 16][4];
    constexpr bool MOVES = Unit<Element>::MOVES;
    auto values_wait = [&] { Barrier{Cfg::SMEM_VALUES}.wait(chunk % 2); };
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
    if constexpr (Cfg::ERASE) {
      to_operands<Element>(writes, n);
      pin(writes);
      products_begin();
      multiply_rows(n, writes, ByColumns<CHUNK>(buffer.m()), false);
      products_commit();
    }
    // While they are under way: the decay of S, and of what queries read of it.
    constexpr bool SCALED = READ_IS_SCALED<Cfg>;
    if constexpr (SCALED) products_wait<Cfg::ERASE ? 1 : 0>(out);
    if constexpr (Cfg::DECAY == TOKEN) scale_all(state.s, at<float>(buffer.chunk_decay()));
    if constexpr (Cfg::DECAY == CHANNEL) scale_columns(state.s, Columns(buffer.chunk_decay(), lane));
    if constexpr (SCALED && Cfg::DECAY == TOKEN) {
      scale_columns(out, Columns(buffer.vector(Cfg::SMEM_QUERY), lane));
    } else if constexpr (SCALED) {
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
      if constexpr (Cfg::DECAY == CHANNEL) scale_all(out, scale * state.unit.up());
      else if constexpr (MOVES) scale_all(out, state.unit.up());
      store_outputs(out, Cfg::SMEM_OUT + warp * OUT_BYTES, o_rows + first * o_stride, o_stride, length - first, lane);
    }
    products_wait<0>(state.s);
    buffer.empty().arrive_alone();
    stage.advance();
  }
}
