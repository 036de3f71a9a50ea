// Products with a chunk's triangles P and M transposed: their depth runs across rows.
#pragma once

#include "forward/wgmma/products.cuh"
#include "forward/wgmma/solve_rows.cuh"
#include "numbers.cuh"

// sum[.][j] (+)= a[.][i] y[i][j] over the rows i of a tile [CHUNK][CHUNK].
DEVICE void multiply_down(float (&sum)[CHUNK / 8][4], const u32 (&a)[CHUNK / 16][4], int y, bool keep) {
  const ByRows<CHUNK> rows(y);
#pragma unroll
  for (int t = 0; t < CHUNK / 16; ++t) multiply<1>(sum, a[t], rows.step(t), keep || t > 0);
}

// dN begins to become dR = MT dN. dN enters as the sum of two operands, which the caller holds: where keys repeat, rows of M
// cancel, and what one operand rounds away would be all that is left.
template <typename Element>
DEVICE void begin_transposed_solve(float (&dn)[CHUNK / 8][4], u32 (&high)[CHUNK / 16][4], u32 (&low)[CHUNK / 16][4], int m) {
#pragma unroll
  for (int t = 0; t < CHUNK / 16; ++t) {
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      const float(&pair)[4] = dn[t * 2 + p / 2];
      const Halved<Element> halved(pair[p % 2 * 2], pair[p % 2 * 2 + 1]);
      high[t][p] = halved.high;
      low[t][p] = halved.low;
    }
  }
  pin(high);
  pin(low);
  products_begin();
  multiply_down(dn, low, m, false);
  multiply_down(dn, high, m, true);
  products_commit();
}
