// The left operand of L = e kT where each product scales it anew, and of the residual.
#pragma once

#include "numbers.cuh"
#include "chunk/scores_anchored.cuh"

template <typename Element, typename Gate, typename Row, int L>
struct LeftAnchored {
  Gate erase;
  int tile;  // where the scaled operand of the residual goes

  using Operand = Fragment;
  struct Sums {
    float sum[2][4] = {};
  };

  METHOD Operand load(int k, int row, int d, int lane) const {
    return gate(Stored<Element, KEY>::fragment(k, row, d, lane), row, d, lane);
  }
  METHOD Operand gate(const Fragment& k, int row, int d, int lane) const { return erase.gate(k, row, d, lane); }

  METHOD void multiply(Sums& sums, const Operand& e, const Fragment& factor, const u32 (&key)[4]) const {
    u32 a[4];
    pack_product<Element>(a, e, factor);
    Element::mma(sums.sum[0], a, key[0], key[2]);
    Element::mma(sums.sum[1], a, key[1], key[3]);
  }

  METHOD void store(int i, int j, float2 value) const {
    const float row = Row::of(i);
    at<float2>(L + Tile<CHUNK, 4>::offset(i, j)) = {value.x * row, value.y * row};
  }
  METHOD void store_below(const Sums& sums, int n, int half, int i, int j) const {
    store(i, j, {sums.sum[n][half * 2], sums.sum[n][half * 2 + 1]});
  }
  template <int HIGH>
  METHOD void store_diagonal(const Sums (&sums)[2], int n, int half, int i, int j) const {
    const float2 high = {sums[0].sum[n][half * 2], sums[0].sum[n][half * 2 + 1]};
    const float2 low = {sums[1].sum[n][half * 2], sums[1].sum[n][half * 2 + 1]};
    store(i, j, diagonal_pair<HIGH>(high, low, {0.0f, 0.0f}, i, j));
  }

  // E^ for the residual, eight channels of a token.
  METHOD void scale(const float (&k)[8], const float (&into)[8], int row, int d) const {
    float e[8];
#pragma unroll
    for (int c = 0; c < 8; ++c) e[c] = k[c];
    erase.gate(e, row, d);
#pragma unroll
    for (int c = 0; c < 8; ++c) e[c] *= into[c];
    store_unit<Element, KEY>(tile, row, d, e);
  }
};
