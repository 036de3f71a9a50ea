// Everything of a chunk that no state enters, where every channel decays at its own rate, up to the inverse. With D(j, i)
// a channel's decay after token j through token i:
//   L_ij = row_i * sum_d e_id k_jd D_d(j, i)   i > j     P_ij = sum_d q_id k_jd D_d(j, i)   i >= j
//   Q^_i = q_i D(start, i)     E^_i = e_i D(start, i)     K^_j = k_j D(j, end)
//
// Two tokens meet in the smallest group of 2, 4, 8, ... tokens that holds both, and D(j, i) is split at its middle: the
// later token is scaled by the decays since, the earlier by those until then, and a product of matrices serves all pairs
// that meet at a level. From level to level a decay grows by that of the neighbouring group. Those of single tokens alone
// are exponentiated, and nothing is ever above 1.
//
// A warp serves the block of 16 tokens of its index, 16 channels at a time, as fragments: its groups of up to 8 tokens
// lie across lanes, its halves in the same lane, wider groups across warps, which pass on keys and decays.

enum : int { BLOCKS = CHUNK / 16 };

// The erase gate: e from k, where its scaled operand goes, and what L's rows are scaled by.
struct ErasesNothing {
  enum : int { ERASES = 0 };
  int tile;
  METHOD Fragment erased(const Fragment& k, int, int, int) const { return k; }
  METHOD float row(int) const { return 1.0f; }
};

// One number per token, which multiplies rows of L and of the residual: e = k here.
template <typename Row>
struct ErasesTokens {
  enum : int { ERASES = 1 };
  int tile;
  METHOD Fragment erased(const Fragment& k, int, int, int) const { return k; }
  METHOD float row(int i) const { return Row::of(i); }
};

template <typename T>
struct ErasesChannels {
  enum : int { ERASES = 1 };
  int gates;
  int tile;
  METHOD Fragment erased(const Fragment& k, int first, int d, int lane) const {
    Fragment e = Stored<T, KEY>::fragment(gates, first, d, lane);
#pragma unroll
    for (int p = 0; p < 4; ++p) e.pair[p] = {e.pair[p].x * k.pair[p].x, e.pair[p].y * k.pair[p].y};
    return e;
  }
  METHOD float row(int) const { return 1.0f; }
};

// What a warp gathers over the channels, as sums in accumulator layout. A product's first eight rows are queries and its
// last eight what is erased, or it is one of two.
struct Scores {
  float near[2][4];    // of eight tokens with themselves
  float halves[4];     // of the later half of the block with the earlier
  float own[2];        // the lane's share of q_i k_i, for rows lane / 4 and lane / 4 + 8
  float last[4][4];    // with the block before, in a group of 32: queries over 16 keys, what is erased over them
  float first[2][4][4];  // with the two blocks before the group
};

DEVICE float2 times(float2 x, float2 y) { return {x.x * y.x, x.y * y.y}; }

template <typename Element>
DEVICE u32 scaled(u32 pair, float2 by) {
  return Element::pack(Element::low(pair) * by.x, Element::high(pair) * by.y);
}

// A block's pairs scaled by a factor per column: `near` for its first eight columns, `far` for the others.
template <typename Element>
DEVICE void scale_block(u32 (&block)[4], float2 near, float2 far) {
#pragma unroll
  for (int p = 0; p < 4; ++p) block[p] = scaled<Element>(block[p], p < 2 ? near : far);
}

// The two warps of a pair of blocks meet.
DEVICE void pair_sync(int pair) { asm volatile("bar.sync %0, 64;" ::"r"(pair + 2) : "memory"); }

DEVICE float4 times(float4 x, float4 y) { return {x.x * y.x, x.y * y.y, x.z * y.z, x.w * y.w}; }

// What warps pass on, each lane to the same lanes of others, in one of two buffers.
template <int KEYS, int DECAYS>
struct Passed {
  // A block's keys: those of a pair's first block, then of the first pair's two.
  static METHOD uint4& keys(int buffer, int slot, int lane) {
    return at<uint4>(KEYS + (buffer * BLOCKS + slot) * 512 + lane * 16);
  }
  // The decays of a group of tokens, of blocks and then of pairs of blocks, over the lane's channels: 2 (lane % 4), the
  // next, and those eight on.
  static METHOD float4& decay(int buffer, int group, int lane) {
    return at<float4>(DECAYS + (buffer * (BLOCKS + BLOCKS / 2) + group) * 64 + lane % 4 * 16);
  }
};

// Scores of a block with an earlier one whose keys were passed on.
template <typename Element, typename Left, bool QUERIES>
DEVICE void add_scores(float (&sum)[4][4], const u32 (&q)[4], const u32 (&e)[4], uint4 k) {
  if (QUERIES) {
    Element::mma(sum[0], q, k.x, k.z);
    Element::mma(sum[1], q, k.y, k.w);
  }
  if (Left::ERASES) {
    Element::mma(sum[2], e, k.x, k.z);
    Element::mma(sum[3], e, k.y, k.w);
  }
}

// A block's operands over 16 channels: queries, what is erased, keys.
struct Operands {
  u32 q[4], e[4], k[4];

  template <typename Element>
  METHOD void scale_later(float4 by) {
    scale_block<Element>(q, {by.x, by.y}, {by.z, by.w});
    scale_block<Element>(e, {by.x, by.y}, {by.z, by.w});
  }
  template <typename Element>
  METHOD void scale_earlier(float4 by) {
    scale_block<Element>(k, {by.x, by.y}, {by.z, by.w});
  }
};

// The same as they are loaded, with each token's decays within its group: since the group's start, and until its end.
template <typename Element, bool QUERIES, typename Left>
struct Tokens {
  u32 query[4], key[4];
  Fragment erased, since, until;

  METHOD u32 later_query(int p) const { return QUERIES ? scaled<Element>(query[p], since.pair[p]) : 0; }
  METHOD u32 later_erased(int p) const {
    const float2 x = times(erased.pair[p], since.pair[p]);
    return Left::ERASES ? Element::pack(x.x, x.y) : 0;
  }
  METHOD u32 earlier_key(int p) const { return scaled<Element>(key[p], until.pair[p]); }

  // Scores of one half's tokens over those of another, or of the same.
  METHOD void score(float (&sum)[4], int later, int earlier) const {
    const u32 a[4] = {later_query(later), later_erased(later), later_query(later + 2), later_erased(later + 2)};
    Element::mma(sum, a, earlier_key(earlier), earlier_key(earlier + 2));
  }

  // Groups of SIZE within eight tokens, which meet where their rows first differ in SIZE / 2; then groups twice as wide.
  template <int SIZE>
  METHOD void score_near(float (&near)[2][4], int lane) {
    const int row = lane / 4, col = lane % 4 * 2;
    const bool x = (row ^ col) / (SIZE / 2) == 1 && row > col;
    const bool y = (row ^ (col + 1)) / (SIZE / 2) == 1 && row > col + 1;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum[4] = {};
      score(sum, half, half);
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        if (c % 2 == 0 ? x : y) near[half][c] += sum[c];
      }
    }
    const bool later = lane / 4 & (SIZE / 2);
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      const float2 whole = times(since.pair[p], until.pair[p]);
      const float2 other = {__shfl_xor_sync(0xffffffffu, whole.x, SIZE * 2),
                            __shfl_xor_sync(0xffffffffu, whole.y, SIZE * 2)};
      if (later) since.pair[p] = times(since.pair[p], other);
      else until.pair[p] = times(until.pair[p], other);
    }
  }

  // Joins the halves; the decay over the block.
  METHOD float4 join() {
    float2 whole[2];
#pragma unroll
    for (int p = 0; p < 4; p += 2) {
      const float2 earlier = times(since.pair[p], until.pair[p]);
      const float2 later = times(since.pair[p + 1], until.pair[p + 1]);
      since.pair[p + 1] = times(since.pair[p + 1], earlier);
      until.pair[p] = times(until.pair[p], later);
      whole[p / 2] = times(earlier, later);
    }
    return {whole[0].x, whole[0].y, whole[1].x, whole[1].y};
  }
};

template <typename Element, typename Decay, bool QUERIES, typename Left>
DEVICE void load_tokens(Tokens<Element, QUERIES, Left>& tokens, const Left& left, int q, int k, int g, int first, int d,
                        int lane) {
  tokens.since = Stored<Decay, KEY>::fragment(g, first, d, lane);
#pragma unroll
  for (int p = 0; p < 4; ++p) {
    const float2 decay = tokens.since.pair[p];
    tokens.since.pair[p] = {exp2(log2_decay(decay.x)), exp2(log2_decay(decay.y))};
    tokens.until.pair[p] = {1.0f, 1.0f};
  }
  load_block<KEY>(tokens.key, k, first, d, lane);
  if (QUERIES) load_block<KEY>(tokens.query, q, first, d, lane);
  tokens.erased = left.erased(unpack<Element>(tokens.key), first, d, lane);
}

template <typename Element, typename Decay, typename Passed, bool QUERIES, typename Left>
DEVICE Scores channel_scores(const Left& left, int q, int k, int g, int state_decay) {
  Scores scores = {};
  const int block = warp_index(), first = block * 16, pair = block / 2, lane = lane_index();
  if (block >= BLOCKS) return scores;
#pragma unroll 1
  for (int d = 0; d < KEY; d += 16) {
    const int buffer = d / 16 % 2;
    Operands x;
    float4 decay;  // over the widest group so far
    {
      Tokens<Element, QUERIES, Left> tokens;
      load_tokens<Element, Decay>(tokens, left, q, k, g, first, d, lane);
      if (QUERIES) {
        const Fragment queries = unpack<Element>(tokens.query), keys = unpack<Element>(tokens.key);
#pragma unroll
        for (int p = 0; p < 4; ++p) {
          scores.own[p % 2] += queries.pair[p].x * keys.pair[p].x + queries.pair[p].y * keys.pair[p].y;
        }
      }
      tokens.template score_near<2>(scores.near, lane);
      tokens.template score_near<4>(scores.near, lane);
      tokens.template score_near<8>(scores.near, lane);
      tokens.score(scores.halves, 1, 0);
      decay = tokens.join();
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        x.q[p] = tokens.later_query(p);
        x.e[p] = tokens.later_erased(p);
        x.k[p] = tokens.earlier_key(p);
      }
    }
    if (BLOCKS > 1) {
      const bool later = block % 2;
      if (!later) Passed::keys(buffer, pair, lane) = {x.k[0], x.k[1], x.k[2], x.k[3]};
      if (lane < 4) Passed::decay(buffer, block, lane) = decay;
      pair_sync(pair);
      const float4 other = Passed::decay(buffer, block ^ 1, lane);
      decay = times(decay, other);
      if (later) {
        add_scores<Element, Left, QUERIES>(scores.last, x.q, x.e, Passed::keys(buffer, pair, lane));
        x.scale_later<Element>(other);
      } else {
        x.scale_earlier<Element>(other);
      }
    }
    if (BLOCKS > 2) {
      if (pair == 0) Passed::keys(buffer, 2 + block, lane) = {x.k[0], x.k[1], x.k[2], x.k[3]};
      if (block % 2 == 0 && lane < 4) Passed::decay(buffer, BLOCKS + pair, lane) = decay;
      group_sync();
      const float4 other = Passed::decay(buffer, BLOCKS + 1 - pair, lane);
      decay = times(decay, other);
      if (pair == 1) {
        add_scores<Element, Left, QUERIES>(scores.first[0], x.q, x.e, Passed::keys(buffer, 2, lane));
        add_scores<Element, Left, QUERIES>(scores.first[1], x.q, x.e, Passed::keys(buffer, 3, lane));
        x.scale_later<Element>(other);
      } else {
        x.scale_earlier<Element>(other);
      }
    }
    store_block<KEY>(x.k, k, first, d, lane);
    if (QUERIES) store_block<KEY>(x.q, q, first, d, lane);
    if (Left::ERASES) store_block<KEY>(x.e, left.tile, first, d, lane);
    if (block == 0 && lane < 8) {
      const bool far = lane >= 4;
      at<float2>(state_decay + (d + lane * 2) * 4) = {far ? decay.z : decay.x, far ? decay.w : decay.y};
    }
  }
  return scores;
}

template <typename Element>
DEVICE void store_scores(const float (&sum)[4][4], int p, int row, int col, int lane) {
  const u32 pairs[4] = {Element::pack(sum[0][0], sum[0][1]), Element::pack(sum[0][2], sum[0][3]),
                        Element::pack(sum[1][0], sum[1][1]), Element::pack(sum[1][2], sum[1][3])};
  store_block<CHUNK>(pairs, p, row, col, lane);
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
  const int row = lane / 4, col = lane % 4 * 2;
  u32 pairs[4];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float(&near)[4] = scores.near[half];
    pairs[half * 3] = Element::pack(row == col ? own[half] : near[0], row == col + 1 ? own[half] : near[1]);
  }
  pairs[1] = Element::pack(scores.halves[0], scores.halves[1]);
  pairs[2] = 0;
  store_block<CHUNK>(pairs, p, block * 16, block * 16, lane);
  if (block % 2) store_scores<Element>(scores.last, p, block * 16, block * 16 - 16, lane);
  if (block >= 2) {
    store_scores<Element>(scores.first[0], p, block * 16, 0, lane);
    store_scores<Element>(scores.first[1], p, block * 16, 16, lane);
  }
}
