// Everything of a chunk that no state enters, where every channel decays at its own rate, up to the inverse. With D(j, i)
// a channel's decay after token j through token i:
//   L_ij = row_i * sum_d e_id k_jd D_d(j, i)   i > j     P_ij = sum_d q_id k_jd D_d(j, i)   i >= j
//   Q^_i = q_i D(start, i)     E^_i = e_i D(start, i)     K^_j = k_j D(j, end)
//
// Two tokens meet in the smallest group of 2, 4, 8, ... tokens that holds both, and D(j, i) is split at its middle: the
// later token is scaled by the decays since the middle, the earlier by those until then, and a product of matrices serves
// all pairs that meet at a level. From level to level a token's decays grow by that of the neighbouring group. Those of
// single tokens alone are exponentiated, and nothing is ever above 1.
//
// A warp serves the block of 16 tokens of its index, 16 channels at a time, as fragments: its groups of up to 8 tokens
// lie across lanes, its halves in the same lane, wider groups across warps, which pass on keys and decays. The later half
// lies in reverse: of a lane's two tokens one is then the later in its group and one the earlier, at every level, and one
// product serves both halves. Its entries below the diagonal are the earlier half's, those above the later half's.
#pragma once

#include "forward/wgmma/products.cuh"
#include "forward/wgmma/solve_rows.cuh"
#include "numbers.cuh"

// The token of a block that is row `row` of a fragment.
DEVICE int token_of(int row) { return row < 8 ? row : 23 - row; }

template <int COLS>
DEVICE void store_tokens(const u32 (&block)[4], int tile, int first, int col, int lane) {
  const int row = first + token_of(lane % 16);
  store_matrices(block, shared_address(tile + Tile<COLS, 2>::offset(row, col + lane / 16 * 8)));
}

// Eight columns of a block's fragment, of a tile stored as T: a lane's two tokens, at channels d + 2 (lane % 4) and the
// next.
template <typename T>
struct Tokens {
  u32 bits[2];
  METHOD Tokens(int tile, int first, int d, int lane) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(bits[0]), "=r"(bits[1])
                 : "r"(shared_address(tile + Tile<KEY, 2>::offset(first + token_of(lane % 16), d))));
  }
  METHOD float2 pair(int half) const { return {T::low(bits[half]), T::high(bits[half])}; }
};
template <>
struct Tokens<float> {
  int tile, first, d, lane;
  METHOD Tokens(int tile, int first, int d, int lane) : tile(tile), first(first), d(d), lane(lane) {}
  METHOD float2 pair(int half) const {
    return load_pair<KEY>(tile, first + token_of(lane / 4 + half * 8), d, 0, lane);
  }
};

DEVICE float2 times(float2 x, float2 y) { return {x.x * y.x, x.y * y.y}; }
DEVICE float4 times(float4 x, float4 y) { return {x.x * y.x, x.y * y.y, x.z * y.z, x.w * y.w}; }
DEVICE float2 pick(bool first, float2 x, float2 y) { return {first ? x.x : y.x, first ? x.y : y.y}; }

// e from keys: the same, or times a gate per channel.
struct NoGates {
  METHOD NoGates(int, int, int, int) {}
  METHOD float2 erased(int, float2 k) const { return k; }
};
template <typename T>
struct ChannelGates : Tokens<T> {
  using Tokens<T>::Tokens;
  METHOD float2 erased(int half, float2 k) const { return times(this->pair(half), k); }
};

// What the erase gate is to a block: what keys are multiplied by, and what rows of L are scaled by.
template <class Cfg, int GRAIN = Cfg::ERASE>
struct Erasure {
  enum : int { ERASES = GRAIN != ABSENT };
  using Gates = NoGates;
  const Buffer<Cfg>& buffer;
  METHOD int gates() const { return 0; }
  METHOD float row(int i) const {
    if constexpr (GRAIN == TOKEN) return at<float>(buffer.vector(Cfg::SMEM_BETA) + i * 4);
    else return 1.0f;
  }
};
template <class Cfg>
struct Erasure<Cfg, CHANNEL> {
  enum : int { ERASES = 1 };
  using Gates = ChannelGates<typename Cfg::Erase>;
  const Buffer<Cfg>& buffer;
  METHOD int gates() const { return buffer.gates(); }
  METHOD float row(int) const { return 1.0f; }
};

// What a warp gathers over the channels, as sums in accumulator layout: rows are those of fragments, columns tokens in
// their order. A product's first eight rows are queries and its last eight what is erased, or it is one of two.
struct Scores {
  float near[4];         // of each half with itself, columns as fragments have them
  float halves[4];       // of the later half with the earlier
  float own[2];          // the lane's share of q_i k_i
  float last[4][4];      // with the block before, in a group of 32: queries over 16 keys, what is erased over them
  float first[2][4][4];  // with the two blocks before the group
};

// d[16][8] += a[16][8] b[8][8], float32 sums.
template <typename Element>
struct EightDeep;
template <>
struct EightDeep<Bf16> {
  static METHOD void mma(float (&d)[4], u32 a0, u32 a1, u32 b) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(b));
  }
};
template <>
struct EightDeep<F16> {
  static METHOD void mma(float (&d)[4], u32 a0, u32 a1, u32 b) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(b));
  }
};

template <typename Element>
DEVICE u32 scaled(u32 pair, float2 by) {
  return Element::pack(Element::low(pair) * by.x, Element::high(pair) * by.y);
}

// A lane's two tokens over two channels, that of the earlier half first, and their decays within their groups: since the
// group's start, and until its end.
template <typename Element, bool QUERIES, typename Left>
struct Group {
  u32 query[2], key[2];
  float2 erased[2], since[2], until[2];

  METHOD u32 later_query(u32 q, float2 decay) const { return QUERIES ? scaled<Element>(q, decay) : 0; }
  METHOD u32 later_erased(float2 e, float2 decay) const {
    return Left::ERASES ? Element::pack(e.x * decay.x, e.y * decay.y) : 0;
  }

  // Groups of SIZE rows, whose tokens meet where their rows first differ in SIZE / 2; then groups twice as wide.
  template <int SIZE>
  METHOD void score(float (&sum)[4], int lane) {
    const bool later = lane / 4 & (SIZE / 2);  // the earlier half's token is; the later half's then is not
    const float2 begun = pick(later, since[0], since[1]);
    const u32 earlier = later ? key[1] : key[0];
    EightDeep<Element>::mma(sum, later_query(later ? query[0] : query[1], begun),
                            later_erased(pick(later, erased[0], erased[1]), begun),
                            // A group of one token has no decay to come.
                            SIZE == 2 ? earlier : scaled<Element>(earlier, pick(later, until[1], until[0])));
    float2 other[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 whole = times(since[half], until[half]);
      other[half] = {__shfl_xor_sync(0xffffffffu, whole.x, SIZE * 2), __shfl_xor_sync(0xffffffffu, whole.y, SIZE * 2)};
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (half == 0 ? later : !later) since[half] = times(since[half], other[half]);
      else until[half] = times(until[half], other[half]);
    }
  }

  // The later half over the earlier; then the block, and its decay.
  METHOD float2 score_halves(float (&sum)[4]) {
    const u32 earlier = scaled<Element>(key[0], until[0]);
    EightDeep<Element>::mma(sum, later_query(query[1], since[1]), later_erased(erased[1], since[1]), earlier);
    const float2 whole[2] = {times(since[0], until[0]), times(since[1], until[1])};
    since[1] = times(since[1], whole[0]);
    until[0] = times(until[0], whole[1]);
    return times(whole[0], whole[1]);
  }
};

// A block's operands over 16 channels: queries, what is erased, keys.
struct Operands {
  u32 q[4], e[4], k[4];
};

// A block's pairs scaled by a decay of each channel.
template <typename Element>
DEVICE void scale_block(u32 (&block)[4], float4 by) {
#pragma unroll
  for (int p = 0; p < 4; ++p) block[p] = scaled<Element>(block[p], p < 2 ? float2{by.x, by.y} : float2{by.z, by.w});
}

// The two warps of a pair of blocks meet.
DEVICE void pair_sync(int pair) {
  if (BLOCKS == 2 || pair == 0) asm volatile("bar.sync 2, 64;" ::: "memory");
  else asm volatile("bar.sync 3, 64;" ::: "memory");
}

// What warps pass on, each lane to the same lanes of others, in one of two buffers.
template <class Cfg>
struct Passed {
  // A block's keys: those of a pair's first block, then of the first pair's two. They arrive in the order of tokens.
  static METHOD void give_keys(const u32 (&k)[4], int buffer, int slot, int lane) {
    at<uint2>(keys(buffer, slot) + lane * 8) = {k[0], k[2]};
    at<uint2>(keys(buffer, slot) + 256 + (lane ^ 28) * 8) = {k[1], k[3]};
  }
  static METHOD uint4 take_keys(int buffer, int slot, int lane) {
    const uint2 near = at<uint2>(keys(buffer, slot) + lane * 8), far = at<uint2>(keys(buffer, slot) + 256 + lane * 8);
    return {near.x, near.y, far.x, far.y};
  }
  static METHOD int keys(int buffer, int slot) { return Cfg::SMEM_PASSED_KEYS + (buffer * BLOCKS + slot) * 512; }

  // The decays of a group of tokens, of blocks and then of pairs of blocks, over the lane's channels: 2 (lane % 4), the
  // next, and those eight on.
  static METHOD float4& decay(int buffer, int group, int lane) {
    return at<float4>(Cfg::SMEM_PASSED_DECAYS + (buffer * (BLOCKS + BLOCKS / 2) + group) * 64 + lane % 4 * 16);
  }
};

// Scores of a block with an earlier one whose keys were passed on.
template <typename Element, bool QUERIES, typename Left>
DEVICE void add_scores(float (&sum)[4][4], const Operands& x, uint4 k) {
  if (QUERIES) {
    Element::mma(sum[0], x.q, k.x, k.y);
    Element::mma(sum[1], x.q, k.z, k.w);
  }
  if (Left::ERASES) {
    Element::mma(sum[2], x.e, k.x, k.y);
    Element::mma(sum[3], x.e, k.z, k.w);
  }
}

// The block by itself, over 16 channels: its decay.
template <typename Element, typename Decay, bool QUERIES, typename Left>
DEVICE float4 score_block(Operands& x, float (&near)[3][4], Scores& scores, const Left& left, int q, int k, int g, int first,
                          int d, int lane) {
  float2 whole[2];
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const Tokens<Decay> decays(g, first, d + n * 8, lane);
    const Tokens<Element> keys(k, first, d + n * 8, lane);
    const typename Left::Gates gates(left.gates(), first, d + n * 8, lane);
    Group<Element, QUERIES, Left> group;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 decay = decays.pair(half);
      group.key[half] = keys.bits[half];
      group.erased[half] = gates.erased(half, keys.pair(half));
      group.since[half] = {exp2(log2_decay(decay.x)), exp2(log2_decay(decay.y))};
      group.until[half] = {1.0f, 1.0f};
    }
    if constexpr (QUERIES) {
      const Tokens<Element> queries(q, first, d + n * 8, lane);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float2 query = queries.pair(half), key = keys.pair(half);
        group.query[half] = queries.bits[half];
        scores.own[half] += query.x * key.x + query.y * key.y;
      }
    }
    group.template score<2>(near[0], lane);
    group.template score<4>(near[1], lane);
    group.template score<8>(near[2], lane);
    whole[n] = group.score_halves(scores.halves);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int p = n * 2 + half;
      x.q[p] = group.later_query(group.query[half], group.since[half]);
      x.e[p] = group.later_erased(group.erased[half], group.since[half]);
      x.k[p] = scaled<Element>(group.key[half], group.until[half]);
    }
  }
  return {whole[0].x, whole[0].y, whole[1].x, whole[1].y};
}

template <class Cfg, typename Left>
DEVICE Scores channel_scores(const Left& left, const Buffer<Cfg>& tiles, int chunk) {
  using Element = typename Cfg::Element;
  using Passes = Passed<Cfg>;
  constexpr bool QUERIES = Cfg::OUTPUTS;
  Scores scores = {};
  const int k = tiles.keys(), q = tiles.queries();
  const int block = warp_index(), first = block * 16, pair = block / 2;
  int lane = lane_index();
  if (block >= BLOCKS) return scores;
  float near[3][4] = {};
#pragma unroll 1
  for (int d = 0; d < KEY; d += 16) {
    const int buffer = (chunk * (KEY / 16) + d / 16) % 2;
    asm volatile("" : "+r"(lane));  // or addresses held through the loop would be registers too many
    Operands x;
    // Over the widest group so far.
    float4 decay = score_block<Element, typename Cfg::Decay, QUERIES>(x, near, scores, left, q, k, tiles.decays(), first, d, lane);
    if constexpr (BLOCKS > 1) {
      const bool later = block % 2;
      if (!later) Passes::give_keys(x.k, buffer, pair, lane);
      if (lane < 4) Passes::decay(buffer, block, lane) = decay;
      pair_sync(pair);
      const float4 other = Passes::decay(buffer, block ^ 1, lane);
      decay = times(decay, other);
      if (later) {
        add_scores<Element, QUERIES, Left>(scores.last, x, Passes::take_keys(buffer, pair, lane));
        scale_block<Element>(x.q, other);
        scale_block<Element>(x.e, other);
      } else {
        scale_block<Element>(x.k, other);
      }
    }
    if constexpr (BLOCKS > 2) {
      if (pair == 0) Passes::give_keys(x.k, buffer, 2 + block, lane);
      if (block % 2 == 0 && lane < 4) Passes::decay(buffer, BLOCKS + pair, lane) = decay;
      group_sync();
      const float4 other = Passes::decay(buffer, BLOCKS + 1 - pair, lane);
      decay = times(decay, other);
      if (pair == 1) {
        add_scores<Element, QUERIES, Left>(scores.first[0], x, Passes::take_keys(buffer, 2, lane));
        add_scores<Element, QUERIES, Left>(scores.first[1], x, Passes::take_keys(buffer, 3, lane));
        scale_block<Element>(x.q, other);
        scale_block<Element>(x.e, other);
      } else {
        scale_block<Element>(x.k, other);
      }
    }
    store_tokens<KEY>(x.k, k, first, d, lane);
    if (QUERIES) store_tokens<KEY>(x.q, q, first, d, lane);
    if (Left::ERASES) store_tokens<KEY>(x.e, tiles.erased(), first, d, lane);
    if (block == 0 && lane < 8) {
      const bool far = lane >= 4;
      at<float2>(tiles.chunk_decay() + (d + lane * 2) * 4) = {far ? decay.z : decay.x, far ? decay.w : decay.y};
    }
  }
  if (BLOCKS == 1) __syncwarp();  // several have met since they read what comes to lie over decays
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    const int apart = lane / 4 ^ (lane % 4 * 2 + c % 2);  // rows, in the highest bit of which tokens meet
    scores.near[c] = apart >= 4 ? near[2][c] : apart >= 2 ? near[1][c] : near[0][c];
  }
  return scores;
}

template <typename Element>
DEVICE void store_scores(const float (&sum)[4][4], int p, int row, int col, int lane) {
  const u32 pairs[4] = {Element::pack(sum[0][0], sum[0][1]), Element::pack(sum[0][2], sum[0][3]),
                        Element::pack(sum[1][0], sum[1][1]), Element::pack(sum[1][2], sum[1][3])};
  store_tokens<CHUNK>(pairs, p, row, col, lane);
}

// P on and below the diagonal blocks.
template <typename Element>
DEVICE void store_query_scores(const Scores& scores, int p) {
  const int block = warp_index(), lane = lane_index();
  if (block >= BLOCKS) return;
  float own[2] = {scores.own[0], scores.own[1]};
#pragma unroll
  for (int step = 1; step < 4; step *= 2) {
    own[0] += __shfl_xor_sync(0xffffffffu, own[0], step);
    own[1] += __shfl_xor_sync(0xffffffffu, own[1], step);
  }
  const float(&near)[4] = scores.near;
  const int below = lane / 4 - lane % 4 * 2;  // the diagonal, the first of the lane's two entries
  const float earlier[2] = {below > 0 ? near[0] : below == 0 ? own[0] : 0.0f,
                            below > 1 ? near[1] : below == 1 ? own[0] : 0.0f};
  const float later[2] = {below < 0 ? near[0] : below == 0 ? own[1] : 0.0f,
                          below < 1 ? near[1] : below == 1 ? own[1] : 0.0f};
  const u32 turned = Element::pack(later[1], later[0]);
  const u32 pairs[4] = {Element::pack(earlier[0], earlier[1]), Element::pack(scores.halves[0], scores.halves[1]), 0,
                        __shfl_xor_sync(0xffffffffu, turned, 3)};
  store_tokens<CHUNK>(pairs, p, block * 16, block * 16, lane);
  if (block % 2) store_scores<Element>(scores.last, p, block * 16, block * 16 - 16, lane);
  if (block >= 2) {
    store_scores<Element>(scores.first[0], p, block * 16, 0, lane);
    store_scores<Element>(scores.first[1], p, block * 16, 16, lane);
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
    const bool last = other % 2 == 0 && warp_index() == other + 1;
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      const float(&x)[4] = scores.last[2 + p / 2], (&y)[4] = scores.first[other % 2][2 + p / 2];
      const int c = p % 2 * 2;
      const Halved<Element> l((last ? x[c] : y[c]) * row[p % 2], (last ? x[c + 1] : y[c + 1]) * row[p % 2]);
      high[p] = p % 2 ? __shfl_xor_sync(0xffffffffu, l.high, 28) : l.high;
      low[p] = p % 2 ? __shfl_xor_sync(0xffffffffu, l.low, 28) : l.low;
    }
  }
};

// A chunk's factors.
template <class Cfg>
DEVICE void make_chunk_factors(const Buffer<Cfg>& buffer, int chunk, float) {
  using Element = typename Cfg::Element;
  const Erasure<Cfg> left{buffer};
  const Scores scores = channel_scores(left, buffer, chunk);
  if constexpr (Cfg::OUTPUTS) {
    clear_above(buffer.p());
    store_query_scores<Element>(scores, buffer.p());
  }
  if constexpr (Cfg::ERASE) {
    clear_above(buffer.m());
    // A warp without a block has rows like the last one's, of which nothing comes.
    const int block = min(warp_index(), BLOCKS - 1);
    solve_rows<Element>(TurnedRowsOfL<Element, Erasure<Cfg>>(scores, left, block, lane_index()), buffer.m());
  }
}
