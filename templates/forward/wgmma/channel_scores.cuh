// Everything of a chunk that no state enters, where every channel decays at its own rate, up to the inverse. With D(j, i)
// a channel's decay after token j through token i:
//   L_ij = row_i * sum_d e_id k_jd D_d(j, i)   i > j     P_ij = sum_d q_id k_jd D_d(j, i)   i >= j
//   Q^_i = q_i D(start, i)     E^_i = e_i D(start, i)     K^_j = k_j D(j, end)
//
// D(j, i) is split at a token between the two: the later is scaled by the decays since then, the earlier by those until
// then, and a product of matrices serves all pairs that are split alike. In a block of 16 tokens, two meet in the smallest
// group of 2, 4, 8 or 16 that holds both, and are split at its middle. Of two blocks, they are split at the later one's
// start, and keys are scaled by the decays of the blocks between as well.
//
// A warp serves the block of 16 tokens of its index, 16 channels at a time, as fragments. Keys that are scaled to their
// block's end, and the decays of whole blocks, pass between warps.
#pragma once

#include "forward/wgmma/exponents.cuh"
#include "forward/wgmma/products.cuh"
#include "forward/wgmma/solve_rows.cuh"
#include "numbers.cuh"

DEVICE float4 times(float4 x, float4 y) { return {x.x * y.x, x.y * y.y, x.z * y.z, x.w * y.w}; }

// A block over 16 channels, as operands: queries as a left one, keys and what is erased as right ones.
//
//            channels 0 ..  8 ..             0 ..  8 ..
//   rows 0 ..    q[0]  q[2]                  k[0]  k[1]
//        8 ..    q[1]  q[3]                  k[2]  k[3]
struct Operands {
  u32 q[4], k[4], e[4];
};

// A lane's place in such a right operand, its rows in the order of fragments.
template <int COLS>
DEVICE RowCursor<COLS> right_rows(int tile, int first, int lane) {
  return RowCursor<COLS>(tile, first + token_of(lane / 16 * 8 + lane % 8) - lane % 16, lane % 16 + lane / 8 % 2 * 16);
}

// Factors of a block's operands: of both halves of the rows, of both of the channels.
template <typename Element>
struct Factors {
  u32 by[2][2];

  METHOD explicit Factors(const float (&x)[2][4], float4 y) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      by[half][0] = Element::pack(x[0][half * 2] * y.x, x[0][half * 2 + 1] * y.y);
      by[half][1] = Element::pack(x[1][half * 2] * y.z, x[1][half * 2 + 1] * y.w);
    }
  }
  METHOD explicit Factors(const float (&x)[2][4]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      by[half][0] = Element::pack(x[0][half * 2], x[0][half * 2 + 1]);
      by[half][1] = Element::pack(x[1][half * 2], x[1][half * 2 + 1]);
    }
  }
  METHOD void left(u32 (&to)[4], const u32 (&x)[4]) const {
#pragma unroll
    for (int p = 0; p < 4; ++p) to[p] = Pairs<Element>::times(x[p], by[p % 2][p / 2]);
  }
  METHOD void right(u32 (&to)[4], const u32 (&x)[4]) const {
#pragma unroll
    for (int p = 0; p < 4; ++p) to[p] = Pairs<Element>::times(x[p], by[p / 2][p % 2]);
  }
  // From a right operand to a left one.
  METHOD void turned(u32 (&to)[4], const u32 (&x)[4]) const {
#pragma unroll
    for (int p = 0; p < 4; ++p) to[p] = Pairs<Element>::times(x[p % 2 * 2 + p / 2], by[p % 2][p / 2]);
  }
};

// What the erase gate is to a block: what keys are multiplied by, and what rows of L are scaled by.
template <class Cfg, int GRAIN = Cfg::ERASE>
struct Erasure {
  enum : int { ERASES = GRAIN != ABSENT };
  const Buffer<Cfg>& buffer;
  METHOD void erased(u32 (&e)[4], const u32 (&k)[4], u32, int, int, int) const {
#pragma unroll
    for (int p = 0; p < 4; ++p) e[p] = k[p];
  }
  METHOD float row(int i) const {
    if constexpr (GRAIN == TOKEN) return at<float>(buffer.vector(Cfg::SMEM_BETA) + i * 4);
    else return 1.0f;
  }
};
template <class Cfg>
struct Erasure<Cfg, CHANNEL> {
  enum : int { ERASES = 1 };
  using Element = typename Cfg::Element;
  using Gate = typename Cfg::Erase;
  const Buffer<Cfg>& buffer;
  // `place` is that of the keys.
  METHOD void erased(u32 (&e)[4], const u32 (&k)[4], u32 place, int first, int d, int lane) const {
    u32 b[4];
    if constexpr (sizeof(Gate) == 2) load_matrices(b, place + (buffer.gates() - buffer.keys()));
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      float2 gate;
      if constexpr (sizeof(Gate) == 2) gate = {Gate::low(b[p]), Gate::high(b[p])};
      else gate = load_pair<KEY>(buffer.gates(), first + token_of(lane / 4 + p / 2 * 8), d, p % 2 * 2, lane);
      e[p] = Element::pack(gate.x * Element::low(k[p]), gate.y * Element::high(k[p]));
    }
  }
  METHOD float row(int) const { return 1.0f; }
};

// What a warp gathers over the channels, as sums in accumulator layout: rows are those of fragments, columns tokens in
// their order. A product's first eight rows are queries and its last eight what is erased, but for `own` and `far`.
struct Scores {
  float near[4];                                // of each half with itself, columns as fragments have them
  float halves[4];                              // of the later half with the earlier
  float own[2][4];                              // queries with each half's keys, where only q_i k_i counts
  float far[BLOCKS > 1 ? BLOCKS - 1 : 1][4][4];  // with an earlier block: queries over 16 keys, what is erased over them
};

// What warps pass on, as one lane sees it, in one of two buffers: the `turn`th.
template <class Cfg>
struct Passed {
  enum : int { KEYS = 512, DECAYS = 64 };  // bytes of a block's
  u32 to = 0, from = 0;  // its own block's keys, and where other blocks' begin: rows of eight channels, tokens in their order
  int decays = 0;

  // `part`: of several groups of warps that each pass among themselves.
  METHOD Passed(int block, int lane, int part) {
    if constexpr (BLOCKS > 1) {
      const int first = Cfg::SMEM_PASSED_KEYS + part * (2 * BLOCKS * KEYS) + lane / 8 % 2 * 256, row = lane / 16 * 8 + lane % 8;
      to = shared_address(first + block * KEYS + token_of(row) * 16);
      from = shared_address(first + row * 16);
      decays = Cfg::SMEM_PASSED_DECAYS + part * (2 * BLOCKS * DECAYS) + lane % 4 * 16;
    }
  }

  METHOD void give_keys(const u32 (&k)[4], int turn) const { store_matrices(k, to + turn * (BLOCKS * KEYS)); }
  METHOD void take_keys(u32 (&k)[4], int block, int turn) const {
    load_matrices(k, from + (turn * (BLOCKS * KEYS) + block * KEYS));
  }
  // The decay of a block over the lane's channels: 2 (lane % 4), the next, and those eight on.
  METHOD float4& decay(int block, int turn) const { return at<float4>(decays + (turn * (BLOCKS * DECAYS) + block * DECAYS)); }
};

// The warps of a part that have a block meet.
template <int PARTS>
DEVICE void blocks_sync(int part) {
  if constexpr (PARTS == 1) asm volatile("bar.sync 2, %0;" ::"n"(BLOCKS * 32) : "memory");
  else asm volatile("bar.sync %0, %1;" ::"r"(2 + part), "n"(BLOCKS * 32) : "memory");
}

// A step's factors of a block's tokens, since the block's start and until its end.
struct Ends {
  float since[2][4], until[2][4];

  // The block's decay, in lanes that have its last token.
  METHOD float4 whole() const { return {since[0][2], since[0][3], since[1][2], since[1][3]}; }
};

template <int COLS>
DEVICE void store_tokens(const u32 (&block)[4], int tile, int first, int col, int lane) {
  const int row = first + token_of(lane % 16);
  store_matrices(block, shared_address(tile + Tile<COLS, 2>::offset(row, col + lane / 16 * 8)));
}

template <typename Element>
DEVICE void store_scores(const float (&sum)[4][4], int p, int row, int col, int lane) {
  const u32 pairs[4] = {Element::pack(sum[0][0], sum[0][1]), Element::pack(sum[0][2], sum[0][3]),
                        Element::pack(sum[1][0], sum[1][1]), Element::pack(sum[1][2], sum[1][3])};
  store_tokens<CHUNK>(pairs, p, row, col, lane);
}

// P on and below the diagonal blocks.
template <typename Element>
DEVICE void store_query_scores(const Scores& scores, int p, int block, int lane) {
  if (block >= BLOCKS) return;
  const float(&near)[4] = scores.near, (&own)[2][4] = scores.own;
  const int below = lane / 4 - lane % 4 * 2;  // the diagonal, the first of the lane's two entries
  const float earlier[2] = {below > 0 ? near[0] : below == 0 ? own[0][0] : 0.0f,
                            below > 1 ? near[1] : below == 1 ? own[0][1] : 0.0f};
  const float later[2] = {below < 0 ? near[0] : below == 0 ? own[1][2] : 0.0f,
                          below < 1 ? near[1] : below == 1 ? own[1][3] : 0.0f};
  const u32 turned = Element::pack(later[1], later[0]);
  const u32 pairs[4] = {Element::pack(earlier[0], earlier[1]), Element::pack(scores.halves[0], scores.halves[1]), 0,
                        __shfl_xor_sync(0xffffffffu, turned, 3)};
  store_tokens<CHUNK>(pairs, p, block * 16, block * 16, lane);
#pragma unroll
  for (int other = 0; other + 1 < BLOCKS; ++other) {
    if (other < block) store_scores<Element>(scores.far[other], p, block * 16, other * 16, lane);
  }
}

// What a warp has of L, turned from the order of fragments to that of tokens.
template <typename Element, typename Left>
struct TurnedRowsOfL {
  const Scores& scores;
  float row[2];  // what rows of L are scaled by
  float near[2][2], halves[2];

  METHOD TurnedRowsOfL(const Scores& scores, const Left& left, int block, int lane) : scores(scores) {
    row[0] = left.row(block * 16 + token_of(lane / 4));
    row[1] = left.row(block * 16 + token_of(lane / 4 + 8));
    const float(&sum)[4] = scores.near;
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      near[0][c] = sum[2 + c] * row[0];
      near[1][c] = __shfl_xor_sync(0xffffffffu, sum[3 - c] * row[1], 31);
      halves[c] = __shfl_xor_sync(0xffffffffu, scores.halves[2 + c] * row[1], 28);
    }
  }

  // Block `other` left of the warp's own as an operand, high and low.
  METHOD void operand(u32 (&high)[4], u32 (&low)[4], int other) const {
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      const float(&sum)[4] = scores.far[other][2 + p / 2];
      const int c = p % 2 * 2;
      const Halved<Element> l(sum[c] * row[p % 2], sum[c + 1] * row[p % 2]);
      high[p] = p % 2 ? __shfl_xor_sync(0xffffffffu, l.high, 28) : l.high;
      low[p] = p % 2 ? __shfl_xor_sync(0xffffffffu, l.low, 28) : l.low;
    }
  }
};

// PARTS: groups of warps, of four where there are several, that divide the channels among them. Several leave queries and
// keys as they are, and scaled keys in a tile of their own.
template <class Cfg, int PARTS = 1>
struct ChunkFactors {
  using Element = typename Cfg::Element;
  using Decay = typename Cfg::Decay;
  using Left = Erasure<Cfg>;
  enum : int { QUERIES = Cfg::OUTPUTS, ERASES = Left::ERASES };
  Runs<Decay> runs;
  Passed<Cfg> passed;
  int begins = 0;  // in which of two buffers

  METHOD ChunkFactors() : runs(lane_index()), passed(own_block(), lane_index(), part()) {}

  static METHOD int part() { return PARTS == 1 ? 0 : warp_index() / BLOCKS; }
  static METHOD int own_block() { return PARTS == 1 ? warp_index() : warp_index() % BLOCKS; }

  // Groups of 2 SIZE tokens: those of later halves with those of earlier ones.
  template <int SIZE>
  METHOD void score(float (&sum)[4], const Logs<Decay>& logs, const Operands& x, const Counts<Decay, 4>& run, int lane) const {
    const bool later = lane / 4 & SIZE;  // the first half's token is; the second half's then is not
    u32 a[4], b[2];
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      float e[4];
      logs.sum(e, n, run.ones);
      const u32 begun = Element::pack(decay_of(e[0]), decay_of(e[1]));
      a[n * 2] = QUERIES ? Pairs<Element>::times(later ? x.q[n * 2] : x.q[n * 2 + 1], begun) : 0;
      a[n * 2 + 1] = ERASES ? Pairs<Element>::times(later ? x.e[n] : x.e[n + 2], begun) : 0;
      b[n] = later ? x.k[n + 2] : x.k[n];
      // A group of one token has no decay to come.
      if (SIZE > 1) b[n] = Pairs<Element>::times(b[n], Element::pack(decay_of(e[2]), decay_of(e[3])));
    }
    Element::mma(sum, a, b[0], b[1]);
  }

  // The block by itself, over 16 channels.
  METHOD void score_block(Scores& scores, float (&near)[3][4], Ends& ends, const Logs<Decay>& logs, const Operands& x,
                          int lane) const {
    score<4>(near[2], logs, x, runs.fours, lane);
    score<2>(near[1], logs, x, runs.twos, lane);
    score<1>(near[0], logs, x, runs.ones, lane);
    u32 a[4], b[2];
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      float first[4], second[4], across[4];
      logs.sum(first, n, 0, runs.first.ones);
      logs.sum(second, n, 1, runs.second.ones);
      logs.sum(across, n, runs.across.ones);
      const u32 begun = Element::pack(decay_of(second[2]), decay_of(second[3]));
      a[n * 2] = QUERIES ? Pairs<Element>::times(x.q[n * 2 + 1], begun) : 0;
      a[n * 2 + 1] = ERASES ? Pairs<Element>::times(x.e[n + 2], begun) : 0;
      b[n] = Pairs<Element>::times(x.k[n], Element::pack(decay_of(first[2]), decay_of(first[3])));
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        ends.since[n][c] = decay_of(first[c]);
        ends.until[n][c] = decay_of(across[c]);
        ends.since[n][c + 2] = decay_of(across[c + 2]);
        ends.until[n][c + 2] = decay_of(second[c]);
      }
    }
    Element::mma(scores.halves, a, b[0], b[1]);
    if constexpr (QUERIES) {
      Element::mma(scores.own[0], x.q, x.k[0], x.k[1]);
      Element::mma(scores.own[1], x.q, x.k[2], x.k[3]);
    }
  }

  // A block's queries and what it erases, over 16 channels: with earlier blocks' keys, split at the block's start, and scaled
  // from the chunk's start on, where they lie.
  template <int BLOCK>
  METHOD void score_others(Scores& scores, const Ends& ends, const Operands& x, int turn, u32 query, u32 erased) const {
    float4 before = {1.0f, 1.0f, 1.0f, 1.0f};
    u32 between[BLOCK + 1][2], q[4], e[4], scaled[4];
#pragma unroll
    for (int other = BLOCK - 1; other >= 0; --other) {
      between[other][0] = Element::pack(before.x, before.y);
      between[other][1] = Element::pack(before.z, before.w);
      before = times(before, passed.decay(other, turn));
    }
    const Factors<Element> own(ends.since), all(ends.since, before);
    if constexpr (QUERIES) {
      if (BLOCK > 0) own.left(q, x.q);
      if constexpr (PARTS == 1) {
        all.left(scaled, x.q);
        store_matrices(scaled, query);
      }
    }
    if constexpr (ERASES) {
      if (BLOCK > 0) own.turned(e, x.e);
      all.right(scaled, x.e);
      store_matrices(scaled, erased);
    }
#pragma unroll
    for (int other = BLOCK - 1; other >= 0; --other) {
      u32 k[4];
      passed.take_keys(k, other, turn);
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        if (other + 1 < BLOCK) k[p] = Pairs<Element>::times(k[p], between[other][p % 2]);
      }
      float(&sum)[4][4] = scores.far[other];
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        if (QUERIES) Element::mma(sum[n], q, k[n * 2], k[n * 2 + 1]);
        if (ERASES) Element::mma(sum[n + 2], e, k[n * 2], k[n * 2 + 1]);
      }
    }
  }

  // Where scaled keys go that lie at `key`.
  static METHOD u32 scaled_place(const Buffer<Cfg>& tiles, u32 key) {
    if constexpr (PARTS == 1) return key;
    else return key + (Cfg::SMEM_SCALED_K - tiles.keys());
  }

  // The chunk's decay, from lanes that have its last token.
  static METHOD void store_decay(const Buffer<Cfg>& tiles, float4 decay, int d, int lane) {
    if (lane < 4) at<float4>(tiles.chunk_decay() + d * 4 + lane * 16) = decay;
  }

  // All channels of a block.
  template <int BLOCK>
  METHOD void score_channels(Scores& scores, const Left& left, const Buffer<Cfg>& tiles) {
    constexpr int FIRST = BLOCK * 16;
    int lane = lane_index();
    const RowCursor<KEY> queries(tiles.queries(), FIRST + token_of(lane % 16) - lane % 16, lane);
    const RowCursor<KEY> keys = right_rows<KEY>(tiles.keys(), FIRST, lane), decays(tiles.decays(), FIRST, lane);
    const int erased = tiles.erased() - tiles.keys();
    float near[3][4] = {};
    Logs<Decay> logs;
    enum : int { SHARE = KEY / PARTS };
    const int from = part() * SHARE;
    logs.load(decays, tiles.decays(), FIRST, from, lane);
#pragma unroll 1
    for (int d = 0; d < SHARE; d += 16) {
      const int turn = (d / 16 + begins) % 2;
      asm volatile("" : "+r"(lane));  // or addresses held through the loop would be registers too many
      const u32 key = keys.place(from + d, 0), query = queries.place(from + d, 0);
      Operands x;
      load_matrices(x.k, key);
      if (QUERIES) load_matrices(x.q, query);
      logs.bound();
      left.erased(x.e, x.k, key, FIRST, from + d, lane);
      Ends ends;
      score_block(scores, near, ends, logs, x, lane);
      const Factors<Element> until(ends.until);
      u32 scaled[4];
      until.right(scaled, x.k);
      if constexpr (BLOCK + 1 == BLOCKS) store_matrices(scaled, scaled_place(tiles, key));
      else passed.give_keys(scaled, turn);
      if constexpr (BLOCKS > 1) {
        if (lane < 4) passed.decay(BLOCK, turn) = ends.whole();
        blocks_sync<PARTS>(part());
      }
      score_others<BLOCK>(scores, ends, x, turn, query, key + erased);
      if constexpr (BLOCK + 1 < BLOCKS) {
        float4 after = passed.decay(BLOCK + 1, turn);
#pragma unroll
        for (int other = BLOCK + 2; other < BLOCKS; ++other) after = times(after, passed.decay(other, turn));
        Factors<Element>(ends.until, after).right(scaled, x.k);
        store_matrices(scaled, scaled_place(tiles, key));
        if constexpr (BLOCK == 0) store_decay(tiles, times(ends.whole(), after), from + d, lane);
      } else if constexpr (BLOCK == 0) {
        store_decay(tiles, ends.whole(), from + d, lane);
      }
      if (d + 16 < SHARE) logs.load(decays, tiles.decays(), FIRST, from + d + 16, lane);
    }
    if (BLOCKS == 1) __syncwarp();  // several have met since they read what comes to lie over decays
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int apart = lane / 4 ^ (lane % 4 * 2 + c % 2);  // rows, in the highest bit of which tokens meet
      scores.near[c] = apart >= 4 ? near[2][c] : apart >= 2 ? near[1][c] : near[0][c];
    }
  }

  // A copy of the loop to each warp: branches would cost as much as what they choose.
  template <int BLOCK = 0>
  METHOD void score_own(Scores& scores, const Left& left, const Buffer<Cfg>& tiles) {
    if (own_block() == BLOCK) score_channels<BLOCK>(scores, left, tiles);
    else if constexpr (BLOCK + 1 < BLOCKS) score_own<BLOCK + 1>(scores, left, tiles);
  }

  METHOD void make(const Buffer<Cfg>& buffer, float) {
    const Left left{buffer};
    Scores sums = {};
    score_own(sums, left, buffer);
    begins = (begins + KEY / 16) % 2;
    if constexpr (QUERIES) {
      clear_above(buffer.p());
      store_query_scores<Element>(sums, buffer.p(), warp_index(), lane_index());
    }
    if constexpr (ERASES) {
      clear_above(buffer.m());
      // A warp without a block has rows like the last one's, of which nothing comes.
      const int block = min(warp_index(), BLOCKS - 1);
      solve_rows<Element>(TurnedRowsOfL<Element, Left>(sums, left, block, lane_index()), buffer.m());
    }
  }
};
