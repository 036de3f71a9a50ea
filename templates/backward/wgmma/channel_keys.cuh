// Gradients along K where every channel decays at its own rate: 64 channels to a warpgroup, 16 to a warp, as rows; columns are
// the chunk's tokens. With D(j, i) a channel's decay after token j through token i, and end the chunk's:
//   dq_i = scale D(start, i) (S dOT)_i + sum_j dP_ij k_j D(j, i)      de_i = -D(start, i) (S dRT)_i + sum_j dL_ij k_j D(j, i)
//   kap_j = D(j, end) (dS NT)_j + sum_i (dP_ij q_i + dL_ij e_i) D(j, i)
//   dk = kap + b de      db = k de      dg_t = sum over i >= t of dG_i, dG = q dq + e de - k kap, and what the chunk's end adds
//
// Sums carry what comes from before a token's block of 16 as it is at that block's start, kap what comes from after it as it is
// at the block's end. Blocks are taken in order: sums of all later tokens are scaled by a block's decay, a number to a channel,
// before what the block gives is added. A block's own pairs come last.
#pragma once

#include "backward/wgmma/channel_levels.cuh"
#include "backward/wgmma/column_sums.cuh"
#include "backward/wgmma/kept_tiles.cuh"
#include "forward/wgmma/products.cuh"
#include "forward/wgmma/ring.cuh"
#include "numbers.cuh"
#include "ptx/sums.cuh"

// A warp's channels by all tokens, in accumulators: [n-tile][2 c + token].
using TokenSums = float[CHUNK / 8][4];

// N n-tiles of such sums from FROM on.
template <int N>
using SomeSums = float[N][4];
template <int N>
DEVICE SomeSums<N>& from_column(TokenSums& x, int from) {
  return *reinterpret_cast<SomeSums<N>*>(&x[from]);
}

// e = b k of a block, and the gate that makes it.
template <class Cfg, int GRAIN = Cfg::ERASE>
struct BlockErases {
  METHOD BlockErases(const Buffer<Cfg>&, int, int, int) {}
  METHOD float2 gate(int, int) const { return {0.0f, 0.0f}; }
};
template <class Cfg>
struct BlockErases<Cfg, TOKEN> {
  float2 gates[2];
  METHOD BlockErases(const Buffer<Cfg>& buffer, int first, int, int lane) {
#pragma unroll
    for (int t = 0; t < 2; ++t) gates[t] = at<float2>(buffer.vector(Cfg::SMEM_BETA) + (first + t * 8 + lane % 4 * 2) * 4);
  }
  METHOD float2 gate(int, int t) const { return gates[t]; }
};
template <class Cfg>
struct BlockErases<Cfg, CHANNEL> {
  TokenBlock<typename Cfg::Erase> gates;
  METHOD BlockErases(const Buffer<Cfg>& buffer, int first, int channel, int lane) {
    gates.load(buffer.gates(), first, channel, lane);
  }
  METHOD float2 gate(int c, int t) const { return gates.numbers(c, t); }
};

// What the warp has in a block of 16 tokens.
template <class Cfg>
struct ChannelBlock {
  using Element = typename Cfg::Element;
  enum : int { ERASES = Cfg::ERASE != ABSENT };
  TokenBlock<Element> q, k;
  BlockErases<Cfg> erases;

  METHOD ChannelBlock(const Buffer<Cfg>& buffer, int first, int channel, int lane) : erases(buffer, first, channel, lane) {
    q.load(buffer.queries(), first, channel, lane);
    k.load(buffer.keys(), first, channel, lane);
  }
  // The block's decays.
  static METHOD BlockDecays decays(const Buffer<Cfg>& buffer, int first, int channel, int lane) {
    TokenBlock<typename Cfg::Decay> logs;
    logs.load(buffer.decays(), first, channel, lane);
    return BlockDecays(logs, lane);
  }
  METHOD u32 erased(int c, int t) const {
    const float2 b = erases.gate(c, t), x = k.numbers(c, t);
    return ERASES ? Element::pack(b.x * x.x, b.y * x.y) : 0;
  }
};

// A block's operands, scaled from its start on or to its end: rows are channels, the depth is tokens.
template <class Cfg>
struct ScaledBlock {
  using Element = typename Cfg::Element;
  u32 q[4], e[4], k[4];
  float decay[2];

  METHOD void make(const ChannelBlock<Cfg>& block, const BlockDecays& decays) {
#pragma unroll
    for (int t = 0; t < 2; ++t) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const float2 begun = decays.begun(c, t);
        q[t * 2 + c] = scaled_pair<Element>(block.q.pair(c, t), begun);
        if constexpr (Cfg::ERASE) e[t * 2 + c] = scaled_pair<Element>(block.erased(c, t), begun);
        k[t * 2 + c] = scaled_pair<Element>(block.k.pair(c, t), decays.ended(c, t));
      }
    }
    decay[0] = decays.all(0);
    decay[1] = decays.all(1);
  }
};

template <class Cfg>
struct ChannelSums {
  using Element = typename Cfg::Element;
  enum : int { ERASES = Cfg::ERASE != ABSENT };
  TokenSums q, e, k;

  // Begins what states give. Products on different sums take turns: one waits for the one before on its own.
  METHOD void begin_states(int group) {
    const ByRows<ROW_BLOCK> s(Cfg::SMEM_S + group * VALUE_BLOCK), ds(Cfg::SMEM_DS + group * VALUE_BLOCK);
    products_begin();
#pragma unroll
    for (int i = 0; i < VALUE / 16; ++i) {
      multiply_turned<1, 1>(q, s.step(i), ByRows<CHUNK>(Cfg::SMEM_DO).step(i), i > 0);
      if constexpr (Cfg::ERASE) multiply_turned<1, 1>(e, s.step(i), ByRows<CHUNK>(Cfg::SMEM_DR).step(i), i > 0);
      multiply_turned<1, 1>(k, ds.step(i), ByRows<CHUNK>(Cfg::SMEM_N).step(i), i > 0);
    }
  }
  METHOD void close_states(float scale) {
    wait();
#pragma unroll
    for (int n = 0; n < CHUNK / 8; ++n) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        q[n][c] *= scale;
        if constexpr (Cfg::ERASE) e[n][c] = -e[n][c];
      }
    }
  }

  METHOD void wait() {
    if constexpr (Cfg::ERASE) products_wait<0>(q, e, k);
    else products_wait<0>(q, k);
  }

  // Block BLOCK with tokens after it, and the block as far from the end with those before it.
  template <int BLOCK>
  METHOD void cross(const ScaledBlock<Cfg> (&blocks)[BLOCKS]) {
    constexpr int TILES = (BLOCKS - 1 - BLOCK) * 2, FROM = CHUNK / 8 - TILES, OTHER = BLOCKS - 1 - BLOCK;
    const ScaledBlock<Cfg>&mine = blocks[BLOCK], &other = blocks[OTHER];
#pragma unroll
    for (int n = 0; n < TILES; ++n) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        q[FROM + n][c] *= mine.decay[c / 2];
        if constexpr (Cfg::ERASE) e[FROM + n][c] *= mine.decay[c / 2];
        k[n][c] *= other.decay[c / 2];
      }
    }
    pin(q);
    if constexpr (Cfg::ERASE) pin(e);
    pin(k);
    constexpr int ROWS_AFTER = (BLOCK + 1) * 16 * Tile<CHUNK, 2>::ROW;
    products_begin();
    multiply<0>(from_column<TILES>(q, FROM), mine.k, ByColumns<CHUNK>(Cfg::SMEM_DP + ROWS_AFTER).step(BLOCK), true);
    multiply<1>(from_column<TILES>(k, 0), other.q, ByRows<CHUNK>(Cfg::SMEM_DP).step(OTHER), true);
    if constexpr (Cfg::ERASE) {
      multiply<0>(from_column<TILES>(e, FROM), mine.k, ByColumns<CHUNK>(Cfg::SMEM_DL + ROWS_AFTER).step(BLOCK), true);
      multiply<1>(from_column<TILES>(k, 0), other.e, ByRows<CHUNK>(Cfg::SMEM_DL).step(OTHER), true);
    }
    products_commit();
    wait();
  }

  // The lane's part of what a block's keys give to the state after the chunk; `passed`: the decay of the blocks after it.
  METHOD void add_tail(float (&tail)[2], float (&passed)[2], const ScaledBlock<Cfg>& own, int block) const {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      float given = 0.0f;
#pragma unroll
      for (int t = 0; t < 2; ++t) {
        const float(&x)[4] = k[block * 2 + t];
        given += Element::low(own.k[t * 2 + c]) * x[c * 2] + Element::high(own.k[t * 2 + c]) * x[c * 2 + 1];
      }
      tail[c] += given * passed[c];
      passed[c] *= own.decay[c];
    }
  }

  // dG of a block as far as it is of other tokens. Its operands are those that the products took: both sides of a pair are
  // made of the same numbers, and where they should cancel they do.
  METHOD void open_decays(SumsOfBlock& dg, const ScaledBlock<Cfg>& own, int block) const {
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      const int n = block * 2 + t;
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        dg[t][c * 2] = dg[t][c * 2 + 1] = 0.0f;
        add_rounded<Element>(dg[t], c, own.q[t * 2 + c], q[n]);
        if constexpr (Cfg::ERASE) add_rounded<Element>(dg[t], c, own.e[t * 2 + c], e[n]);
        subtract_rounded<Element>(dg[t], c, own.k[t * 2 + c], k[n]);
      }
    }
  }
};

// Sum over values of S dS, of the lane's two channels; every lane of a quad has it.
template <class Cfg>
DEVICE void channel_overlap(float (&sum)[2], int group, int channel, int lane) {
  using Element = typename Cfg::Element;
  float near[4] = {}, far[4] = {};
  const RowCursor<ROW_BLOCK> s(Cfg::SMEM_S + group * VALUE_BLOCK, 0, lane), ds(Cfg::SMEM_DS + group * VALUE_BLOCK, 0, lane);
#pragma unroll 2
  for (int i = 0; i < VALUE; i += 16) {
    u32 x[4], y[4];
    load_matrices_transposed(x, s.place(channel % ROW_BLOCK, i));
    load_matrices_transposed(y, ds.place(channel % ROW_BLOCK, i));
    const u32 left[4] = {x[0], x[2], x[1], x[3]};
    Element::mma(near, left, y[0], y[1]);
    Element::mma(far, left, y[2], y[3]);
  }
  const int apart = lane / 4 - lane % 4 * 2;
  sum[0] = sum_quad(apart == 0 ? near[0] : apart == 1 ? near[1] : 0.0f);
  sum[1] = sum_quad(apart == 0 ? far[2] : apart == 1 ? far[3] : 0.0f);
}

// Rows of one of several value heads that share a key head, in float32 for the sum that follows; or none.
struct HeadRows {
  float* rows;
  i64 stride;
  int exist;

  METHOD void store(const SumsOfBlock& x, int first, int channel, int lane) const {
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      const int token = first + p / 2 * 8 + lane % 4 * 2 + p % 2;
      if (token >= exist) continue;
      float* const row = rows + token * stride + channel + lane / 4;
      row[0] = x[p / 2][p % 2];
      row[8] = x[p / 2][2 + p % 2];
    }
  }
};

// dg of a block: sums over its tokens from each on, and `after` all of them, which ends with the block's as well.
DEVICE void sum_decays(SumsOfBlock& dg, float (&after)[2], int lane) {
#pragma unroll
  for (int t = 1; t >= 0; --t) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const float pair = dg[t][c * 2] + dg[t][c * 2 + 1];
      float later = pair;
#pragma unroll
      for (int step = 1; step < 4; step *= 2) {
        const float other = __shfl_down_sync(0xffffffffu, later, step, 4);
        if (lane % 4 + step < 4) later += other;
      }
      const float next = later - pair + after[c];
      after[c] += __shfl_sync(0xffffffffu, later, 0, 4);
      dg[t][c * 2 + 1] += next;
      dg[t][c * 2] += dg[t][c * 2 + 1];
    }
  }
}

// A block once all other tokens are in its sums: its own pairs, and the gradients' way out.
template <class Cfg, class DQ, class DK>
DEVICE void finish_block(const ChannelSums<Cfg>& sums, float (&after)[2], const Buffer<Cfg>& buffer, const DQ& to_dq,
                         const DK& to_dk, int block, int channel, int lane) {
  using Element = typename Cfg::Element;
  const int first = block * 16;
  const ChannelBlock<Cfg> own(buffer, first, channel, lane);
  const BlockDecays decays = ChannelBlock<Cfg>::decays(buffer, first, channel, lane);
  SumsOfBlock q, e = {}, k, dg;
  {
    ScaledBlock<Cfg> scaled;
    scaled.make(own, decays);
    sums.open_decays(dg, scaled, block);
  }
  BlockPairs<Cfg> pairs{decays};
  pairs.dp.load(Cfg::SMEM_DP, first, lane);
  if constexpr (Cfg::ERASE) pairs.dl.load(Cfg::SMEM_DL, first, lane);
#pragma unroll
  for (int t = 0; t < 2; ++t) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const float2 begun = decays.begun(c, t), ended = decays.ended(c, t);
      q[t][c * 2] = sums.q[block * 2 + t][c * 2] * begun.x;
      q[t][c * 2 + 1] = sums.q[block * 2 + t][c * 2 + 1] * begun.y;
      k[t][c * 2] = sums.k[block * 2 + t][c * 2] * ended.x;
      k[t][c * 2 + 1] = sums.k[block * 2 + t][c * 2 + 1] * ended.y;
      pairs.q[c][t] = own.q.pair(c, t);
      pairs.k[c][t] = own.k.pair(c, t);
      pairs.e[c][t] = own.erased(c, t);
      if constexpr (Cfg::ERASE) {
        e[t][c * 2] = sums.e[block * 2 + t][c * 2] * begun.x;
        e[t][c * 2 + 1] = sums.e[block * 2 + t][c * 2 + 1] * begun.y;
      }
    }
  }
  pairs.add_all(q, e, k, dg, lane);
  SumsOfBlock db;
  float erased[2][2] = {};
#pragma unroll
  for (int t = 0; t < 2; ++t) {
    const float2 same = at<float2>(Cfg::SMEM_DIAGONAL + (first + t * 8 + lane % 4 * 2) * 4);
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const float2 query = own.q.numbers(c, t), key = own.k.numbers(c, t), gate = own.erases.gate(c, t);
      q[t][c * 2] += same.x * key.x;
      q[t][c * 2 + 1] += same.y * key.y;
      k[t][c * 2] += same.x * query.x + gate.x * e[t][c * 2];
      k[t][c * 2 + 1] += same.y * query.y + gate.y * e[t][c * 2 + 1];
      db[t][c * 2] = key.x * e[t][c * 2];
      db[t][c * 2 + 1] = key.y * e[t][c * 2 + 1];
      erased[t][0] += db[t][c * 2];
      erased[t][1] += db[t][c * 2 + 1];
    }
  }
  sum_decays(dg, after, lane);
  // Over what the warp has read of the block, as one or, in float32, each lane its own numbers.
  BlockStore<typename Cfg::Decay>::store(buffer.decays(), first, channel, dg, lane);
  if constexpr (Cfg::ERASE == CHANNEL) BlockStore<typename Cfg::Erase>::store(buffer.gates(), first, channel, db, lane);
  if constexpr (Cfg::ERASE == TOKEN) {
    const float sum = sum_block_columns(erased, lane);
    const int rows = Cfg::SMEM_ERASE_ROWS + channel / 16 * (CHUNK * 4);
    if ((lane & 4) == 0) at<float>(rows + (first + block_column(lane)) * 4) = sum;
  }
  const HeadRows dq_head = to_dq();
  if (dq_head.rows != nullptr) {
    dq_head.store(q, first, channel, lane);
    to_dk().store(k, first, channel, lane);
  } else {
    BlockStore<Element>::store(buffer.queries(), first, channel, q, lane);
    BlockStore<Element>::store(buffer.keys(), first, channel, k, lane);
  }
}

// What follows once dP and dL are there. `to_dq`, `to_dk`: called for where rows of grouped heads go.
template <class Cfg, class DQ, class DK>
DEVICE void channel_gradients(ChannelSums<Cfg>& sums, const Buffer<Cfg>& buffer,
                              const DQ& to_dq, const DK& to_dk, int group, int channel) {
  const int lane = lane_index();
  float after[2];
  {
    ScaledBlock<Cfg> blocks[BLOCKS];
    float tail[2] = {}, passed[2] = {1.0f, 1.0f};
#pragma unroll
    for (int b = BLOCKS - 1; b >= 0; --b) {
      const int first = b * 16;
      blocks[b].make({buffer, first, channel, lane}, ChannelBlock<Cfg>::decays(buffer, first, channel, lane));
      sums.add_tail(tail, passed, blocks[b], b);
    }
    channel_overlap<Cfg>(after, group, channel, lane);
#pragma unroll
    for (int c = 0; c < 2; ++c) after[c] = after[c] * passed[c] + sum_quad(tail[c]);
    sums.template cross<0>(blocks);
    sums.template cross<1>(blocks);
    sums.template cross<2>(blocks);
  }
#pragma unroll
  for (int b = BLOCKS - 1; b >= 0; --b) finish_block(sums, after, buffer, to_dq, to_dk, b, channel, lane);
}
