// The gradient of a channel-wise decay that is computed from a logit: what straddles a token and nothing else.
//
// dg_t is a sum over pairs of tokens j < t <= i. As the difference of all that rows from t on have and all that columns from
// t on have, pairs at or after t on both sides would cancel, but for what either side has rounded otherwise; where decay is
// strong nothing but that would be left, for a formula to multiply by the decay. Here each pair enters once:
//   rows I after columns J     a token of I takes the rows from it to I's end, a token of J the columns before it, blocks
//                              between all of it
//   a block's own pairs        the same of each level of its halving
#pragma once

#include "numbers.cuh"
#include "backward/gradient_anchored.cuh"
#include "backward/gradient_channel_decay.cuh"

// A block's numbers as accumulators hold them, by n-tile and half.
struct BlockShare {
  float2 of[2][2];
};

// q dq + e de of rows from i0 on, from what products have of their pairs with earlier tokens.
template <typename Element, typename Erased, typename Erase, typename Anchor>
DEVICE void close_rows(BlockShare& share, const Erase& erase, const float (&query_part)[2][4],
                       const typename Erased::Parts& left_part, int i0, int d, int q, int k, int prefix, Anchor anchor) {
  const int lane = lane_index();
  float sum[2][4] = {};
  add_anchored(sum[0], query_part[0], prefix, i0, d, anchor);
  add_anchored(sum[1], query_part[1], prefix, i0, d + 8, anchor);
  typename Erase::Sums left;
  Erased::close(left, left_part, 0, prefix, i0, d, anchor);
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int i = i0 + half * 8 + lane / 4, c = d + n * 8 + lane % 4 * 2;
      const float2 query = Neighbours<Element>::load(q, i, c), key = Neighbours<Element>::load(k, i, c);
      share.of[n][half] =
          erase.add({query.x * sum[n][half * 2], query.y * sum[n][half * 2 + 1]}, left, n, half, i, c, key);
    }
  }
}

// k kap of columns from j0 on, likewise.
template <typename Element, typename Anchor>
DEVICE void close_columns(BlockShare& share, const float (&key_part)[2][4], int j0, int d, int k, int prefix, Anchor anchor) {
  const int lane = lane_index();
  float sum[2][4] = {};
  add_anchored(sum[0], key_part[0], prefix, j0, d, anchor);
  add_anchored(sum[1], key_part[1], prefix, j0, d + 8, anchor);
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 key = Neighbours<Element>::load(k, j0 + half * 8 + lane / 4, d + n * 8 + lane % 4 * 2);
      share.of[n][half] = {key.x * sum[n][half * 2], key.y * sum[n][half * 2 + 1]};
    }
  }
}

// Rows from i0 on with the tokens of [0, end).
template <typename Element, typename Erased, typename Erase>
DEVICE void rows_after(BlockShare& share, const Erase& erase, int i0, int end, int d, int q, int k, int dp, int prefix) {
  const int lane = lane_index();
  auto anchor = [=](int) { return i0; };
  float query_part[2][4] = {};
  typename Erased::Parts left_part;
#pragma unroll 1
  for (int j0 = 0; j0 < end; j0 += 16) {
    u32 a[4], l[4] = {}, b[4];
    pack_product<Element>(b, Turned<Element, KEY>::fragment(k, j0, d), anchored_rows(prefix, j0, d, anchor));
    load_block<CHUNK>(a, dp, i0, j0, lane);
    erase.load_left(l, i0, j0);
    Element::mma(query_part[0], a, b[0], b[1]);
    Element::mma(query_part[1], a, b[2], b[3]);
    Erased::template part<Element>(left_part, l, b);
  }
  close_rows<Element, Erased>(share, erase, query_part, left_part, i0, d, q, k, prefix, anchor);
}

// Columns from j0 on with the tokens of later blocks.
template <typename Element, typename Erased, typename Erase>
DEVICE void columns_before(BlockShare& share, const Erase& erase, int j0, int d, int q, int k, int dp, int prefix) {
  auto anchor = [=](int) { return j0 + 16; };
  float key_part[2][4] = {};
#pragma unroll 1
  for (int i0 = j0 + 16; i0 < CHUNK; i0 += 16) {
    u32 a[4], l[4] = {}, b[4];
    const Fragment factor = anchored_rows(prefix, i0, d, anchor);
    pack_product<Element>(b, Turned<Element, KEY>::fragment(q, i0, d), factor);
    load_pairs_transposed(a, dp, i0, j0);
    Element::mma(key_part[0], a, b[0], b[1]);
    Element::mma(key_part[1], a, b[2], b[3]);
    Erased::load(l, erase, i0, j0);
    Erased::template add<Element>(key_part, erase, l, Turned<Element, KEY>::fragment(k, i0, d), factor, i0, d);
  }
  close_columns<Element>(share, key_part, j0, d, k, prefix, anchor);
}

// Sums over the rows of eight that a half has, a row to every four lanes: from each row to the last of its group of h.
DEVICE float sum_on(float x, int h) {
  const int r = lane_index() / 4 % h;
#pragma unroll
  for (int step = 1; step < 8; step *= 2) {
    const float other = __shfl_down_sync(0xffffffffu, x, step * 4);
    if (r + step < h) x += other;
  }
  return x;
}

// Before each row, from the first of its group.
DEVICE float sum_before(float x, int h) {
  const int r = lane_index() / 4 % h;
  float sum = x;
#pragma unroll
  for (int step = 1; step < 8; step *= 2) {
    const float other = __shfl_up_sync(0xffffffffu, sum, step * 4);
    if (r >= step) sum += other;
  }
  const float before = __shfl_up_sync(0xffffffffu, sum, 4);
  return r == 0 ? 0.0f : before;
}

DEVICE float2 sum_on(float2 x, int h) { return {sum_on(x.x, h), sum_on(x.y, h)}; }
DEVICE float2 sum_before(float2 x, int h) { return {sum_before(x.x, h), sum_before(x.y, h)}; }
DEVICE float2 sum_rows(float2 x) {
#pragma unroll
  for (int step = 4; step < 32; step *= 2) {
    x.x += __shfl_xor_sync(0xffffffffu, x.x, step);
    x.y += __shfl_xor_sync(0xffffffffu, x.y, step);
  }
  return x;
}
DEVICE float2 sum_two(float2 x, float2 y) { return {x.x + y.x, x.y + y.y}; }

// One level of a block's halving: its later rows with its earlier columns.
template <typename Element, typename Erased, typename Erase>
DEVICE void straddle_level(BlockShare& dg, const Erase& erase, int row, int d, int q, int k, int dp, int prefix, int h) {
  const int lane = lane_index();
  auto anchor = [=](int r) { return row + ((r - row) & -2 * h) + h; };
  const Fragment factor = anchored_rows(prefix, row, d, anchor);
  const Fragment key = Turned<Element, KEY>::fragment(k, row, d), query = Turned<Element, KEY>::fragment(q, row, d);
  BlockShare later, earlier;
  {
    float query_part[2][4] = {};
    typename Erased::Parts left_part;
    u32 a[4], l[4] = {}, b[4];
    pack_product<Element>(b, key, factor);
    load_block<CHUNK>(a, dp, row, row, lane);
    keep_level(a, h);
    Element::mma(query_part[0], a, b[0], b[1]);
    Element::mma(query_part[1], a, b[2], b[3]);
    erase.load_left(l, row, row);
    Erased::keep(l, h);
    Erased::template part<Element>(left_part, l, b);
    close_rows<Element, Erased>(later, erase, query_part, left_part, row, d, q, k, prefix, anchor);
  }
  {
    float key_part[2][4] = {};
    u32 a[4], l[4] = {}, b[4];
    pack_product<Element>(b, query, factor);
    load_pairs_transposed(a, dp, row, row);
    keep_level(a, h);
    Element::mma(key_part[0], a, b[0], b[1]);
    Element::mma(key_part[1], a, b[2], b[3]);
    Erased::load(l, erase, row, row);
    Erased::keep(l, h);
    Erased::template add<Element>(key_part, erase, l, key, factor, row, d);
    close_columns<Element>(earlier, key_part, row, d, k, prefix, anchor);
  }
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool is_later = h == 8 ? half == 1 : (lane / 4 & h) != 0;
      const float2 on = sum_on(later.of[n][half], h), before = sum_before(earlier.of[n][half], h);
      dg.of[n][half] = sum_two(dg.of[n][half], is_later ? on : before);
    }
  }
}

// dg of a warp's tokens and channels as far as pairs of the chunk's tokens go.
template <typename Element, typename Erased, typename Words, typename Erase>
DEVICE void straddle_pairs(Words& words, const Erase& erase, const KeyTask& task, int q, int k, int dp, int prefix) {
  const int row = task.row;
#pragma unroll
  for (int g = 0; g < SLICE_GROUPS; ++g) {
    if (g >= task.groups) break;
    const int d = (task.group + g) * 16;
    BlockShare dg = {}, share;
    if (row > 0) {
      rows_after<Element, Erased>(share, erase, row, row, d, q, k, dp, prefix);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        dg.of[n][0] = sum_two(dg.of[n][0], sum_two(sum_on(share.of[n][0], 8), sum_rows(share.of[n][1])));
        dg.of[n][1] = sum_two(dg.of[n][1], sum_on(share.of[n][1], 8));
      }
    }
    if (row + 16 < CHUNK) {
      columns_before<Element, Erased>(share, erase, row, d, q, k, dp, prefix);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        dg.of[n][0] = sum_two(dg.of[n][0], sum_before(share.of[n][0], 8));
        dg.of[n][1] = sum_two(dg.of[n][1], sum_two(sum_before(share.of[n][1], 8), sum_rows(share.of[n][0])));
      }
    }
    if (row > 0) {
#pragma unroll 1
      for (int i0 = row + 16; i0 < CHUNK; i0 += 16) {
        rows_after<Element, Erased>(share, erase, i0, row, d, q, k, dp, prefix);
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          const float2 all = sum_rows(sum_two(share.of[n][0], share.of[n][1]));
          dg.of[n][0] = sum_two(dg.of[n][0], all);
          dg.of[n][1] = sum_two(dg.of[n][1], all);
        }
      }
    }
#pragma unroll 1
    for (int h = 8; h > 0; h /= 2) straddle_level<Element, Erased>(dg, erase, row, d, q, k, dp, prefix, h);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) words.dg[g * 2 + n][half] = sum_two(words.dg[g * 2 + n][half], dg.of[n][half]);
    }
  }
}

// State terms: what rows i >= t read of the state before the chunk, what tokens j < t gave to the state after it, and what
// passed from one to the other. Rows' terms wait in memory, in float32, for their reverse sum; those of tokens before are
// summed forward, for the difference of two sums would leave rounding where decay is strong. TAIL has a row more than blocks,
// for what passed through.
template <typename Element, int TAIL>
struct StraddleDecayGradient : ChannelDecayGradient<Element, TAIL> {
  using Base = ChannelDecayGradient<Element, TAIL>;
  using Words = typename Base::Words;
  struct Tail : Base::Tail {
    typename Base::Tail passed;
  };

  METHOD void overlap(Tail& tail, const KeyTask& task, int kept, int kept_grad, int tiles) const {
    Base::overlap(tail.passed, task, kept, kept_grad, tiles);
  }
  METHOD void raise(Tail& tail, float factor) const {
    Base::raise(tail, factor);
    Base::raise(tail.passed, factor);
  }
  METHOD void close_tail(const Tail& tail, const KeyTask& task) const {
    const int lane = lane_index();
    Base::close_tail(tail, task);
#pragma unroll
    for (int n = 0; n < SLICE_GROUPS * 2; ++n) {
      const int d = (task.group * 2 + n) * 8 + lane * 2;
      if (task.row == 0 && n < task.groups * 2 && lane < 4) at<float2>(TAIL + (BLOCKS * KEY + d) * 4) = tail.passed.sum[n];
    }
  }

  template <typename Erase>
  METHOD void note_states(Words& words, const KeySums& sums, const typename Erase::Sums& left, const Erase& erase,
                          const KeyTask& task, int q, int k, float* rows, i64 stride, int exist) const {
    const int lane = lane_index();
#pragma unroll
    for (int n = 0; n < SLICE_GROUPS * 2; ++n) {
      if (n >= task.groups * 2) break;
      float2 given[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int i = task.row + half * 8 + lane / 4, d = (task.group * 2 + n) * 8 + lane % 4 * 2;
        const float2 query = Neighbours<Element>::load(q, i, d), key = Neighbours<Element>::load(k, i, d);
        const float2 read = erase.add({query.x * sums.q[n][half * 2], query.y * sums.q[n][half * 2 + 1]}, left, n, half, i, d, key);
        if (i < exist) *reinterpret_cast<float2*>(rows + i * stride + d) = read;
        given[half] = {key.x * sums.k[n][half * 2], key.y * sums.k[n][half * 2 + 1]};
      }
      words.dg[n][0] = sum_before(given[0], 8);
      words.dg[n][1] = sum_two(sum_before(given[1], 8), sum_rows(given[0]));
    }
  }
  METHOD void note(Words&, int, int, float2) const {}

  // A channel to a thread.
  METHOD void write(float* rows, i64 stride, int exist) const {
    for (int d = thread_index(); d < KEY; d += THREADS) {
      float before[BLOCKS];
      float given = at<float>(TAIL + (BLOCKS * KEY + d) * 4);
#pragma unroll
      for (int block = 0; block < BLOCKS; ++block) {
        before[block] = given;
        given += at<float>(TAIL + (block * KEY + d) * 4);
      }
      float read = 0.0f;
#pragma unroll
      for (int block = BLOCKS - 1; block >= 0; --block) {
#pragma unroll 4
        for (int t = block * 16 + 15; t >= block * 16; --t) {
          if (t < exist) {
            read += rows[t * stride + d];
            rows[t * stride + d] = read + before[block] + at<float>(Base::prefix + Tile<KEY, 4>::offset(t, d));
          }
        }
      }
    }
  }
};
