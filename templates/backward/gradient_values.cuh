// What a chunk wrote and what its writes were worth, 16 value rows to a warp, every chunk on its own:
//   N = M (Z - E^ S)      dN = PT dO + K^ dS      dR = MT dN      dv = w dR      dw = v dR
// with S before and dS after the chunk as they were kept.
#pragma once

#include "numbers.cuh"
#include "backward/reverse.cuh"
#include "backward/value_rows.cuh"
#include "chunk/unit.cuh"

// sum[.][t] += ST x_t over the tokens of a tile [CHUNK][KEY], S kept as operands in shared memory.
template <typename Element>
DEVICE void read_kept(float (&sum)[CHUNK / 8][4], int kept, int tile) {
  const int lane = lane_index();
  // Two steps at a time: unrolled in full, what follows would be mixed in and everything held at once.
#pragma unroll 2
  for (int d = 0; d < KEY / 16; ++d) {
    const uint4 words = at<uint4>(kept + d * 512 + lane * 16);
    const u32 a[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int t = 0; t < CHUNK / 16; ++t) {
      u32 block[4];
      load_block<KEY>(block, tile, t * 16, d * 16, lane);
      Element::mma(sum[t * 2], a, block[0], block[2]);
      Element::mma(sum[t * 2 + 1], a, block[1], block[3]);
    }
  }
}

// Starts the copy of one value tile of a kept state.
DEVICE void copy_kept(int kept, const uint4* words) {
  const int lane = lane_index();
#pragma unroll
  for (int d = 0; d < KEY / 16; ++d) {
    const int i = d * 32 + lane;
    copy_async<16>(kept + i * 16, words + i, true);
  }
}

// Nothing is erased: N = Z and dR = dN.
struct NothingErased {
  template <typename Element>
  METHOD void residual(float (&)[CHUNK / 8][4], int) const {}
  template <typename Element>
  METHOD void transposed(float (&)[CHUNK / 8][4]) const {}
};

template <typename Row, int M>
struct ErasedValues {
  int left;

  // z becomes N.
  template <typename Element>
  METHOD void residual(float (&z)[CHUNK / 8][4], int kept) const {
    const int lane = lane_index();
    float held[CHUNK / 8][4] = {};
    read_kept<Element>(held, kept, left);
    scale_tokens<Row>(held, 1.0f);
#pragma unroll
    for (int group = 0; group < CHUNK / 8; ++group) {
#pragma unroll
      for (int c = 0; c < 4; ++c) z[group][c] -= held[group][c];
    }
    u32 r[CHUNK / 16][4];
    to_operands<Element, One>(r, z);
#pragma unroll
    for (int group = 0; group < CHUNK / 8; ++group) {
#pragma unroll
      for (int c = 0; c < 4; ++c) z[group][c] = 0.0f;
    }
    multiply_triangle<Element>(z, r, M, lane);
  }

  // dN becomes dR.
  template <typename Element>
  METHOD void transposed(float (&dn)[CHUNK / 8][4]) const {
    solve_transposed<Element, M>(dn);
  }
};

// The write gate: z = w v, dv = w dR, dw = v dR.
struct NoWriteGate {
  METHOD void scale(float (&)[CHUNK / 8][4]) const {}
  template <typename Values>
  METHOD void gradient(const Values&, float (&)[CHUNK / 8][4], int) const {}
};

// One number per token. Its gradient leaves as a sum over each warp's values, [WARPS][CHUNK], added up later.
template <typename Factor, int PARTIAL>
struct TokenWriteGate {
  METHOD void scale(float (&x)[CHUNK / 8][4]) const { scale_tokens<Factor>(x, 1.0f); }
  template <typename Values>
  METHOD void gradient(const Values& v, float (&dr)[CHUNK / 8][4], int tile) const {
    const int lane = lane_index();
#pragma unroll
    for (int group = 0; group < CHUNK / 8; ++group) {
      float x[4];
      v.column(x, group);
#pragma unroll
      for (int c = 0; c < 4; ++c) x[c] *= dr[group][c];
      const float2 sum = sum_values(x);
      const int token = group * 8 + lane % 4 * 2;
      if (lane < 4) at<float2>(PARTIAL + (tile * CHUNK + token) * 4) = sum;
    }
    scale_tokens<Factor>(dr, 1.0f);
  }
};

// One number per channel, held like v; its gradient is written as it is made.
template <typename T>
struct ChannelWriteGate {
  ValueRows<T> w;
  T* rows;
  i64 stride;
  int exist;

  METHOD void scale(float (&x)[CHUNK / 8][4]) const {
#pragma unroll
    for (int group = 0; group < CHUNK / 8; ++group) {
      float factor[4];
      w.column(factor, group);
#pragma unroll
      for (int c = 0; c < 4; ++c) x[group][c] *= factor[c];
    }
  }
  template <typename Values>
  METHOD void gradient(const Values& v, float (&dr)[CHUNK / 8][4], int) const {
    float dw[CHUNK / 8][4];
#pragma unroll
    for (int group = 0; group < CHUNK / 8; ++group) {
      v.column(dw[group], group);
#pragma unroll
      for (int c = 0; c < 4; ++c) dw[group][c] *= dr[group][c];
    }
    ValueStore<T>::store(dw, rows, stride, exist);
    scale(dr);
  }
};

// N of a warp's value rows, in the unit of the state.
template <typename Element, typename Values, typename WriteGate, typename Erased>
DEVICE void chunk_writes(float (&n)[CHUNK / 8][4], const Values& v, const WriteGate& write, const Erased& erased, int kept,
                         const Unit<Element>& unit) {
#pragma unroll
  for (int group = 0; group < CHUNK / 8; ++group) v.column(n[group], group);
  write.scale(n);
  if constexpr (Unit<Element>::MOVES) change_unit(n, unit.down());
  erased.template residual<Element>(n, kept);
}

// dR of a warp's value rows.
template <typename Out, typename Element, typename Erased>
DEVICE void residual_gradients(float (&dr)[CHUNK / 8][4], const Erased& erased, int grad, int kept_grad, int k, int p,
                               float scale) {
  const int lane = lane_index();
  u32 a[CHUNK / 16][4];
  {
    float x[CHUNK / 8][4];
#pragma unroll
    for (int group = 0; group < CHUNK / 8; ++group) Slice<Element>::load(x[group], grad, group, lane);
    to_operands<Element, One>(a, x);
  }
  float held[CHUNK / 8][4] = {};
  read_kept<Element>(held, kept_grad, k);
  write_gradient<Element, Out>(dr, a, p, scale, held);
  erased.template transposed<Element>(dr);
}
