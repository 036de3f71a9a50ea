// Gradients along K, 64 channels to a warpgroup, 16 tokens of them to a warp:
//   dq_i = scale 2^G_i (dO ST)_i + sum_j dP_ij k_j      de_i = -2^G_i (dR ST)_i + sum_j dL_ij k_j
//   dk_j = 2^(G_last - G_j) (N dST)_j + sum_i (dP_ij q_i + b_i dL_ij k_i) + b_j de_j      db_j = k_j . de_j
// The decay between tokens is part of dP and dL. What states give to dG at a token: q dq + e de - k dk of the state's terms.
#pragma once

#include "backward/wgmma/column_sums.cuh"
#include "backward/wgmma/kept_tiles.cuh"
#include "forward/wgmma/blocks.cuh"
#include "forward/wgmma/products.cuh"
#include "forward/wgmma/ring.cuh"
#include "numbers.cuh"

// A warp's part of 64 channels, in accumulators.
using KeySums = float[ROW_BLOCK / 8][4];

// The rows of a tile [CHUNK][KEY], 64 channels of it, that belong to the warp: where they lie, 16 channels at a time.
DEVICE RowCursor<ROW_BLOCK> own_channels(int tile, int group, int block, int lane) {
  return RowCursor<ROW_BLOCK>(tile + group * (CHUNK * ROW_BLOCK * 2), block * 16, lane);
}

// The lane's parts of the sums over the warp's channels of x times a tile's rows, of both rows that the lane has.
template <typename Element>
DEVICE float2 row_products(const KeySums& x, const RowCursor<ROW_BLOCK>& tile) {
  float2 sum = {0.0f, 0.0f};
#pragma unroll
  for (int d = 0; d < ROW_BLOCK / 16; ++d) {
    u32 y[4];
    tile.load(y, d * 16);
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const float(&pair)[4] = x[d * 2 + r / 2];
      const float add = pair[r % 2 * 2] * Element::low(y[r]) + pair[r % 2 * 2 + 1] * Element::high(y[r]);
      if (r % 2 == 0) sum.x += add;
      else sum.y += add;
    }
  }
  return sum;
}

DEVICE void scale_rows(KeySums& x, float2 factor) {
#pragma unroll
  for (int n = 0; n < ROW_BLOCK / 8; ++n) {
    x[n][0] *= factor.x;
    x[n][1] *= factor.x;
    x[n][2] *= factor.y;
    x[n][3] *= factor.y;
  }
}

// A vector's numbers of the warp's rows that the lane has.
DEVICE float2 row_factors(int vector, int block, int lane) {
  const int first = vector + (block * 16 + lane / 4) * 4;
  return {at<float>(first), at<float>(first + 32)};
}

// sum (+)= x y over the depth DEPTH, which runs over the rows of both tiles. Left: [DEPTH][CHUNK]; right: 64 of its columns.
template <int DEPTH>
DEVICE void multiply_by_rows(KeySums& sum, int left, int right, bool keep) {
  const ByRows<CHUNK> x(left);
  const ByRows<ROW_BLOCK> y(right);
#pragma unroll
  for (int s = 0; s < DEPTH / 16; ++s) multiply_turned<1, 1>(sum, x.step(s), y.step(s), keep || s > 0);
}

// What states give to dq and de, up to the factors of their tokens. Products on the two sums take turns: one waits for the one
// before on its own.
template <class Cfg>
DEVICE void read_states(KeySums& q, KeySums& e, int group) {
  const ByRows<ROW_BLOCK> states(Cfg::SMEM_S + group * VALUE_BLOCK);
  products_begin();
#pragma unroll
  for (int s = 0; s < VALUE / 16; ++s) {
    multiply_turned<1, 1>(q, ByRows<CHUNK>(Cfg::SMEM_DO).step(s), states.step(s), s > 0);
    if constexpr (Cfg::ERASE) multiply_turned<1, 1>(e, ByRows<CHUNK>(Cfg::SMEM_DR).step(s), states.step(s), s > 0);
  }
  products_commit();
  if constexpr (Cfg::ERASE) products_wait<0>(q, e);
  else products_wait<0>(q);
}

// What pairs give to them, the keys being those of the group's channels.
template <class Cfg>
DEVICE void read_pairs(KeySums& q, KeySums& e, const Buffer<Cfg>& buffer, int keys) {
  const ByRows<ROW_BLOCK> rows(keys);
  pin(q);
  if constexpr (Cfg::ERASE) pin(e);
  products_begin();
#pragma unroll
  for (int s = 0; s < CHUNK / 16; ++s) {
    multiply_turned<0, 1>(q, ByColumns<CHUNK>(buffer.p()).step(s), rows.step(s), true);
    if constexpr (Cfg::ERASE) multiply_turned<0, 1>(e, ByColumns<CHUNK>(buffer.m()).step(s), rows.step(s), true);
  }
  products_commit();
  if constexpr (Cfg::ERASE) products_wait<0>(q, e);
  else products_wait<0>(q);
}

template <class Cfg>
DEVICE void scale_states(KeySums& q, KeySums& e, const Buffer<Cfg>& buffer, float scale, int block) {
  const int lane = lane_index();
  if constexpr (Cfg::DECAY) {
    scale_rows(q, row_factors(buffer.vector(Cfg::SMEM_QUERY), block, lane));
    if constexpr (Cfg::ERASE) {
      const float2 gamma = row_factors(buffer.vector(Cfg::SMEM_GAMMA), block, lane);
      scale_rows(e, {-exp2(gamma.x), -exp2(gamma.y)});
    }
  } else {
    scale_rows(q, {scale, scale});
    if constexpr (Cfg::ERASE) scale_rows(e, {-1.0f, -1.0f});
  }
}

// Where rows of dq or dk go: as they are, or, where several value heads share a key head, those of one of them in float32 for
// the sum that follows.
template <typename Element>
struct KeyRows {
  Element* rows;
  i64 stride;
  float* head;
  i64 head_stride;

  // 64 channels of the warp's tokens. Neighbouring lanes change numbers, so that each has four channels in a row.
  METHOD void store(const KeySums& x, int exist, int group, int block, int lane) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int token = block * 16 + lane / 4 + half * 8;
      if (head != nullptr) {
        float* const row = head + token * head_stride + group * ROW_BLOCK + lane % 4 * 2;
        if (token >= exist) continue;
#pragma unroll
        for (int n = 0; n < ROW_BLOCK / 8; ++n) {
          *reinterpret_cast<float2*>(row + n * 8) = {x[n][half * 2], x[n][half * 2 + 1]};
        }
        continue;
      }
      const bool odd = lane & 1;
      Element* const row = rows + token * stride + group * ROW_BLOCK + lane % 2 * 8 + lane / 2 % 2 * 4;
#pragma unroll
      for (int n = 0; n < ROW_BLOCK / 8; n += 2) {
        const u32 near = Element::pack(x[n][half * 2], x[n][half * 2 + 1]);
        const u32 far = Element::pack(x[n + 1][half * 2], x[n + 1][half * 2 + 1]);
        const u32 keep = odd ? far : near, got = __shfl_xor_sync(0xffffffffu, odd ? near : far, 1);
        const uint2 four = {odd ? got : keep, odd ? keep : got};
        if (token < exist) *reinterpret_cast<uint2*>(row + n * 8) = four;
      }
    }
  }
};

// What follows once all operands are there. `rows`: what is given to dG of the warp's tokens, `tail` to that of all; `erased`:
// to db. `dq`, `dk`: called for where rows go.
template <class Cfg, class DQ, class DK>
DEVICE void key_gradients(KeySums& q, KeySums& e, float (&rows)[2], float& tail, float2& erased, const Buffer<Cfg>& buffer,
                          const DQ& dq, const DK& dk, int exist, int group, int block) {
  using Element = typename Cfg::Element;
  const int lane = lane_index(), shift = group * (CHUNK * ROW_BLOCK * 2);
  const RowCursor<ROW_BLOCK> keys = own_channels(buffer.keys(), group, block, lane);
  float2 beta = {1.0f, 1.0f};
  if constexpr (Cfg::ERASE) beta = row_factors(buffer.vector(Cfg::SMEM_BETA), block, lane);
  if constexpr (Cfg::DECAY) {
    const float2 queries = row_products<Element>(q, own_channels(buffer.queries(), group, block, lane));
    rows[0] += queries.x;
    rows[1] += queries.y;
    if constexpr (Cfg::ERASE) {
      const float2 erases = row_products<Element>(e, keys);
      rows[0] += erases.x * beta.x;
      rows[1] += erases.y * beta.y;
    }
  }
  read_pairs(q, e, buffer, buffer.keys() + shift);
  dq().store(q, exist, group, block, lane);
  KeySums k;
  products_begin();
  multiply_by_rows<VALUE>(k, Cfg::SMEM_N, Cfg::SMEM_DS + group * VALUE_BLOCK, false);
  products_commit();
  if constexpr (Cfg::ERASE) {
    erased = row_products<Element>(e, keys);
    scale_rows(e, beta);
  }
  products_wait<0>(k);
  if constexpr (Cfg::DECAY) {
    scale_rows(k, row_factors(buffer.vector(Cfg::SMEM_DECAY_OUT), block, lane));
    const float2 ends = row_products<Element>(k, keys);
    rows[0] -= ends.x;
    rows[1] -= ends.y;
    tail += ends.x + ends.y;
  }
  pin(k);
  products_begin();
  multiply_by_rows<CHUNK>(k, buffer.p(), buffer.queries() + shift, true);
  if constexpr (Cfg::ERASE) multiply_by_rows<CHUNK>(k, Cfg::SMEM_GATED, buffer.keys() + shift, true);
  products_commit();
  products_wait<0>(k);
  if constexpr (Cfg::ERASE) {
#pragma unroll
    for (int n = 0; n < ROW_BLOCK / 8; ++n) {
#pragma unroll
      for (int c = 0; c < 4; ++c) k[n][c] += e[n][c];
    }
  }
  dk().store(k, exist, group, block, lane);
}
