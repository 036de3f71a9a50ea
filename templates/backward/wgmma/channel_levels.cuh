// Pairs of tokens of one block of 16 where every channel decays at its own rate, channels as rows and tokens as columns.
//
// Two tokens meet in the smallest group of 2, 4, 8 or 16 that holds both, and are split at its middle: the later is scaled by
// the decays since then, the earlier by those until then. All pairs that meet at a level are products of two tiles of eight
// tokens, in which triangles are masked.
//
// To the decay's gradient a pair adds at its later token what it takes off at its earlier one, and the sum from a token on
// must be left with those that straddle it: both sides take the same rounded operands, so that others cancel.
#pragma once

#include "backward/wgmma/channel_tiles.cuh"
#include "forward/wgmma/exponents.cuh"
#include "numbers.cuh"
#include "tile/tile.cuh"

// A block's decays: factors of the lane's tokens, products of single tokens' decays.
struct BlockDecays {
  float even[2][2], odd[2][2], both[2][2];  // of the lane's pairs
  // Of the pairs before and after the lane's, in its four tokens and in its eight.
  float before4[2][2], after4[2][2], before8[2][2], after8[2][2];
  float whole[2][2];  // of eight tokens

  template <typename T>
  METHOD BlockDecays(const TokenBlock<T>& logs, int lane) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
#pragma unroll
      for (int t = 0; t < 2; ++t) {
        const float2 log = logs.numbers(c, t);
        even[c][t] = decay_of(log.x);
        odd[c][t] = decay_of(log.y);
        both[c][t] = even[c][t] * odd[c][t];
        const float beside = __shfl_xor_sync(0xffffffffu, both[c][t], 1), four = both[c][t] * beside;
        const float others = __shfl_xor_sync(0xffffffffu, four, 2);
        before4[c][t] = lane & 1 ? beside : 1.0f;
        after4[c][t] = lane & 1 ? 1.0f : beside;
        before8[c][t] = before4[c][t] * (lane & 2 ? others : 1.0f);
        after8[c][t] = after4[c][t] * (lane & 2 ? 1.0f : others);
        whole[c][t] = four * others;
      }
    }
  }

  // Through each of the lane's two tokens since the middle of groups of 2 SIZE; where they are the later ones.
  template <int SIZE>
  METHOD float2 since(int c, int t) const {
    if constexpr (SIZE == 1) return {1.0f, odd[c][t]};
    else if constexpr (SIZE == 2) return {even[c][t], both[c][t]};
    else if constexpr (SIZE == 4) return {before4[c][t] * even[c][t], before4[c][t] * both[c][t]};
    else return {before8[c][t] * even[c][t], before8[c][t] * both[c][t]};
  }
  // After each until then, where they are the earlier ones.
  template <int SIZE>
  METHOD float2 until(int c, int t) const {
    if constexpr (SIZE == 1) return {1.0f, 1.0f};
    else if constexpr (SIZE == 2) return {odd[c][t], 1.0f};
    else if constexpr (SIZE == 4) return {after4[c][t] * odd[c][t], after4[c][t]};
    else return {after8[c][t] * odd[c][t], after8[c][t]};
  }
  // Since the block's start, and until its end.
  METHOD float2 begun(int c, int t) const {
    const float2 x = since<8>(c, t);
    return t == 0 ? x : float2{x.x * whole[c][0], x.y * whole[c][0]};
  }
  METHOD float2 ended(int c, int t) const {
    const float2 x = until<8>(c, t);
    return t == 1 ? x : float2{x.x * whole[c][1], x.y * whole[c][1]};
  }
  METHOD float all(int c) const { return whole[c][0] * whole[c][1]; }
};

// Sums of a block, [n-tile][2 c + token].
using SumsOfBlock = float[2][4];

// Scaled operands: [t][c].
template <typename Element>
DEVICE u32 scaled_pair(u32 pair, float2 by) {
  return Pairs<Element>::times(pair, Element::pack(by.x, by.y));
}

// dg += x y, or less it, over a pair of tokens.
template <typename Element>
DEVICE void add_rounded(float (&dg)[4], int c, u32 x, const float (&y)[4]) {
  dg[c * 2] += Element::low(x) * y[c * 2];
  dg[c * 2 + 1] += Element::high(x) * y[c * 2 + 1];
}
template <typename Element>
DEVICE void subtract_rounded(float (&dg)[4], int c, u32 x, const float (&y)[4]) {
  dg[c * 2] -= Element::low(x) * y[c * 2];
  dg[c * 2 + 1] -= Element::high(x) * y[c * 2 + 1];
}

// A block of dP or dL: as right operands whose depth is the earlier tokens, and the later ones.
struct PairBlock {
  u32 earlier[4], later[4];

  METHOD void load(int tile, int first, int lane) {
    const RowCursor<CHUNK> from(tile, first, lane);
    from.load(earlier, first);
    from.load_transposed(later, first);
  }
};

template <class Cfg>
struct BlockPairs {
  using Element = typename Cfg::Element;
  enum : int { ERASES = Cfg::ERASE != ABSENT };
  const BlockDecays& decays;
  u32 q[2][2], e[2][2], k[2][2];  // [c][t]
  PairBlock dp, dl;

  // A level: tokens of tile `t` with those of tile `s`, which is the one before or the same.
  template <int SIZE>
  METHOD void add(SumsOfBlock& q_sums, SumsOfBlock& e_sums, SumsOfBlock& k_sums, float (&dg)[2][4], int s, int t, int lane) const {
    u32 keys[2], begun[4] = {};
    float2 since[2];
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      since[c] = decays.since<SIZE>(c, t);
      keys[c] = SIZE == 1 ? k[c][s] : scaled_pair<Element>(k[c][s], decays.until<SIZE>(c, s));
      begun[c] = scaled_pair<Element>(q[c][t], since[c]);
      if constexpr (ERASES) begun[c + 2] = scaled_pair<Element>(e[c][t], since[c]);
    }
    // Where a pair meets is the highest bit in which its tokens differ.
    const int near = lane / 4 ^ lane % 4 * 2, far = near ^ 1;
    const u32 mask = SIZE == 8 ? ~0u : (near / SIZE == 1 ? 0xffffu : 0) | (far / SIZE == 1 ? 0xffff0000u : 0);
    const int which = SIZE == 8 ? 1 : t * 3;
    float part[4];
    Pairs<Element>::begin(part, keys, dp.earlier[which] & mask);
    add_later<SIZE>(q_sums[t], dg[t], since, begun[0], begun[1], part);
    if constexpr (ERASES) {
      Pairs<Element>::begin(part, keys, dl.earlier[which] & mask);
      add_later<SIZE>(e_sums[t], dg[t], since, begun[2], begun[3], part);
      Pairs<Element>::begin(part, begun, dp.later[which] & mask, dl.later[which] & mask);
    } else {
      const u32 queries[2] = {begun[0], begun[1]};
      Pairs<Element>::begin(part, queries, dp.later[which] & mask);
    }
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      if (SIZE == 1) {
        k_sums[s][c * 2] += part[c * 2];
        continue;
      }
      const float2 until = decays.until<SIZE>(c, s);
      k_sums[s][c * 2] += part[c * 2] * until.x;
      k_sums[s][c * 2 + 1] += part[c * 2 + 1] * until.y;
      subtract_rounded<Element>(dg[s], c, keys[c], part);
    }
  }

  // What later tokens take, dq or de. Of neighbours the earlier one loses what the later one has, in the lane.
  template <int SIZE>
  static METHOD void add_later(float (&sums)[4], float (&dg)[4], const float2 (&since)[2], u32 begun0, u32 begun1,
                               const float (&part)[4]) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const u32 begun = c == 0 ? begun0 : begun1;
      sums[c * 2 + 1] += part[c * 2 + 1] * since[c].y;
      if (SIZE == 1) {
        const float given = Element::high(begun) * part[c * 2 + 1];
        dg[c * 2 + 1] += given;
        dg[c * 2] -= given;
        continue;
      }
      sums[c * 2] += part[c * 2] * since[c].x;
      add_rounded<Element>(dg, c, begun, part);
    }
  }

  METHOD void add_all(SumsOfBlock& q_sums, SumsOfBlock& e_sums, SumsOfBlock& k_sums, float (&dg)[2][4], int lane) const {
    add<8>(q_sums, e_sums, k_sums, dg, 0, 1, lane);
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      add<4>(q_sums, e_sums, k_sums, dg, t, t, lane);
      add<2>(q_sums, e_sums, k_sums, dg, t, t, lane);
      add<1>(q_sums, e_sums, k_sums, dg, t, t, lane);
    }
  }
};
