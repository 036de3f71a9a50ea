// The gradient dS of the state from chunk to chunk, last first, on the skeleton of the forward pass: 64 value rows of dS^T to
// a warpgroup, in accumulators throughout and, rounded, as the register operand of products whose other operand is a tile.
//
//   dN = PT dO + K^ dS'      dR = MT dN      dS = D dS' + Q^T dO - E^T dR
//
// dS' is what the chunk after leaves. dO lies where values lie in the forward pass. Factors that are one per token come from
// the vectors of the chunk's buffer.
#pragma once

#include "backward/wgmma/transposed.cuh"
#include "forward/wgmma/state.cuh"
#include "forward/wgmma/values.cuh"
#include "numbers.cuh"

// Columns of operands, which are tokens, times `factor` and, where there is a vector, that of their token.
template <class Cfg>
DEVICE void scale_queries(u32 (&a)[CHUNK / 16][4], const Buffer<Cfg>& buffer, float scale, float down, int lane) {
  using Element = typename Cfg::Element;
#pragma unroll
  for (int t = 0; t < CHUNK / 16; ++t) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float2 factor = {scale * down, scale * down};
      if constexpr (Cfg::DECAY == TOKEN) {
        factor = Columns(buffer.vector(Cfg::SMEM_QUERY), lane)[t * 2 + half];  // with `scale` in it
        factor = {factor.x * down, factor.y * down};
      }
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        u32& pair = a[t][half * 2 + row];
        pair = Element::pack(Element::low(pair) * factor.x, Element::high(pair) * factor.y);
      }
    }
  }
}

// E^T dR, as a chunk's dS loses it: the operand is -dR up to the factor that E^ lacks.
template <class Cfg>
DEVICE void negate_residual(float (&dr)[CHUNK / 8][4], const Buffer<Cfg>& buffer, int lane) {
  if constexpr (Buffer<Cfg>::RESIDUAL) scale_columns(dr, Columns(buffer.vector(Cfg::SMEM_RESIDUAL), lane));
  else scale_all(dr, -1.0f);
}

// sum (+)= K^ dS', the operand of dS' in parts of Cfg::STEPS steps, each of which waits for the one before.
template <class Cfg, bool KEEP, int FROM = 0>
DEVICE void read_gradient(float (&sum)[CHUNK / 8][4], const float (&s)[KEY / 8][4], const ByColumns<KEY>& keys) {
  constexpr bool LAST = FROM + Cfg::STEPS >= KEY / 16;
  constexpr int MINE = LAST ? KEY / 16 - FROM : Cfg::STEPS;
  {
    u32 entering[MINE][4];
    to_operands<typename Cfg::Element, FROM>(entering, s);
    pin(entering);
    products_begin();
    multiply_rows<FROM>(sum, entering, keys, KEEP || FROM > 0);
    products_commit();
    products_wait<0>(sum);
  }
  if constexpr (!LAST) read_gradient<Cfg, KEEP, FROM + Cfg::STEPS>(sum, s, keys);
}

// dO of the chunk, as operands over its tokens.
template <class Cfg>
DEVICE void load_gradients(u32 (&a)[CHUNK / 16][4], int warp, int lane) {
  const Values<typename Cfg::Element> values(Cfg::SMEM_V_TILE, warp, lane);
#pragma unroll
  for (int t = 0; t < CHUNK / 16; ++t) values.operand(a[t], t * 16);
}

// dS over one chunk; `keep` sees it as it enters.
template <class Cfg, typename Keep>
DEVICE void reverse_chunk(State<typename Cfg::Element>& state, const Buffer<Cfg>& buffer, float scale, const Keep& keep,
                          int warp, int lane) {
  using Element = typename Cfg::Element;
  u32 a[CHUNK / 16][4];
  load_gradients<Cfg>(a, warp, lane);
  float dn[CHUNK / 8][4];  // and dR
  pin(a);
  products_begin();
  multiply_down(dn, a, buffer.p(), false);
  products_commit();
  keep(state);
  products_wait<0>(dn);
  const float down = state.unit.down();
  // P has `scale` in it but where the decay is an operand's.
  if constexpr (Cfg::DECAY == CHANNEL) scale_all(dn, scale * down);
  else if constexpr (Unit<Element>::MOVES) scale_all(dn, down);
  const ByColumns<KEY> keys(buffer.keys());
  if constexpr (Cfg::DECAY == TOKEN) {
    float held[CHUNK / 8][4];  // K^ lacks a factor per token
    read_gradient<Cfg, false>(held, state.s, keys);
    scale_columns(held, Columns(buffer.vector(Cfg::SMEM_DECAY_OUT), lane));
#pragma unroll
    for (int n = 0; n < CHUNK / 8; ++n) {
#pragma unroll
      for (int c = 0; c < 4; ++c) dn[n][c] += held[n][c];
    }
  } else {
    pin(dn);
    read_gradient<Cfg, true>(dn, state.s, keys);
  }
  // Once more: held meanwhile, dO would be registers too many.
  const auto queries = [&] {
    load_gradients<Cfg>(a, warp, lane);
    Barrier{Cfg::SMEM_VALUES_READ}.arrive_alone();  // lanes met in the loads
    scale_queries(a, buffer, scale, down, lane);
    pin(a);
  };
  if constexpr (Cfg::ERASE) {
    u32 high[CHUNK / 16][4], low[CHUNK / 16][4];
    begin_transposed_solve<Element>(dn, high, low, buffer.m());
    queries();
    decay_state(state.s, buffer, lane);
    pin(state.s);
    products_begin();
    multiply_columns(state.s, a, ByRows<KEY>(buffer.queries()));
    products_commit();
    products_wait<1>(dn);
    negate_residual(dn, buffer, lane);
    to_operands<Element>(high, dn);
    __syncwarp();  // every lane has read the buffer's vectors
    pin(high);
    products_begin();
    multiply_columns(state.s, high, ByRows<KEY>(buffer.erased()));
  } else {
    queries();
    decay_state(state.s, buffer, lane);
    __syncwarp();
    pin(state.s);
    products_begin();
    multiply_columns(state.s, a, ByRows<KEY>(buffer.queries()));
  }
  products_commit();
  products_wait<0>(state.s);
}

// Chunks last to first of `length` tokens. `keep` sees dS after each chunk.
template <class Cfg, typename Keep>
DEVICE void reverse_chunks(State<typename Cfg::Element>& state, int length, float scale, const Keep& keep) {
  const int warp = warp_index() - STATE_WARP, lane = lane_index();
  Stage stage;
#pragma unroll 1
  for (int first = first_chunk(length); is_chunk(first, length); first += NEXT_CHUNK) {
    const Buffer<Cfg> buffer(stage);
    buffer.ready().wait(stage.parity);
    Barrier{Cfg::SMEM_VALUES}.wait(STAGES == 2 ? stage.index : stage.parity);  // every other chunk
    const auto kept = [&](State<typename Cfg::Element>& entering) { keep(entering, first / CHUNK); };
    reverse_chunk(state, buffer, scale, kept, warp, lane);
    buffer.empty().arrive_alone();
    stage.advance();
  }
}
