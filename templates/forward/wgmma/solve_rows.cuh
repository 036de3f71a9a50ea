// M = (I + L)^-1, unit lower triangular, in 16x16 blocks: a block of rows to a warp, whose L is in its registers.
//   M_II by substitution in its 8x8 blocks, each row rounded before later ones are computed from it
//   M_IJ = -M_II (sum over J <= B < I of L_IB M_BJ)
// Each entry is rounded to the operand type before later blocks are computed from it: they make up for what the rounding
// changed, as a token erases what the tokens before it really wrote. So M is exact as an operand, and L and the sums are
// two operands each, about 16 bits.
#pragma once

#include "forward/wgmma/blocks.cuh"
#include "forward/wgmma/ring.cuh"
#include "numbers.cuh"
#include "tile/tile.cuh"

// Float32 pairs as a sum of two operands.
template <typename Element>
struct Halved {
  u32 high, low;
  METHOD Halved(float x, float y) : high(Element::pack(x, y)) {
    low = Element::pack(x - Element::low(high), y - Element::high(high));
  }
};

template <typename T>
DEVICE T from_lane(T x, int lane) {
  return __shfl_sync(0xffffffffu, x, lane);
}

// Inverses of I + l for two strictly lower triangular 8x8 blocks, in accumulator layout. Two rows a round: every lane makes
// the second from the first for itself, and waits for half as many exchanges.
template <typename Element>
DEVICE void invert_near(u32 (&x)[2], const float (&l)[2][2], int lane) {
  const int row = lane / 4, col = lane % 4 * 2;
  float sum[2][2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    sum[half][0] = row == col ? 1.0f : 0.0f;
    sum[half][1] = row == col + 1 ? 1.0f : 0.0f;
  }
#pragma unroll
  for (int j = 0; j < 7; j += 2) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float(&mine)[2] = sum[half];
      const u32 first = from_lane(Element::pack(mine[0], mine[1]), j * 4 + lane % 4);
      const float by_first = from_lane(l[half][0], row * 4 + j / 2);
      if (j == 6) {
        if (row > 6) {
          mine[0] -= by_first * Element::low(first);
          mine[1] -= by_first * Element::high(first);
        }
        continue;
      }
      const int next = (j + 1) * 4;
      const float between = from_lane(l[half][0], next + j / 2), by_second = from_lane(l[half][1], row * 4 + j / 2);
      float other[2] = {from_lane(mine[0], next + lane % 4), from_lane(mine[1], next + lane % 4)};
      other[0] -= between * Element::low(first);
      other[1] -= between * Element::high(first);
      const u32 second = Element::pack(other[0], other[1]);
      if (row > j) {
        mine[0] -= by_first * Element::low(first);
        mine[1] -= by_first * Element::high(first);
      }
      if (row > j + 1) {
        mine[0] -= by_second * Element::low(second);
        mine[1] -= by_second * Element::high(second);
      }
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) x[half] = Element::pack(sum[half][0], sum[half][1]);
}

// The inverse of I + L of a diagonal block, as an operand.
template <typename Element>
DEVICE void invert_block(u32 (&x)[4], const float (&near)[2][2], const float (&halves)[2], int lane) {
  u32 inverse[2];
  invert_near<Element>(inverse, near, lane);
  const Halved<Element> l(halves[0], halves[1]);
  float y[4] = {}, z[4] = {};
  const u32 lower[4] = {l.high, 0, l.low, 0}, above = transpose(inverse[0]);
  Element::mma(y, lower, above, above);
  const Halved<Element> product(y[0], y[1]);
  const u32 beside[4] = {inverse[1], 0, inverse[1], 0};
  Element::mma(z, beside, transpose(product.high), transpose(product.low));
  x[0] = inverse[0];
  x[1] = Element::pack(-z[0], -z[1]);
  x[2] = 0;
  x[3] = inverse[1];
}


// Sums of L_IB M_BJ for one J: a 16x16 block as two accumulators.
template <typename Element>
struct BlockSums {
  float column[2][4];

  METHOD void add(const u32 (&high)[4], const u32 (&low)[4], const RowCursor<CHUNK>& m, int row, int col) {
    u32 y[4];
    m.load_transposed(y, col, row);
    Element::mma(column[0], low, y[0], y[1]);
    Element::mma(column[1], low, y[2], y[3]);
    Element::mma(column[0], high, y[0], y[1]);
    Element::mma(column[1], high, y[2], y[3]);
  }

  // -x times the sums, as a block of M.
  METHOD void finish(const u32 (&x)[4], const RowCursor<CHUNK>& m, int col) const {
    float product[2][4] = {};
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const Halved<Element> upper(column[n][0], column[n][1]), lower(column[n][2], column[n][3]);
      Element::mma(product[n], x, transpose(upper.low), transpose(lower.low));
      Element::mma(product[n], x, transpose(upper.high), transpose(lower.high));
    }
    u32 pairs[4];
#pragma unroll
    for (int p = 0; p < 4; ++p) pairs[p] = Element::pack(-product[p / 2][p % 2 * 2], -product[p / 2][p % 2 * 2 + 1]);
    m.store(pairs, col);
  }
};

// `l` is what the warp has of L: `near`, `halves` and `operand` of the blocks left of its own. A warp without a block only
// meets the others.
template <typename Element, typename Rows>
DEVICE void solve_rows(const Rows& l, int m) {
  const int block = warp_index(), lane = lane_index(), first = block * 16;
  const RowCursor<CHUNK> from(m, 0, lane), to(m, first, lane);
  u32 x[4] = {};
  if (block < BLOCKS) {
    invert_block<Element>(x, l.near, l.halves, lane);
    to.store(x, first);
  }
  BlockSums<Element> sums[BLOCKS] = {};
#pragma unroll
  for (int done = 0; done + 1 < BLOCKS; ++done) {
    group_sync();  // these rows of M are there
    if (block <= done || block >= BLOCKS) continue;
    u32 high[4], low[4];
    l.operand(high, low, done);
#pragma unroll
    for (int column = 0; column <= done; ++column) sums[column].add(high, low, from, done * 16, column * 16);
    if (block == done + 1) {
#pragma unroll
      for (int column = 0; column <= done; ++column) sums[column].finish(x, to, column * 16);
    }
  }
}
