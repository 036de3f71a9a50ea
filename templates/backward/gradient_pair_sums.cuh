// Sums over pairs of tokens where the decay, if any, already is in dP and dL: plain products with raw q, k and e.
#pragma once

#include "numbers.cuh"
#include "backward/gradient_erase.cuh"

struct NoErasedPairs {
  template <typename Element>
  static METHOD void add(KeySums&, const NoKeyErase&, const KeyTask&, int, int) {}
};

struct ErasedPairs {
  // kap_j += sum_i dL_ij e_i.
  template <typename Element, typename Erase>
  static METHOD void add(KeySums& sums, const Erase& erase, const KeyTask& task, int i0, int k) {
    u32 a[4];
    erase.load_left_transposed(a, i0, task.row);
#pragma unroll
    for (int d = 0; d < SLICE_GROUPS; ++d) {
      if (d < task.groups) {
        u32 b[4];
        erase.load_erased(b, k, i0, (task.group + d) * 16);
        Element::mma(sums.k[d * 2], a, b[0], b[1]);
        Element::mma(sums.k[d * 2 + 1], a, b[2], b[3]);
      }
    }
  }
};

template <typename Element, typename Erased, typename Erase>
DEVICE void sum_pairs(KeySums& sums, typename Erase::Sums& left, const Erase& erase, const KeyTask& task, int q, int k,
                      int dp) {
  const int lane = lane_index();
  if (task.groups == 0) return;
  for (int j0 = 0; j0 <= task.row; j0 += 16) {
    u32 a[4], l[4];
    load_block<CHUNK>(a, dp, task.row, j0, lane);
    erase.load_left(l, task.row, j0);
#pragma unroll
    for (int d = 0; d < SLICE_GROUPS; ++d) {
      if (d < task.groups) {
        u32 b[4];
        load_block_transposed<KEY>(b, k, j0, (task.group + d) * 16, lane);
        Element::mma(sums.q[d * 2], a, b[0], b[1]);
        Element::mma(sums.q[d * 2 + 1], a, b[2], b[3]);
        erase.multiply(left, d * 2, l, b[0], b[1]);
        erase.multiply(left, d * 2 + 1, l, b[2], b[3]);
      }
    }
  }
  for (int i0 = task.row; i0 < CHUNK; i0 += 16) {
    u32 a[4];
    load_pairs_transposed(a, dp, i0, task.row);
#pragma unroll
    for (int d = 0; d < SLICE_GROUPS; ++d) {
      if (d < task.groups) {
        u32 b[4];
        load_block_transposed<KEY>(b, q, i0, (task.group + d) * 16, lane);
        Element::mma(sums.k[d * 2], a, b[0], b[1]);
        Element::mma(sums.k[d * 2 + 1], a, b[2], b[3]);
      }
    }
    Erased::template add<Element>(sums, erase, task, i0, k);
  }
}
