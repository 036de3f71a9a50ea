// What a chunk wrote and what its writes were worth, 64 value rows to a warpgroup, S before and dS after the chunk as the
// register operands that they were kept as:
//   N = M (w V - E^ S)      dN = PT dO + K^ dS      dR = MT dN      dv = w dR      dw = v dR
// dO, N and dR go to tiles [VALUE][CHUNK].
#pragma once

#include "backward/wgmma/column_sums.cuh"
#include "backward/wgmma/kept_tiles.cuh"
#include "backward/wgmma/transposed.cuh"
#include "chunk/values.cuh"
#include "forward/wgmma/products.cuh"
#include "forward/wgmma/ring.cuh"
#include "forward/wgmma/state.cuh"
#include "numbers.cuh"

// The warp's own 16 values of a chunk's rows of a tensor.
template <typename Element>
struct OwnValues {
  Element* first;
  i64 stride;
};

// The warp's 16 values of a chunk's tokens, as operands whose rows are values and whose columns are tokens: fetched, and then
// turned. Tokens from `exist` on are zeros.
using ValueWords = u32[CHUNK / 16][4];

template <typename Element>
DEVICE void fetch_values(ValueWords& words, const OwnValues<const Element>& from, int exist, int lane) {
  const Element* row = from.first + lane / 4 * from.stride + lane % 4 * 4;
#pragma unroll
  for (int group = 0; group < CHUNK / 8; ++group) {
    uint2 mine = {0, 0};
    if (group * 8 + lane / 4 < exist) mine = *reinterpret_cast<const uint2*>(row);
    words[group / 2][group % 2 * 2] = mine.x;
    words[group / 2][group % 2 * 2 + 1] = mine.y;
    row += 8 * from.stride;
    asm("" : "+l"(row));  // or the offset of every group would live in registers throughout
  }
}
DEVICE void turn_values(ValueWords& words) {
#pragma unroll
  for (int t = 0; t < CHUNK / 16; ++t) {
#pragma unroll
    for (int r = 0; r < 4; ++r) words[t][r] = transpose(words[t][r]);
  }
}

// Those of n-tile `n`, in accumulator layout.
template <typename Element>
DEVICE void unpack_values(float (&x)[4], const ValueWords& words, int n) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const u32 pair = words[n / 2][n % 2 * 2 + half];
    x[half * 2] = Element::low(pair);
    x[half * 2 + 1] = Element::high(pair);
  }
}

template <class Cfg>
DEVICE Columns write_gates(const Buffer<Cfg>& buffer, int lane) {
  if constexpr (Cfg::TIED) return Columns(buffer.vector(Cfg::SMEM_BETA), lane);
  else return Columns(buffer.vector(Cfg::SMEM_WRITE), lane);
}

// R, in float32, from what S has of the erased keys, up to the factor of `residual`; or w V where nothing is erased.
template <class Cfg>
DEVICE void subtract_kept(float (&r)[CHUNK / 8][4], const ValueWords& v, const Buffer<Cfg>& buffer, int lane) {
#pragma unroll
  for (int n = 0; n < CHUNK / 8; ++n) {
    float z[4];
    unpack_values<typename Cfg::Element>(z, v, n);
    float2 w = {1.0f, 1.0f}, f = {-1.0f, -1.0f};
    if constexpr (Cfg::WRITE == TOKEN) w = write_gates(buffer, lane)[n];
    if constexpr (Cfg::ERASE == TOKEN) f = Columns(buffer.vector(Cfg::SMEM_RESIDUAL), lane)[n];
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const float written = z[c] * (c % 2 ? w.y : w.x);
      r[n][c] = Cfg::ERASE ? r[n][c] * (c % 2 ? f.y : f.x) + written : written;
    }
  }
}

// Rows of values as a tile's.
template <typename Element>
DEVICE void store_value_rows(int tile, int row, const float (&x)[CHUNK / 8][4], int lane) {
  const RowCursor<CHUNK> to(tile, row, lane);
#pragma unroll
  for (int t = 0; t < CHUNK / 16; ++t) store_sums<Element>(to, x[t * 2], x[t * 2 + 1], t * 16);
}

// Begins N = M R of the warp's value rows: R in `n`, as operands in `r`.
template <class Cfg>
DEVICE void begin_solve(float (&n)[CHUNK / 8][4], u32 (&r)[CHUNK / 16][4], const Buffer<Cfg>& buffer) {
  to_operands<typename Cfg::Element>(r, n);
  pin(r);
  products_begin();
  multiply_rows(n, r, ByColumns<CHUNK>(buffer.m()), false);
  products_commit();
}

// The warp's part of dw, one number per token, from dR in `n`, which then is dv.
template <class Cfg>
DEVICE void close_token_write(float (&n)[CHUNK / 8][4], const ValueWords& v, const Buffer<Cfg>& buffer, int row, int lane) {
  float sums[CHUNK / 8][2];
#pragma unroll
  for (int g = 0; g < CHUNK / 8; ++g) {
    float x[4];
    unpack_values<typename Cfg::Element>(x, v, g);
    sums[g][0] = x[0] * n[g][0] + x[2] * n[g][2];
    sums[g][1] = x[1] * n[g][1] + x[3] * n[g][3];
  }
  at<float2>(Cfg::SMEM_VALUE_ROWS + row / 16 * (CHUNK * 4) + lane * 8) = sum_columns(sums, lane);
  scale_columns(n, write_gates(buffer, lane));
}

// R of the warp's 16 value rows. What follows is called for where it is wanted: the words of S, and the values of v.
template <class Cfg, class S, class V>
DEVICE void value_residual(float (&n)[CHUNK / 8][4], const Buffer<Cfg>& buffer, const S& s_words, const V& v_values, int exist) {
  using Element = typename Cfg::Element;
  const int lane = lane_index();
  if constexpr (Cfg::ERASE) {
    u32 held[KEY / 16][4];
    fetch_kept(held, s_words(), lane);
    pin(held);
    products_begin();
    multiply_rows(n, held, ByColumns<KEY>(buffer.erased()), false);
    products_commit();
    products_wait<0>(n);
  }
  ValueWords v;
  fetch_values<Element>(v, v_values(), exist, lane);
  turn_values(v);
  subtract_kept(n, v, buffer, lane);
}

// What follows from R, in `n`, of the warp's value rows, `row` and on. Likewise of dS, v, dO and dv.
template <class Cfg, class DS, class V, class Grad, class Out>
DEVICE void value_gradients(float (&n)[CHUNK / 8][4], const Buffer<Cfg>& buffer, const DS& ds_words, const V& v_values,
                            const Grad& grad_values, const Out& dv_values, int row, int exist) {
  using Element = typename Cfg::Element;
  const int lane = lane_index();
  ValueWords grad;
  fetch_values(grad, grad_values(), exist, lane);
  if constexpr (Cfg::ERASE) {
    u32 r[CHUNK / 16][4];
    begin_solve(n, r, buffer);
    products_wait<0>(n);
  }
  store_value_rows<Element>(Cfg::SMEM_N, row, n, lane);
  turn_values(grad);
  const RowCursor<CHUNK> to(Cfg::SMEM_DO, row, lane);
#pragma unroll
  for (int t = 0; t < CHUNK / 16; ++t) to.store(grad[t], t * 16);

  {
    u32 held[KEY / 16][4];
    fetch_kept(held, ds_words(), lane);
    pin(held);
    products_begin();
    multiply_rows(n, held, ByColumns<KEY>(buffer.keys()), false);
    products_commit();
    products_wait<0>(n);
  }
  if constexpr (Cfg::DECAY) scale_columns(n, Columns(buffer.vector(Cfg::SMEM_DECAY_OUT), lane));
  pin(n);
  pin(grad);
  products_begin();
  multiply_down(n, grad, buffer.p(), true);
  products_commit();
  products_wait<0>(n);
  if constexpr (Cfg::ERASE) {
    u32 high[CHUNK / 16][4], low[CHUNK / 16][4];
    begin_transposed_solve<Element>(n, high, low, buffer.m());
    products_wait<0>(n);
    store_value_rows<Element>(Cfg::SMEM_DR, row, n, lane);
  }

  if constexpr (Cfg::WRITE == TOKEN) {
    ValueWords v;
    fetch_values(v, v_values(), exist, lane);
    turn_values(v);
    close_token_write(n, v, buffer, row, lane);
  }
  const OwnValues<Element> to_rows = dv_values();
  store_outputs(n, 1.0f, to_rows.first, to_rows.stride, exist);
}
