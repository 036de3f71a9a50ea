// The gradient of a channel-wise decay: dG over the tile of prefix sums once every warp is done with it, then a reverse
// sum down each channel. TAIL: [BLOCKS][KEY], what the chunk's end adds to all tokens, in parts.
#pragma once

#include "numbers.cuh"
#include "backward/gradient_finish.cuh"

template <typename Element, int TAIL>
struct ChannelDecayGradient {
  int prefix;
  struct Tail {
    float2 sum[SLICE_GROUPS * 2] = {};
  };
  struct Words {
    float2 dg[SLICE_GROUPS * 2][2];
  };

  METHOD float2 into(int i, int d) const {
    const float2 g = Neighbours<float>::load(prefix, i, d);
    return {exp2(g.x), exp2(g.y)};
  }
  METHOD float2 out(int i, int d) const {
    const float2 g = Neighbours<float>::load(prefix, i, d), end = Neighbours<float>::load(prefix, CHUNK - 1, d);
    return {exp2(end.x - g.x), exp2(end.y - g.y)};
  }

  // S dS of each channel, carried past the whole chunk; counted once, by the warps of the first tokens, in one lane.
  METHOD void overlap(Tail& tail, const KeyTask& task, int kept, int kept_grad, int tiles) const {
    const int lane = lane_index();
    if (task.row != 0) return;
#pragma unroll
    for (int g = 0; g < SLICE_GROUPS; ++g) {
      if (g < task.groups) {
        const int d = (task.group + g) * 16 + lane % 4 * 2;
        const float4 sum = state_overlap<Element>(kept, kept_grad, task.group + g, tiles);
        const float2 near = into(CHUNK - 1, d), far = into(CHUNK - 1, d + 8);
        if (lane < 4) {
          tail.sum[g * 2].x += sum.x * near.x;
          tail.sum[g * 2].y += sum.y * near.y;
          tail.sum[g * 2 + 1].x += sum.z * far.x;
          tail.sum[g * 2 + 1].y += sum.w * far.y;
        }
      }
    }
  }
  METHOD void note_tail(Tail& tail, int n, float2 key, float2 tau) const {
    tail.sum[n].x += key.x * tau.x;
    tail.sum[n].y += key.y * tau.y;
  }
  METHOD void raise(Tail& tail, float factor) const {
#pragma unroll
    for (int n = 0; n < SLICE_GROUPS * 2; ++n) {
      tail.sum[n].x *= factor;
      tail.sum[n].y *= factor;
    }
  }
  METHOD void close_tail(const Tail& tail, const KeyTask& task) const {
    const int lane = lane_index();
#pragma unroll
    for (int n = 0; n < SLICE_GROUPS * 2; ++n) {
      float2 sum = tail.sum[n];
#pragma unroll
      for (int step = 4; step < 32; step *= 2) {
        sum.x += __shfl_xor_sync(0xffffffffu, sum.x, step);
        sum.y += __shfl_xor_sync(0xffffffffu, sum.y, step);
      }
      const int d = (task.group * 2 + n) * 8 + lane * 2;
      if (n < task.groups * 2 && lane < 4) at<float2>(TAIL + (task.row / 16 * KEY + d) * 4) = sum;
    }
  }

  METHOD void note_state(Words&, int, float2) const {}
  METHOD void note(Words& words, int n, int half, float2 dg) const { words.dg[n][half] = dg; }
  METHOD void finish(const Words&, const KeyTask&) const {}
  METHOD void store(const Words& words, const KeyTask& task) const {
    each_pair(task, [&](int n, int half, int i, int d) { Neighbours<float>::store(prefix, i, d, words.dg[n][half]); });
  }

  // dg_t = sum over i >= t of dG_i, and the tail; a channel to a thread.
  template <typename T>
  METHOD void write(T* rows, i64 stride, int exist) const {
    for (int d = thread_index(); d < KEY; d += THREADS) {
      float sum = 0.0f;
      for (int block = 0; block < BLOCKS; ++block) sum += at<float>(TAIL + (block * KEY + d) * 4);
#pragma unroll 8
      for (int t = CHUNK - 1; t >= 0; --t) {
        sum += at<float>(prefix + Tile<KEY, 4>::offset(t, d));
        if (t < exist) store_number(rows + t * stride + d, sum);
      }
    }
  }
};
