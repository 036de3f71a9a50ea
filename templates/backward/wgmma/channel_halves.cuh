// A chunk's scores where every channel decays at its own rate, half of the channels to a warpgroup. The first has L of both
// halves in the end and makes M, the second has P.
#pragma once

#include "forward/wgmma/channel_scores.cuh"
#include "forward/wgmma/ring.cuh"
#include "numbers.cuh"

// Where a lane leaves numbers for that of the other warpgroup which has its place: [number][lane of 128].
struct Handed {
  int place;
  METHOD explicit Handed(int first, int block, int lane) : place(first + (block * 32 + lane) * 4) {}
  METHOD float& operator[](int i) const { return at<float>(place + i * 512); }
};

// Visits what of the scores is erased keys', or queries'.
template <bool QUERIES, typename Visit>
DEVICE void each_score(Scores& scores, Visit visit) {
  constexpr int HALF = QUERIES ? 0 : 2;
  int i = 0;
#pragma unroll
  for (int c = 0; c < 2; ++c) {
    visit(i++, scores.near[HALF + c]);
    visit(i++, scores.halves[HALF + c]);
  }
#pragma unroll
  for (int other = 0; other + 1 < BLOCKS; ++other) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int c = 0; c < 4; ++c) visit(i++, scores.far[other][HALF + n][c]);
    }
  }
  if constexpr (QUERIES) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int c = 0; c < 4; ++c) visit(i++, scores.own[half][c]);
    }
  }
}

enum : int {
  HANDED_ERASES = 4 + (BLOCKS - 1) * 8,  // numbers of a lane
  HANDED_QUERIES = HANDED_ERASES + 8,
};

template <class Cfg>
DEVICE void make_channel_scores(const Buffer<Cfg>& buffer, int group, int block) {
  using Element = typename Cfg::Element;
  using Factors = ChunkFactors<Cfg, 2>;
  const typename Factors::Left left{buffer};
  Scores sums = {};
  Factors factors;
  factors.score_own(sums, left, buffer);
  const int lane = lane_index();
  const Handed queries(Cfg::SMEM_HANDED, block, lane), erases(Cfg::SMEM_HANDED + HANDED_QUERIES * 512, block, lane);
  if (group == 0) each_score<true>(sums, [&](int i, float& x) { queries[i] = x; });
  else if constexpr (Cfg::ERASE) each_score<false>(sums, [&](int i, float& x) { erases[i] = x; });
  __syncthreads();
  if (group == 1) {
    each_score<true>(sums, [&](int i, float& x) { x += queries[i]; });
    clear_above(buffer.p(), block);
    store_query_scores<Element>(sums, buffer.p(), block, lane);
  } else if constexpr (Cfg::ERASE) {
    each_score<false>(sums, [&](int i, float& x) { x += erases[i]; });
    clear_above(buffer.m(), block);
    solve_rows<Element>(TurnedRowsOfL<Element, typename Factors::Left>(sums, left, block, lane), buffer.m());
  }
}
