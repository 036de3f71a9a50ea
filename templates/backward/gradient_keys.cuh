// Gradients along K: of q, of e = b k, of k, and of the decay. A warp serves 16 tokens and SLICE_GROUPS groups of 16
// channels, in accumulators from the first product to the last:
//   dq_i = scale 2^G_i (dO ST)_i + sum_j dP_ij k_j 2^(G_i - G_j)      de_i = -2^G_i (dR ST)_i + sum_j dL_ij k_j 2^(G_i - G_j)
//   kap_j = sum_i (dP_ij q_i + dL_ij e_i) 2^(G_i - G_j)               tau_j = 2^(G_C - G_j) (N dST)_j
//   dk = kap + tau + b de     db = k de     dG = q dq + e de - k (kap + tau), the diagonal of dP left out
// Each kind of decay has its own file for the sums over pairs.
#pragma once

#include "numbers.cuh"
#include "backward/gradient_pairs.cuh"
#include "backward/write_tile.cuh"
#include "chunk/kept_layout.cuh"
#include "ptx/sums.cuh"

enum : int { KEY_GROUPS = KEY / 16 };

// What a warp serves.
struct KeyTask {
  int row;    // first token
  int slice;  // which part of K
  int group;  // its first group of 16 channels
  int groups;
  METHOD KeyTask() {
    row = warp_index() % BLOCKS * 16;
    slice = warp_index() / BLOCKS;
    group = slice * SLICE_GROUPS;
    groups = slice >= SLICES ? 0 : KEY_GROUPS - group < SLICE_GROUPS ? KEY_GROUPS - group : SLICE_GROUPS;
  }
};

struct KeySums {
  float q[SLICE_GROUPS * 2][4] = {};
  float k[SLICE_GROUPS * 2][4] = {};
};

// A kept state's words as a B operand over values whose columns are channels: {x, y} the first eight, {z, w} the rest.
DEVICE uint4 load_kept_columns(int kept, int tile, int group) {
  const int lane = lane_index();
  const uint4 words = at<uint4>(kept + tile * KEPT_TILE + group * 512 + lane * 16);
  return {transpose(words.x), transpose(words.y), transpose(words.z), transpose(words.w)};
}

// Numbers of a 16x16 block in the order of a B operand whose rows are the block's rows: pair p covers rows
// 2 (lane % 4) + 8 (p % 2) and the next, column lane / 4 + 8 (p / 2).
template <typename T, int COLS>
struct Turned {
  static METHOD Fragment fragment(int tile, int row, int col) {
    const int lane = lane_index();
    u32 block[4];
    load_block_transposed<COLS>(block, tile, row, col, lane);
    return unpack<T>(block);
  }
};

template <int COLS>
struct Turned<float, COLS> {
  static METHOD Fragment fragment(int tile, int row, int col) {
    const int lane = lane_index();
    Fragment x;
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      const int r = row + lane % 4 * 2 + p % 2 * 8, c = col + lane / 4 + p / 2 * 8;
      x.pair[p] = {at<float>(tile + Tile<COLS, 4>::offset(r, c)), at<float>(tile + Tile<COLS, 4>::offset(r + 1, c))};
    }
    return x;
  }
};

// Two neighbouring numbers of a tile's row, and back.
template <typename T>
struct Neighbours {
  using Word = u32;
  static METHOD u32 pack(float2 x) { return T::pack(x.x, x.y); }
  static METHOD float2 load(int tile, int row, int col) {
    const u32 pair = at<u32>(tile + Tile<KEY, 2>::offset(row, col));
    return {T::low(pair), T::high(pair)};
  }
  static METHOD void store(int tile, int row, int col, u32 word) { at<u32>(tile + Tile<KEY, 2>::offset(row, col)) = word; }
};

template <>
struct Neighbours<float> {
  using Word = float2;
  static METHOD float2 pack(float2 x) { return x; }
  static METHOD float2 load(int tile, int row, int col) { return at<float2>(tile + Tile<KEY, 4>::offset(row, col)); }
  static METHOD void store(int tile, int row, int col, float2 word) {
    at<float2>(tile + Tile<KEY, 4>::offset(row, col)) = word;
  }
};

// A 16x16 block of dP or dL as an A operand, and its transpose.
DEVICE void load_pairs_transposed(u32 (&a)[4], int tile, int i0, int j0) {
  const int lane = lane_index();
  u32 block[4];
  load_block_transposed<CHUNK>(block, tile, i0, j0, lane);
  a[0] = block[0];
  a[1] = block[2];
  a[2] = block[1];
  a[3] = block[3];
}

// dO ST, N dST, and through `erase` dR ST.
template <typename Element, typename Erase>
DEVICE void state_products(KeySums& sums, typename Erase::Sums& left, const Erase& erase, const KeyTask& task, int grad,
                           int n, int kept, int kept_grad, int tiles) {
#pragma unroll 1
  for (int tile = 0; tile < tiles; ++tile) {
    u32 a[4], writes[4], residual[4];
    load_tokens(a, grad + tile * SLICE<Element>, task.row);
    load_tokens(writes, n + tile * SLICE<Element>, task.row);
    erase.load_residual(residual, tile, task.row);
#pragma unroll
    for (int d = 0; d < SLICE_GROUPS; ++d) {
      if (d < task.groups) {
        const uint4 s = load_kept_columns(kept, tile, task.group + d);
        Element::mma(sums.q[d * 2], a, s.x, s.y);
        Element::mma(sums.q[d * 2 + 1], a, s.z, s.w);
        erase.multiply(left, d * 2, residual, s.x, s.y);
        erase.multiply(left, d * 2 + 1, residual, s.z, s.w);
        const uint4 ds = load_kept_columns(kept_grad, tile, task.group + d);
        Element::mma(sums.k[d * 2], writes, ds.x, ds.y);
        Element::mma(sums.k[d * 2 + 1], writes, ds.z, ds.w);
      }
    }
  }
}

// Rowsum of S dS for two neighbouring channels near and far of a group, over the tiles; all lanes of a column hold it.
template <typename Element>
DEVICE float4 state_overlap(int kept, int kept_grad, int group, int tiles) {
  const int lane = lane_index();
  float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 1
  for (int tile = 0; tile < tiles; ++tile) {
    const int at_word = tile * KEPT_TILE + group * 512 + lane * 16;
    const uint4 s = at<uint4>(kept + at_word), ds = at<uint4>(kept_grad + at_word);
    sum.x += Element::low(s.x) * Element::low(ds.x) + Element::low(s.y) * Element::low(ds.y);
    sum.y += Element::high(s.x) * Element::high(ds.x) + Element::high(s.y) * Element::high(ds.y);
    sum.z += Element::low(s.z) * Element::low(ds.z) + Element::low(s.w) * Element::low(ds.w);
    sum.w += Element::high(s.z) * Element::high(ds.z) + Element::high(s.w) * Element::high(ds.w);
  }
#pragma unroll
  for (int step = 4; step < 32; step *= 2) {
    sum.x += __shfl_xor_sync(0xffffffffu, sum.x, step);
    sum.y += __shfl_xor_sync(0xffffffffu, sum.y, step);
    sum.z += __shfl_xor_sync(0xffffffffu, sum.z, step);
    sum.w += __shfl_xor_sync(0xffffffffu, sum.w, step);
  }
  return sum;
}

// Gradients of a warp's channels, packed, until their tiles are free.
template <typename Element>
struct KeyWords {
  u32 q[SLICE_GROUPS * 2][2], k[SLICE_GROUPS * 2][2];
};

// Visits a warp's accumulators: n-tile, half, token and first of two channels.
template <typename Visit>
DEVICE void each_pair(const KeyTask& task, Visit visit) {
  const int lane = lane_index();
#pragma unroll
  for (int n = 0; n < SLICE_GROUPS * 2; ++n) {
    if (n < task.groups * 2) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        visit(n, half, task.row + half * 8 + lane / 4, (task.group * 2 + n) * 8 + lane % 4 * 2);
      }
    }
  }
}
