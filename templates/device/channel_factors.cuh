// Everything of a chunk that no state enters, where every channel decays at its own rate. With D(j, i) a channel's decay
// after token j through token i:
//   L_ij = row_i * sum_d e_id k_jd D_d(j, i)   i > j     P_ij = sum_d q_id k_jd D_d(j, i)   i >= j
//   Q^_i = q_i D(start, i)     E^_i = e_i D(start, i)     K^_j = k_j D(j, end)
//
// Decays are multiplied up from those of single tokens, which alone are exponentiated; nothing is ever above 1. A warp
// serves the block of 16 tokens of its index, and D(j, i) is split where the two tokens part:
//   within 8 tokens    not at all: sums in float32, a pair of channels to a lane, on the way through the tokens
//   within a block     at its middle: one product of matrices over the halves' operands
//   between blocks     at j's block's end and i's block's start: products, the blocks between scaling keys once more
// The tiles q, k and that of `left` first hold what is scaled up to a block's bounds, then up to the chunk's.

enum : int { BLOCKS = CHUNK / 16 };

// Two neighbouring channels of a token.
template <typename T>
struct ChannelPair {
  static METHOD float2 load(int tile, int row, int d) {
    const u32 pair = at<u32>(tile + Tile<KEY, 2>::offset(row, d));
    return {T::low(pair), T::high(pair)};
  }
  static METHOD void store(int tile, int row, int d, float2 x) {
    at<u32>(tile + Tile<KEY, 2>::offset(row, d)) = T::pack(x.x, x.y);
  }
};
template <>
struct ChannelPair<float> {
  static METHOD float2 load(int tile, int row, int d) { return at<float2>(tile + Tile<KEY, 4>::offset(row, d)); }
};

DEVICE float2 times(float2 x, float2 y) { return {x.x * y.x, x.y * y.y}; }

// The first of the lane's two channels of the 64 from `start` on.
DEVICE int first_channel(int start) { return start + lane_index() % 32u * 2; }

// Decays, up to a block's middle and then over the block, of channels d and d + 1.
DEVICE float2& block_decay(int block, int d) { return at<float2>(SMEM_DECAYS + (block * KEY + d) * 4); }

// The erase gate: e from k, where its scaled operand goes, and L.
struct ErasesNothing {
  enum : int { ERASES = 0 };
  int tile;
  METHOD float2 gate(float2 k, int, int) const { return k; }
  METHOD void store(int, int, float) const {}
  METHOD void store_pair(int, int, float, float) const {}
};

// One number per token, which multiplies rows of L and of the residual: e = k here.
template <typename Row, int L>
struct ErasesTokens {
  enum : int { ERASES = 1 };
  int tile;
  METHOD float2 gate(float2 k, int, int) const { return k; }
  METHOD void store(int i, int j, float x) const { at<float>(L + Tile<CHUNK, 4>::offset(i, j)) = x * Row::of(i); }
  METHOD void store_pair(int i, int j, float x, float y) const {
    const float row = Row::of(i);
    at<float2>(L + Tile<CHUNK, 4>::offset(i, j)) = {x * row, y * row};
  }
};

template <typename T, int L>
struct ErasesChannels {
  enum : int { ERASES = 1 };
  int gates;
  int tile;
  METHOD float2 gate(float2 k, int row, int d) const { return times(ChannelPair<T>::load(gates, row, d), k); }
  METHOD void store(int i, int j, float x) const { at<float>(L + Tile<CHUNK, 4>::offset(i, j)) = x; }
  METHOD void store_pair(int i, int j, float x, float y) const {
    at<float2>(L + Tile<CHUNK, 4>::offset(i, j)) = {x, y};
  }
};

// Eight rows of a tile, sixteen columns: half an operand's block.
template <int COLS>
DEVICE void load_half(u32 (&half)[2], int tile, int row, int col, int lane) {
  const u32 address = shared_address(tile + Tile<COLS, 2>::offset(row + lane % 8, col + lane / 8 % 2 * 8));
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(half[0]), "=r"(half[1]) : "r"(address));
}

// One half of the numbers to each of two lanes.
template <int HALF>
DEVICE void sum_halves(float (&x)[64]) {
  const bool upper = lane_index() & (HALF / 2);
#pragma unroll
  for (int t = 0; t < HALF; ++t) {
    const float keep = upper ? x[t + HALF] : x[t], give = upper ? x[t] : x[t + HALF];
    x[t] = keep + __shfl_xor_sync(0xffffffffu, give, HALF / 2);
  }
}

// Sums over the lanes of [8][8] numbers, to each lane those of row lane / 4, columns 2 (lane % 4) and the next.
DEVICE float2 sum_lanes(float (&x)[64]) {
  sum_halves<32>(x);
  sum_halves<16>(x);
  sum_halves<8>(x);
  sum_halves<4>(x);
  sum_halves<2>(x);
  return {x[0], x[1]};
}

// Scales the operands of eight tokens, the earlier or the later half of their block, and sums what they score among
// themselves: P_ij at [i][j], and L_ij, without its row's factor, at [j][i].
template <typename Element, typename Decay, typename Left>
DEVICE float2 scan_half(const Left& left, int q, int k, int g, int first, bool later) {
  float pair[64] = {};
#pragma unroll 1
  for (int start = 0; start < KEY; start += 64) {
    // The lane is read anew, here and below: addresses held through the loop would be registers too many.
    int d = first_channel(start);
    if (KEY % 64 != 0 && d >= KEY) break;
    float2 into = {1.0f, 1.0f};  // over the other half, where it comes before
    if (later) into = block_decay(first / 16, d);
    float2 head = {1.0f, 1.0f}, keys[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int row = first + i;
      float2 decay = ChannelPair<Decay>::load(g, row, d);
      decay = {exp2(log2_decay(decay.x)), exp2(log2_decay(decay.y))};
      head = times(head, decay);
#pragma unroll
      for (int j = 0; j < i; ++j) keys[j] = times(keys[j], decay);
      keys[i] = ChannelPair<Element>::load(k, row, d);
      {
        float2 x = ChannelPair<Element>::load(q, row, d);
#pragma unroll
        for (int j = 0; j <= i; ++j) pair[i * 8 + j] += x.x * keys[j].x + x.y * keys[j].y;
        x = times(x, head);
        if (later) ChannelPair<Element>::store(SMEM_HALVES, row, d, x);
        ChannelPair<Element>::store(q, row, d, times(x, into));
      }
      if (Left::ERASES) {
        float2 e = left.gate(keys[i], row, d);
#pragma unroll
        for (int j = 0; j < i; ++j) pair[j * 8 + i] += e.x * keys[j].x + e.y * keys[j].y;
        e = times(e, head);
        if (later) ChannelPair<Element>::store(SMEM_HALVES + CHUNK * KEY * 2, row, d, e);
        ChannelPair<Element>::store(left.tile, row, d, times(e, into));
      }
    }
    d = first_channel(start);
    block_decay(first / 16, d) = times(head, into);
    float2 out = {1.0f, 1.0f};  // over the other half, where it comes after
    if (!later) {
      float2 sum = {0.0f, 0.0f};
#pragma unroll
      for (int i = 8; i < 16; ++i) {
        const float2 decay = ChannelPair<Decay>::load(g, first + i, d);
        sum = {sum.x + log2_decay(decay.x), sum.y + log2_decay(decay.y)};
      }
      out = {exp2(sum.x), exp2(sum.y)};
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      if (!later) ChannelPair<Element>::store(SMEM_HALVES, first + j, d, keys[j]);
      ChannelPair<Element>::store(k, first + j, d, times(keys[j], out));
    }
  }
  return sum_lanes(pair);
}

// Scores between the halves of a block, rows of q over rows of e.
template <typename Element, typename Left>
DEVICE void scores_halves(float (&sum)[BLOCKS][4]) {
#pragma unroll 1
  for (int d = 0; d < KEY; d += 16) {
    const int lane = lane_index();
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block) {
      u32 both[4], e[2] = {0, 0};  // keys over queries
      load_block<KEY>(both, SMEM_HALVES, block * 16, d, lane);
      if (Left::ERASES) load_half<KEY>(e, SMEM_HALVES + CHUNK * KEY * 2, block * 16 + 8, d, lane);
      const u32 a[4] = {both[1], e[0], both[3], e[1]};
      Element::mma(sum[block], a, both[0], both[2]);
    }
  }
}

// A block of 16x16 scaled by a factor per column, the lane's of its two groups of eight.
template <typename Element>
DEVICE void scale_operand(u32 (&block)[4], float2 near, float2 far) {
  pack_product<Element>(block, unpack<Element>(block), Fragment{{near, near, far, far}});
}

// Writes back what load_block read.
template <int COLS>
DEVICE void store_block(const u32 (&block)[4], int tile, int row, int col, int lane) {
#pragma unroll
  for (int part = 0; part < 4; ++part) {
    at<u32>(tile + Tile<COLS, 2>::offset(row + part % 2 * 8 + lane / 4, col + part / 2 * 8 + lane % 4 * 2)) = block[part];
  }
}

// Scores of a block with those before it, the nearest first: two of q, two of e. Its operands go on scaled from the
// chunk's start.
template <typename Element, typename Left>
DEVICE void scores_before(float (&sum)[BLOCKS][4][4], const Left& left, int q, int k, int block) {
#pragma unroll 1
  for (int d = 0; d < KEY; d += 16) {
    const int lane = lane_index();
    u32 query[4], erase[4];
    load_block<KEY>(query, q, block * 16, d, lane);
    if (Left::ERASES) load_block<KEY>(erase, left.tile, block * 16, d, lane);
    float2 near = {1.0f, 1.0f}, far = {1.0f, 1.0f};  // over the blocks between
#pragma unroll
    for (int n = 0; n + 1 < BLOCKS; ++n) {
      const int other = block - 1 - n;
      if (other >= 0) {
        u32 key[4];
        load_block<KEY>(key, k, other * 16, d, lane);
        if (n > 0) scale_operand<Element>(key, near, far);
        Element::mma(sum[n][0], query, key[0], key[2]);
        Element::mma(sum[n][1], query, key[1], key[3]);
        if (Left::ERASES) {
          Element::mma(sum[n][2], erase, key[0], key[2]);
          Element::mma(sum[n][3], erase, key[1], key[3]);
        }
        near = times(near, block_decay(other, d + lane % 4 * 2));
        far = times(far, block_decay(other, d + lane % 4 * 2 + 8));
      }
    }
    scale_operand<Element>(query, near, far);
    store_block<KEY>(query, q, block * 16, d, lane);
    if (Left::ERASES) {
      scale_operand<Element>(erase, near, far);
      store_block<KEY>(erase, left.tile, block * 16, d, lane);
    }
  }
}

template <typename Element>
DEVICE void store_query_scores(int p, int i, int j, float x, float y) {
  at<u32>(p + Tile<CHUNK, 2>::offset(i, j)) = Element::pack(x, y);
}

// Scales a block's keys on to the chunk's end, and takes the decay over the whole chunk.
template <typename Element>
DEVICE void scale_keys(int k, int state_decay, int block) {
#pragma unroll 1
  for (int start = 0; start < KEY; start += 64) {
    const int d = first_channel(start);
    if (KEY % 64 != 0 && d >= KEY) break;
    float2 out = {1.0f, 1.0f};
#pragma unroll
    for (int other = 1; other < BLOCKS; ++other) {
      if (other > block) out = times(out, block_decay(other, d));
    }
    if (block == 0) at<float2>(state_decay + d * 4) = times(block_decay(0, d), out);
    if (block + 1 < BLOCKS) {
#pragma unroll 4
      for (int row = block * 16; row < block * 16 + 16; ++row) {
        ChannelPair<Element>::store(k, row, d, times(ChannelPair<Element>::load(k, row, d), out));
      }
    }
  }
}

template <typename Element, typename Decay, typename Left>
DEVICE void channel_factors(const Left& left, int q, int k, int g, int p, int state_decay) {
  const int block = warp_index();
  float2 inner[2];
  if (block < BLOCKS) {
    inner[0] = scan_half<Element, Decay>(left, q, k, g, block * 16, false);
    inner[1] = scan_half<Element, Decay>(left, q, k, g, block * 16 + 8, true);
  }
  group_sync();
  float halves[BLOCKS][4] = {}, before[BLOCKS][4][4] = {};
  if (block == 0) scores_halves<Element, Left>(halves);
  else if (block < BLOCKS) scores_before<Element>(before, left, q, k, block);
  group_sync();
  if (block >= BLOCKS) return;

  const int lane = lane_index(), row = lane / 4, col = lane % 4 * 2;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int first = block * 16 + half * 8, i = first + row, j = first + col;
    const float2 x = inner[half];
    store_query_scores<Element>(p, i, j, i >= j ? x.x : 0.0f, i > j ? x.y : 0.0f);
    left.store(j, i, j > i ? x.x : 0.0f);
    left.store(j + 1, i, j + 1 > i ? x.y : 0.0f);
  }
  store_query_scores<Element>(p, block * 16 + row, block * 16 + 8 + col, 0.0f, 0.0f);
  if (block == 0) {
#pragma unroll
    for (int n = 0; n < BLOCKS; ++n) {
      const int i = n * 16 + 8 + row, j = n * 16 + col;
      store_query_scores<Element>(p, i, j, halves[n][0], halves[n][1]);
      left.store_pair(i, j, halves[n][2], halves[n][3]);
    }
  }
#pragma unroll
  for (int n = 0; n + 1 < BLOCKS; ++n) {
    if (n < block) {
#pragma unroll
      for (int part = 0; part < 4; ++part) {
        const int i = block * 16 + part / 2 * 8 + row, j = (block - 1 - n) * 16 + part % 2 * 8 + col;
        const float(&query)[4] = before[n][part % 2], (&erase)[4] = before[n][2 + part % 2];
        store_query_scores<Element>(p, i, j, query[part / 2 * 2], query[part / 2 * 2 + 1]);
        left.store_pair(i, j, erase[part / 2 * 2], erase[part / 2 * 2 + 1]);
      }
    }
  }
  scale_keys<Element>(k, state_decay, block);
}
