// Value gradients where every channel decays at its own rate, as `value_gradients.cuh` has them, but that P lacks the scale and
// scaled keys do not lack their decay. What comes from memory is fetched before the scores are made, which take longer. S and
// dS go to tiles [VALUE][KEY] as well.
#pragma once

#include "backward/wgmma/value_gradients.cuh"
#include "numbers.cuh"

// For what a rule does not have.
struct NoValues {};

// Values that are gates, times others.
template <typename Element>
DEVICE void gate_values(float (&x)[CHUNK / 8][4], const ValueWords& gates) {
#pragma unroll
  for (int n = 0; n < CHUNK / 8; ++n) {
    float by[4];
    unpack_values<Element>(by, gates, n);
#pragma unroll
    for (int c = 0; c < 4; ++c) x[n][c] *= by[c];
  }
}

// A warp's 16 value rows.
template <class Cfg>
struct ChannelValues {
  using Element = typename Cfg::Element;
  ValueWords v, w, grad;
  u32 s[KEY / 16][4];

  template <class W>
  METHOD void fetch(const uint4* s_words, const OwnValues<const Element>& v_values, const W& w_values,
                    const OwnValues<const Element>& grad_values, int exist, int lane) {
    fetch_kept(s, s_words, lane);
    fetch_values(v, v_values, exist, lane);
    if constexpr (Cfg::WRITE == CHANNEL) fetch_values(w, w_values, exist, lane);
    fetch_values(grad, grad_values, exist, lane);
  }

  // R.
  METHOD void residual(float (&n)[CHUNK / 8][4], const Buffer<Cfg>& buffer, int row, int lane) {
    store_kept(Cfg::SMEM_S, row, s, lane);
    turn_values(v);
    if constexpr (Cfg::WRITE == CHANNEL) turn_values(w);
    if constexpr (Cfg::ERASE) {
      pin(s);
      products_begin();
      multiply_rows(n, s, ByColumns<KEY>(buffer.erased()), false);
      products_commit();
      products_wait<0>(n);
    }
    float2 by = {1.0f, 1.0f}, less = {1.0f, 1.0f};
#pragma unroll
    for (int t = 0; t < CHUNK / 8; ++t) {
      float z[4];
      unpack_values<Element>(z, v, t);
      if constexpr (Cfg::WRITE == TOKEN) by = write_gates(buffer, lane)[t];
      if constexpr (Cfg::ERASE == TOKEN) less = Columns(buffer.vector(Cfg::SMEM_BETA), lane)[t];
      float gate[4];
      if constexpr (Cfg::WRITE == CHANNEL) unpack_values<Element>(gate, w, t);
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        float written = z[c] * (c % 2 ? by.y : by.x);
        if constexpr (Cfg::WRITE == CHANNEL) written *= gate[c];
        n[t][c] = Cfg::ERASE ? written - n[t][c] * (c % 2 ? less.y : less.x) : written;
      }
    }
  }

  // What follows from R, in `n`.
  template <class DV, class DW>
  METHOD void gradients(float (&n)[CHUNK / 8][4], const Buffer<Cfg>& buffer, const uint4* ds_words, const DV& dv_values,
                        const DW& dw_values, float scale, int row, int exist, int lane) {
    u32 ds[KEY / 16][4];
    fetch_kept(ds, ds_words, lane);
    if constexpr (Cfg::ERASE) {
      u32 r[CHUNK / 16][4];
      begin_solve(n, r, buffer);
      turn_values(grad);
      products_wait<0>(n);
    } else {
      turn_values(grad);
    }
    store_value_rows<Element>(Cfg::SMEM_N, row, n, lane);
    pin(grad);
    products_begin();
    multiply_down(n, grad, buffer.p(), false);
    products_commit();
    const RowCursor<CHUNK> to(Cfg::SMEM_DO, row, lane);
#pragma unroll
    for (int t = 0; t < CHUNK / 16; ++t) to.store(grad[t], t * 16);
    store_kept(Cfg::SMEM_DS, row, ds, lane);
    products_wait<0>(n);
    scale_all(n, scale);
    pin(n);
    pin(ds);
    products_begin();
    multiply_rows(n, ds, ByColumns<KEY>(Cfg::SMEM_SCALED_K), true);
    products_commit();
    products_wait<0>(n);
    if constexpr (Cfg::ERASE) {
      u32 high[CHUNK / 16][4], low[CHUNK / 16][4];
      begin_transposed_solve<Element>(n, high, low, buffer.m());
      products_wait<0>(n);
      store_value_rows<Element>(Cfg::SMEM_DR, row, n, lane);
    }
    if constexpr (Cfg::WRITE == CHANNEL) {
      float dw[CHUNK / 8][4];
#pragma unroll
      for (int t = 0; t < CHUNK / 8; ++t) {
        unpack_values<Element>(dw[t], v, t);
#pragma unroll
        for (int c = 0; c < 4; ++c) dw[t][c] *= n[t][c];
      }
      const OwnValues<Element> to_rows = dw_values();
      store_outputs(dw, 1.0f, to_rows.first, to_rows.stride, exist);
      gate_values<Element>(n, w);
    } else if constexpr (Cfg::WRITE == TOKEN) {
      close_token_write(n, v, buffer, row, lane);
    }
    const OwnValues<Element> to_rows = dv_values();
    store_outputs(n, 1.0f, to_rows.first, to_rows.stride, exist);
  }
};
