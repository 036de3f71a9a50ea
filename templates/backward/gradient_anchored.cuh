// Sums over pairs of tokens where every channel decays at its own rate. As in the scores, the factor 2^(G_i - G_j) is
// split at an anchor row between j and i, so that no exponent is above 0: the operand's rows carry one side, the
// accumulators the other.
//
// Token blocks apart are anchored at the first row of the later block (for q and e) or of the block after the earlier
// one (for k). A diagonal block is halved, 16 to 8, 4, 2, 1, and level h keeps the pairs whose rows differ there.
#pragma once

#include "numbers.cuh"
#include "backward/gradient_erase.cuh"

// 2^-|G_r - G_anchor| over a block in the order of a B operand; `anchor(r)` is the anchor of row r.
template <typename Anchor>
DEVICE Fragment anchored_rows(int sums, int row, int d, Anchor anchor) {
  const int lane = lane_index();
  Fragment x;
#pragma unroll
  for (int p = 0; p < 4; ++p) {
    const int r = row + lane % 4 * 2 + p % 2 * 8, c = d + lane / 4 + p / 2 * 8;
    const float near = at<float>(sums + Tile<KEY, 4>::offset(r, c)) - at<float>(sums + Tile<KEY, 4>::offset(anchor(r), c));
    const float far =
        at<float>(sums + Tile<KEY, 4>::offset(r + 1, c)) - at<float>(sums + Tile<KEY, 4>::offset(anchor(r + 1), c));
    x.pair[p] = {exp2(-fabsf(near)), exp2(-fabsf(far))};
  }
  return x;
}

// sum = sum + part 2^-|G_r - G_anchor| for one n-tile.
template <typename Anchor>
DEVICE void add_anchored(float (&sum)[4], const float (&part)[4], int sums, int row, int d, Anchor anchor) {
  const int lane = lane_index();
  const int col = d + lane % 4 * 2;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int r = row + half * 8 + lane / 4;
    const float2 g = at<float2>(sums + Tile<KEY, 4>::offset(r, col));
    const float2 base = at<float2>(sums + Tile<KEY, 4>::offset(anchor(r), col));
    sum[half * 2] += part[half * 2] * exp2(-fabsf(g.x - base.x));
    sum[half * 2 + 1] += part[half * 2 + 1] * exp2(-fabsf(g.y - base.y));
  }
}

// Keeps of a diagonal block of dP or dL, as an A operand, the pairs of level h: rows and depth differ there first.
DEVICE void keep_level(u32 (&a)[4], int h) {
  const int lane = lane_index();
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const int row = lane / 4 + r % 2 * 8, col = lane % 4 * 2 + r / 2 * 8;
    const int near = row ^ col, far = row ^ (col + 1);
    const u32 mask = (near >= h && near < 2 * h ? 0x0000ffffu : 0u) | (far >= h && far < 2 * h ? 0xffff0000u : 0u);
    a[r] &= mask;
  }
}

struct NoErasedAnchored {
  struct Parts {};
  template <typename Element>
  static METHOD void add(float (&)[2][4], const NoKeyErase&, const u32 (&)[4], const Fragment&, const Fragment&, int, int) {}
  static METHOD void load(u32 (&)[4], const NoKeyErase&, int, int) {}
  static METHOD void keep(u32 (&)[4], int) {}
  template <typename Element>
  static METHOD void part(Parts&, const u32 (&)[4], const u32 (&)[4]) {}
  template <typename Sums, typename Anchor>
  static METHOD void close(Sums&, const Parts&, int, int, int, int, Anchor) {}
};

struct ErasedAnchored {
  struct Parts {
    float part[2][4] = {};
  };
  // kap += dLT (e 2^...), e made anew from k's numbers.
  template <typename Element, typename Erase>
  static METHOD void add(float (&sum)[2][4], const Erase& erase, const u32 (&a)[4], const Fragment& key,
                         const Fragment& factor, int row, int d) {
    u32 b[4];
    pack_product<Element>(b, erase.erased(key, row, d), factor);
    Element::mma(sum[0], a, b[0], b[1]);
    Element::mma(sum[1], a, b[2], b[3]);
  }
  template <typename Erase>
  static METHOD void load(u32 (&a)[4], const Erase& erase, int i0, int j0) {
    erase.load_left_transposed(a, i0, j0);
  }
  static METHOD void keep(u32 (&a)[4], int h) { keep_level(a, h); }
  template <typename Element>
  static METHOD void part(Parts& parts, const u32 (&a)[4], const u32 (&b)[4]) {
    Element::mma(parts.part[0], a, b[0], b[1]);
    Element::mma(parts.part[1], a, b[2], b[3]);
  }
  template <typename Sums, typename Anchor>
  static METHOD void close(Sums& left, const Parts& parts, int n, int sums, int row, int d, Anchor anchor) {
    add_anchored(left.e[n], parts.part[0], sums, row, d, anchor);
    add_anchored(left.e[n + 1], parts.part[1], sums, row, d + 8, anchor);
  }
};

// One level of a diagonal block, 16 channels from d, accumulators from n-tile n.
template <typename Element, typename Erased, typename Erase>
DEVICE void sum_level(KeySums& sums, typename Erase::Sums& left, const Erase& erase, const KeyTask& task, int n, int d,
                      const Fragment& key, const Fragment& query, const u32 (&dp)[4], const u32 (&dl)[4],
                      const u32 (&dp_turned)[4], const u32 (&dl_turned)[4], int prefix, int h) {
  const int row = task.row;
  auto anchor = [=](int r) { return row + ((r - row) & -2 * h) + h; };
  const Fragment factor = anchored_rows(prefix, row, d, anchor);
  float query_part[2][4] = {}, key_part[2][4] = {};
  typename Erased::Parts left_part;
  u32 a[4], b[4];
#pragma unroll
  for (int r = 0; r < 4; ++r) a[r] = dp[r];
  keep_level(a, h);
  pack_product<Element>(b, key, factor);
  Element::mma(query_part[0], a, b[0], b[1]);
  Element::mma(query_part[1], a, b[2], b[3]);
#pragma unroll
  for (int r = 0; r < 4; ++r) a[r] = dl[r];
  Erased::keep(a, h);
  Erased::template part<Element>(left_part, a, b);
#pragma unroll
  for (int r = 0; r < 4; ++r) a[r] = dp_turned[r];
  keep_level(a, h);
  pack_product<Element>(b, query, factor);
  Element::mma(key_part[0], a, b[0], b[1]);
  Element::mma(key_part[1], a, b[2], b[3]);
#pragma unroll
  for (int r = 0; r < 4; ++r) a[r] = dl_turned[r];
  Erased::keep(a, h);
  Erased::template add<Element>(key_part, erase, a, key, factor, row, d);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    add_anchored(sums.q[n + half], query_part[half], prefix, row, d + half * 8, anchor);
    add_anchored(sums.k[n + half], key_part[half], prefix, row, d + half * 8, anchor);
  }
  Erased::close(left, left_part, n, prefix, row, d, anchor);
}

template <typename Element, typename Erased, typename Erase>
DEVICE void sum_pairs_anchored(KeySums& sums, typename Erase::Sums& left, const Erase& erase, const KeyTask& task, int q,
                               int k, int dp, int prefix) {
  const int lane = lane_index();
  const int row = task.row;
#pragma unroll
  for (int g = 0; g < SLICE_GROUPS; ++g) {
    if (g >= task.groups) break;
    const int d = (task.group + g) * 16, n = g * 2;
    if (row > 0) {
      float query_part[2][4] = {};
      typename Erased::Parts left_part;
      auto anchor = [=](int) { return row; };
#pragma unroll 1
      for (int j0 = 0; j0 < row; j0 += 16) {
        u32 a[4], l[4] = {}, b[4];
        pack_product<Element>(b, Turned<Element, KEY>::fragment(k, j0, d), anchored_rows(prefix, j0, d, anchor));
        load_block<CHUNK>(a, dp, row, j0, lane);
        erase.load_left(l, row, j0);
        Element::mma(query_part[0], a, b[0], b[1]);
        Element::mma(query_part[1], a, b[2], b[3]);
        Erased::template part<Element>(left_part, l, b);
      }
      add_anchored(sums.q[n], query_part[0], prefix, row, d, anchor);
      add_anchored(sums.q[n + 1], query_part[1], prefix, row, d + 8, anchor);
      Erased::close(left, left_part, n, prefix, row, d, anchor);
    }
    if (row + 16 < CHUNK) {
      float key_part[2][4] = {};
      auto anchor = [=](int) { return row + 16; };
#pragma unroll 1
      for (int i0 = row + 16; i0 < CHUNK; i0 += 16) {
        u32 a[4], l[4] = {}, b[4];
        const Fragment factor = anchored_rows(prefix, i0, d, anchor);
        pack_product<Element>(b, Turned<Element, KEY>::fragment(q, i0, d), factor);
        load_pairs_transposed(a, dp, i0, row);
        Element::mma(key_part[0], a, b[0], b[1]);
        Element::mma(key_part[1], a, b[2], b[3]);
        Erased::load(l, erase, i0, row);
        Erased::template add<Element>(key_part, erase, l, Turned<Element, KEY>::fragment(k, i0, d), factor, i0, d);
      }
      add_anchored(sums.k[n], key_part[0], prefix, row, d, anchor);
      add_anchored(sums.k[n + 1], key_part[1], prefix, row, d + 8, anchor);
    }
    const Fragment key = Turned<Element, KEY>::fragment(k, row, d), query = Turned<Element, KEY>::fragment(q, row, d);
    u32 dp_block[4], dl_block[4] = {}, dp_turned[4], dl_turned[4] = {};
    load_block<CHUNK>(dp_block, dp, row, row, lane);
    load_pairs_transposed(dp_turned, dp, row, row);
    erase.load_left(dl_block, row, row);
    Erased::load(dl_turned, erase, row, row);
    // A loop, unrolled neither here nor by the compiler: four copies of a level cost more registers than there are.
#pragma unroll 1
    for (int h = 8; h > 0; h /= 2) {
      sum_level<Element, Erased>(sums, left, erase, task, n, d, key, query, dp_block, dl_block, dp_turned, dl_turned, prefix, h);
    }
  }
}
