// Gradients of the scores, in the registers of a warpgroup: of queries' by one, of erased keys' by the other.
//   dP_ij = scale D(j, i) (dO_i . N_j)   i >= j        dL_ij = -D(j, i) (dR_i . N_j)   i > j
// with D(j, i) the decay after token j through token i, as `pair_scores.cuh` has it.
//
// Each pair i > j gives W_ij = dP_ij P_ij + dL_ij L_ij to the decays of the tokens after j up to i: added to dG at i, taken off
// at j. W is float32 throughout: where keys repeat it cancels, and of sums over K of q dq - k dk, whose operands dP and dL are
// rounded, too little would be left.
#pragma once

#include "backward/wgmma/column_sums.cuh"
#include "forward/wgmma/blocks.cuh"
#include "forward/wgmma/products.cuh"
#include "forward/wgmma/ring.cuh"
#include "numbers.cuh"

// What the warp's 16 tokens and every other have of each other, as operands: a block of 16 tokens each.
using PairWords = u32[CHUNK / 16][4];

DEVICE void store_pairs(int tile, const PairWords& words, int block, int lane) {
  const RowCursor<CHUNK> to(tile, block * 16, lane);
#pragma unroll
  for (int other = 0; other < CHUNK / 16; ++other) to.store(words[other], other * 16);
}

template <class Cfg, bool QUERIES>
DEVICE int pair_rows() {
  if constexpr (QUERIES) return Cfg::SMEM_DO;
  else return Cfg::SMEM_DR;
}

template <class Cfg>
DEVICE int gated_tile() {
  if constexpr (Cfg::ERASE) return Cfg::SMEM_GATED;
  else return 0;
}

// The rows of blocks of the warp's 16 tokens. `rows`: what they add to dG of these tokens.
template <class Cfg, bool QUERIES>
DEVICE void pair_gradients(PairWords& words, float (&rows)[2], const Buffer<Cfg>& buffer, float scale, int block) {
  using Element = typename Cfg::Element;
  const int lane = lane_index();
  float d[CHUNK / 8][4], raw[CHUNK / 8][4];
  const ByRows<CHUNK> left(pair_rows<Cfg, QUERIES>()), writes(Cfg::SMEM_N);
  const ByColumns<KEY> keys(buffer.keys()), near(QUERIES ? buffer.queries() : buffer.erased());
  products_begin();
#pragma unroll
  for (int s = 0; s < VALUE / 16 || s < KEY / 16; ++s) {  // in turn: a product waits for the one before on its sums
    if (s < VALUE / 16) multiply_turned<1, 1>(d, left.step(s), writes.step(s), s > 0);
    if (Cfg::DECAY && s < KEY / 16) multiply_tiles(raw, near.step(s), keys.step(s), s > 0);
  }
  products_commit();
  if constexpr (Cfg::DECAY) products_wait<0>(d, raw);
  else products_wait<0>(d);

  const int first = block * 16 + lane / 4, apart = first - lane % 4 * 2;  // of the lane's first row; and of its first column
  float gamma[2] = {}, gate[2] = {1.0f, 1.0f};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if constexpr (Cfg::DECAY) gamma[half] = at<float>(buffer.vector(Cfg::SMEM_GAMMA) + (first + half * 8) * 4);
    if constexpr (!QUERIES) gate[half] = at<float>(buffer.vector(Cfg::SMEM_BETA) + (first + half * 8) * 4);
  }
  const RowCursor<CHUNK> gated(gated_tile<Cfg>(), block * 16, lane);
#pragma unroll
  for (int other = 0; other < CHUNK / 16; ++other) {
    float column[2][2] = {};  // sums of W
    u32 by_gate[4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int n = other * 2 + i;
      float2 until = {0.0f, 0.0f};
      if constexpr (Cfg::DECAY) until = Columns(buffer.vector(Cfg::SMEM_GAMMA), lane)[n];
      float x[4];
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int later = apart + c / 2 * 8 - n * 8 - c % 2;  // tokens from the column's to the row's
        float factor = QUERIES ? scale : -1.0f;
        if constexpr (Cfg::DECAY) factor *= exp2(gamma[c / 2] - (c % 2 ? until.y : until.x));
        x[c] = (QUERIES ? later >= 0 : later > 0) ? d[n][c] * factor : 0.0f;
        if constexpr (Cfg::DECAY) {
          float w = x[c] * raw[n][c];
          if constexpr (QUERIES) w = later == 0 ? 0.0f : w;
          else w *= gate[c / 2];
          rows[c / 2] += w;
          column[i][c % 2] += w;
        }
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float near = x[half * 2], far = x[half * 2 + 1];
        words[other][i * 2 + half] = Element::pack(near, far);
        if constexpr (!QUERIES) by_gate[i * 2 + half] = Element::pack(near * gate[half], far * gate[half]);
      }
    }
    pin(words[other]);  // now, or the products would be kept for it
    if constexpr (!QUERIES) gated.store(by_gate, other * 16);
    if constexpr (Cfg::DECAY) {
      const float sum = sum_block_columns(column, lane);
      const int sums = Cfg::SMEM_DECAY_ROWS + ((QUERIES ? 0 : BLOCKS) + block) * (CHUNK * 4);
      if ((lane & 4) == 0) at<float>(sums + (other * 16 + block_column(lane)) * 4) = -sum;
    }
  }
}
