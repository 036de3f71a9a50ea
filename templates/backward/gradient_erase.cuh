// The erase gate in the gradients along K: de and what it gives to k and to the gate.
#pragma once

#include "numbers.cuh"
#include "backward/gradient_keys.cuh"

struct NoKeyErase {
  struct Sums {};
  struct Words {};
  METHOD void load_residual(u32 (&)[4], int, int) const {}
  METHOD void load_left(u32 (&)[4], int, int) const {}
  METHOD void multiply(Sums&, int, const u32 (&)[4], u32, u32) const {}
  METHOD void raise(Sums&, float) const {}
  METHOD void scale(Sums&, int, int, float2) const {}
  METHOD float2 add(float2 x, const Sums&, int, int, int, int, float2) const { return x; }
  METHOD float2 share(const Sums&, Words&, int, int, int, int, float2) const { return {0.0f, 0.0f}; }
};

// What the two kinds of gate share: dR and dL as operands, and the sums.
template <typename Element, int DR, int DL>
struct KeyErase {
  struct Sums {
    float e[SLICE_GROUPS * 2][4] = {};
  };
  METHOD void load_residual(u32 (&a)[4], int tile, int row) const { load_tokens(a, DR + tile * SLICE<Element>, row); }
  METHOD void load_left(u32 (&a)[4], int i0, int j0) const { load_block<CHUNK>(a, DL, i0, j0, lane_index()); }
  METHOD void multiply(Sums& sums, int n, const u32 (&a)[4], u32 b0, u32 b1) const {
    Element::mma(sums.e[n], a, b0, b1);
  }
  METHOD void raise(Sums& sums, float factor) const { change_unit(sums.e, factor); }
  METHOD void scale(Sums& sums, int n, int half, float2 factor) const {
    sums.e[n][half * 2] *= factor.x;
    sums.e[n][half * 2 + 1] *= factor.y;
  }
};

// One number per token, BETA a vector. Its gradient is a sum over K, kept per row until the warp is done.
template <typename Element, int DR, int DL, int BETA>
struct TokenKeyErase : KeyErase<Element, DR, DL> {
  using Sums = typename KeyErase<Element, DR, DL>::Sums;
  struct Words {
    float row[2] = {};
  };

  // dL transposed, its depth scaled by beta: e = beta k.
  METHOD void load_left_transposed(u32 (&a)[4], int i0, int j0) const {
    const int lane = lane_index();
    u32 raw[4];
    load_pairs_transposed(raw, DL, i0, j0);
    const int i = i0 + lane % 4 * 2;
    const float2 near = at<float2>(BETA + i * 4), far = at<float2>(BETA + (i + 8) * 4);
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const float2 beta = r < 2 ? near : far;
      a[r] = Element::pack(Element::low(raw[r]) * beta.x, Element::high(raw[r]) * beta.y);
    }
  }
  METHOD void load_erased(u32 (&b)[4], int k, int row, int d) const { load_block_transposed<KEY>(b, k, row, d, lane_index()); }
  METHOD Fragment erased(const Fragment& k, int, int) const { return k; }

  // x + e de.
  METHOD float2 add(float2 x, const Sums& sums, int n, int half, int i, int, float2 key) const {
    const float beta = at<float>(BETA + i * 4);
    return {x.x + beta * key.x * sums.e[n][half * 2], x.y + beta * key.y * sums.e[n][half * 2 + 1]};
  }

  // b de, the gate's gradient noted.
  METHOD float2 share(const Sums& sums, Words& words, int n, int half, int i, int d, float2 key) const {
    const float beta = at<float>(BETA + i * 4);
    words.row[half] += key.x * sums.e[n][half * 2] + key.y * sums.e[n][half * 2 + 1];
    return {beta * sums.e[n][half * 2], beta * sums.e[n][half * 2 + 1]};
  }
  METHOD void finish(const Words& words, const KeyTask& task, int partial) const {
    const int lane = lane_index();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = sum_quad(words.row[half]);
      const int row = task.row + half * 8 + lane / 4;
      if (task.groups > 0 && lane % 4 == 0) at<float>(partial + (task.slice * CHUNK + row) * 4) = sum;
    }
  }
};

// One number per channel, in a tile stored as T; its gradient goes over that tile once every warp is done with it.
template <typename Element, typename T, int DR, int DL>
struct ChannelKeyErase : KeyErase<Element, DR, DL> {
  using Sums = typename KeyErase<Element, DR, DL>::Sums;
  struct Words {
    typename Neighbours<T>::Word gate[SLICE_GROUPS * 2][2];
  };
  int b;
  int e;  // tile of b k, where no decay scales it anew

  METHOD void load_left_transposed(u32 (&a)[4], int i0, int j0) const { load_pairs_transposed(a, DL, i0, j0); }
  METHOD void load_erased(u32 (&operand)[4], int, int row, int d) const {
    const int lane = lane_index();
    load_block_transposed<KEY>(operand, e, row, d, lane);
  }
  METHOD Fragment erased(const Fragment& k, int row, int d) const {
    Fragment x = Turned<T, KEY>::fragment(b, row, d);
#pragma unroll
    for (int p = 0; p < 4; ++p) x.pair[p] = {x.pair[p].x * k.pair[p].x, x.pair[p].y * k.pair[p].y};
    return x;
  }
  METHOD float2 add(float2 x, const Sums& sums, int n, int half, int i, int d, float2 key) const {
    const float2 gate = Neighbours<T>::load(b, i, d);
    return {x.x + gate.x * key.x * sums.e[n][half * 2], x.y + gate.y * key.y * sums.e[n][half * 2 + 1]};
  }
  METHOD float2 share(const Sums& sums, Words& words, int n, int half, int i, int d, float2 key) const {
    const float2 gate = Neighbours<T>::load(b, i, d);
    const float2 de = {sums.e[n][half * 2], sums.e[n][half * 2 + 1]};
    words.gate[n][half] = Neighbours<T>::pack({key.x * de.x, key.y * de.y});
    return {gate.x * de.x, gate.y * de.y};
  }
  METHOD void store(const Words& words, const KeyTask& task) const {
    each_pair(task, [&](int n, int half, int i, int d) { Neighbours<T>::store(b, i, d, words.gate[n][half]); });
  }
};
