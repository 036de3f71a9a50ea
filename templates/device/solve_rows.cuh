// M = (I + L)^-1, unit lower triangular, in 16x16 blocks: a block of rows to a warp, whose L is in its registers.
//   M_II by substitution in its 8x8 blocks, each row rounded before later ones are computed from it
//   M_IJ = -M_II (sum over J <= B < I of L_IB M_BJ)
// Each entry is rounded to the operand type before later blocks are computed from it: they make up for what the rounding
// changed, as a token erases what the tokens before it really wrote. So M is exact as an operand, and L and the sums are
// two operands each, about 16 bits.

// The later half of a block's rows is turned from the order of fragments to that of tokens first.

// Float32 pairs as a sum of two operands.
template <typename Element>
struct Halved {
  u32 high, low;
  METHOD Halved(float x, float y) : high(Element::pack(x, y)) {
    low = Element::pack(x - Element::low(high), y - Element::high(high));
  }
};

// Inverses of I + l for two strictly lower triangular 8x8 blocks, in accumulator layout.
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
  for (int j = 0; j < 7; ++j) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const u32 done = __shfl_sync(0xffffffffu, Element::pack(sum[half][0], sum[half][1]), j * 4 + lane % 4);
      const float by = __shfl_sync(0xffffffffu, l[half][j % 2], lane / 4 * 4 + j / 2);
      if (row > j) {
        sum[half][0] -= by * Element::low(done);
        sum[half][1] -= by * Element::high(done);
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

  METHOD void add(const u32 (&high)[4], const u32 (&low)[4], int m, int row, int col, int lane) {
    u32 y[4];
    load_block_transposed<CHUNK>(y, m, row, col, lane);
    Element::mma(column[0], low, y[0], y[1]);
    Element::mma(column[1], low, y[2], y[3]);
    Element::mma(column[0], high, y[0], y[1]);
    Element::mma(column[1], high, y[2], y[3]);
  }

  // -x times the sums, as a block of M.
  METHOD void finish(const u32 (&x)[4], int m, int row, int col, int lane) const {
    u32 pairs[4];
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const Halved<Element> upper(column[n][0], column[n][1]), lower(column[n][2], column[n][3]);
      float product[4] = {};
      Element::mma(product, x, transpose(upper.low), transpose(lower.low));
      Element::mma(product, x, transpose(upper.high), transpose(lower.high));
      pairs[n * 2] = Element::pack(-product[0], -product[1]);
      pairs[n * 2 + 1] = Element::pack(-product[2], -product[3]);
    }
    store_block<CHUNK>(pairs, m, row, col, lane);
  }
};

template <typename Element, typename Left>
DEVICE void solve_rows(const Scores& scores, const Left& left, int m) {
  const int block = warp_index(), lane = lane_index(), first = block * 16;
  u32 x[4] = {};
  float row[2] = {};  // what rows of L are scaled by
  if (block < BLOCKS) {
    row[0] = left.row(first + token_of(lane / 4));
    row[1] = left.row(first + token_of(lane / 4 + 8));
    const float(&sum)[4] = scores.near;
    const float near[2][2] = {{sum[2] * row[0], sum[3] * row[0]},
                              {__shfl_xor_sync(0xffffffffu, sum[3] * row[1], 31),
                               __shfl_xor_sync(0xffffffffu, sum[2] * row[1], 31)}};
    const float halves[2] = {__shfl_xor_sync(0xffffffffu, scores.halves[2] * row[1], 28),
                             __shfl_xor_sync(0xffffffffu, scores.halves[3] * row[1], 28)};
    invert_block<Element>(x, near, halves, lane);
    store_block<CHUNK>(x, m, first, first, lane);
  }
  BlockSums<Element> sums[BLOCKS] = {};
#pragma unroll
  for (int done = 0; done + 1 < BLOCKS; ++done) {
    group_sync();  // these rows of M are there
    if (block <= done || block >= BLOCKS) continue;
    u32 high[4], low[4];
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      const int n = 2 + p / 2, c = p % 2 * 2;
      const bool last = done % 2 == 0 && block == done + 1;
      const float scale = row[p % 2];
      const float a = last ? scores.last[n][c] : scores.first[done % 2][n][c];
      const float b = last ? scores.last[n][c + 1] : scores.first[done % 2][n][c + 1];
      const Halved<Element> l(a * scale, b * scale);
      high[p] = p % 2 ? __shfl_xor_sync(0xffffffffu, l.high, 28) : l.high;
      low[p] = p % 2 ? __shfl_xor_sync(0xffffffffu, l.low, 28) : l.low;
    }
#pragma unroll
    for (int column = 0; column <= done; ++column) sums[column].add(high, low, m, done * 16, column * 16, lane);
    if (block == done + 1) {
#pragma unroll
      for (int column = 0; column <= done; ++column) sums[column].finish(x, m, first, column * 16, lane);
    }
  }
}
