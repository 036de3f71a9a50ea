// The gradient of a decay with one number per token. Every pair i > j gives W_ij = dP_ij P_ij + dL_ij L_ij to the tokens
// after j up to i: added to dG at i, taken off at j. What the state gives is a sum over K, and the chunk's end adds to
// all tokens alike.
//
// W comes from accumulators in float32. Where keys repeat, W cancels: of sums over K of q dq - k dk, whose operands dP and
// dL are rounded, too little would be left.
//
// INTO, OUT: vectors of 2^G and 2^(G_C - G). ROWS: [SLICES + BLOCKS][CHUNK] partial sums of dG; TAIL: one number per warp.
#pragma once

#include "numbers.cuh"
#include "backward/gradient_finish.cuh"
#include "chunk/scores_pair.cuh"
#include "chunk/token_gates.cuh"
#include "ptx/sums.cuh"

template <typename Element, typename Left, int ROWS>
struct TokenPairTotals {
  Left left;
  int q, k;
  struct Block {
    float scores[2][4] = {};
    typename Left::Sums erased;
    float row[2] = {};
    float2 column[2] = {};
  };

  METHOD void multiply(Block& block, int i0, int j0) const {
    raw_scores<Element>(block.scores, block.erased, left, q, k, i0, j0);
  }

  METHOD void add(Block& block, int n, int half, int i, int j, float2 decay, float2 p, float2 l) const {
    const float2 own = {p.x * block.scores[n][half * 2], p.y * block.scores[n][half * 2 + 1]};
    const float2 all = left.add(own, block.erased, n, half, i, l);
    const float2 w = {i > j ? all.x * decay.x : 0.0f, i > j + 1 ? all.y * decay.y : 0.0f};
    block.row[half] += w.x + w.y;
    block.column[n].x += w.x;
    block.column[n].y += w.y;
  }

  // Each pair of token blocks has a part of its own at either.
  METHOD void store(const Block& block, int i0, int j0) const {
    const int lane = lane_index();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = sum_quad(block.row[half]);
      if (lane % 4 == 0) at<float>(part(j0) + (i0 + half * 8 + lane / 4) * 4) = sum;
    }
    __syncwarp();
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      float2 sum = block.column[n];
#pragma unroll
      for (int step = 4; step < 32; step *= 2) {
        sum.x += __shfl_xor_sync(0xffffffffu, sum.x, step);
        sum.y += __shfl_xor_sync(0xffffffffu, sum.y, step);
      }
      float2& at_j = at<float2>(part(i0) + (j0 + n * 8 + lane * 2) * 4);
      if (lane < 4) at_j = i0 == j0 ? float2{at_j.x - sum.x, at_j.y - sum.y} : float2{-sum.x, -sum.y};
    }
  }

  static METHOD int part(int row) { return ROWS + (SLICES + row / 16) * CHUNK * 4; }
};

template <typename Element, int INTO, int OUT, int ROWS, int TAIL>
struct TokenDecayGradient {
  struct Tail {
    float sum = 0.0f;
  };
  struct Words {
    float row[2] = {};
  };

  METHOD float2 into(int i, int) const { return {at<float>(INTO + i * 4), at<float>(INTO + i * 4)}; }
  METHOD float2 out(int i, int) const { return {at<float>(OUT + i * 4), at<float>(OUT + i * 4)}; }

  // S dS over a group of channels, carried past the whole chunk; counted once, by the warps of the first tokens.
  METHOD void overlap(Tail& tail, const KeyTask& task, int kept, int kept_grad, int tiles) const {
    const int lane = lane_index();
    if (task.row != 0) return;
    const float carry = at<float>(INTO + (CHUNK - 1) * 4);
    for (int g = 0; g < task.groups; ++g) {
      const float4 sum = state_overlap<Element>(kept, kept_grad, task.group + g, tiles);
      if (lane < 4) tail.sum += (sum.x + sum.y + sum.z + sum.w) * carry;
    }
  }
  METHOD void note_tail(Tail& tail, int, float2 key, float2 tau) const { tail.sum += key.x * tau.x + key.y * tau.y; }
  METHOD void raise(Tail& tail, float factor) const { tail.sum *= factor; }
  METHOD void close_tail(const Tail& tail, const KeyTask&) const {
    const int lane = lane_index();
    const float sum = sum_warp(tail.sum);
    if (lane == 0) at<float>(TAIL + warp_index() * 4) = sum;
  }

  METHOD void note_state(Words& words, int half, float2 dg) const { words.row[half] += dg.x + dg.y; }
  METHOD void note(Words&, int, int, float2) const {}
  METHOD void finish(const Words& words, const KeyTask& task) const {
    const int lane = lane_index();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = sum_quad(words.row[half]);
      const int row = task.row + half * 8 + lane / 4;
      if (task.groups > 0 && lane % 4 == 0) at<float>(ROWS + (task.slice * CHUNK + row) * 4) = sum;
    }
  }

  // dg_t = sum over i >= t of dG_i, and the tail; one warp.
  template <typename T>
  METHOD void write(T* rows, i64 stride, int exist) const {
    const int lane = lane_index();
    float after = 0.0f;
    for (int warp = 0; warp < WARPS; ++warp) after += at<float>(TAIL + warp * 4);
#pragma unroll
    for (int r = TOKEN_ROWS - 1; r >= 0; --r) {
      const int token = r * 32 + lane;
      float sum = token < CHUNK ? sum_partials<SLICES + BLOCKS>(ROWS, token) : 0.0f;
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const float other = __shfl_down_sync(0xffffffffu, sum, step);
        if (lane + step < 32) sum += other;
      }
      sum += after;
      after = __shfl_sync(0xffffffffu, sum, 0);
      if (token < exist && token < CHUNK) store_number(rows + token * stride, sum);
    }
  }
};
