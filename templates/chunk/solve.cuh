// M = (I + L)^-1, unit lower triangular, [CHUNK][CHUNK], in 16x16 blocks.
// Reads l (float32; its diagonal blocks are replaced by their inverses), writes m (operand type). Blocks above the
// diagonal are neither read nor written.
//
// Each entry of M is rounded to the operand type before later rows are computed from it: they then make up for what
// the rounding changed, as a token erases what the tokens before it really wrote. With repeated keys, no
// decay and bf16, an inverse rounded at the end loses 1.7 times as much.
#pragma once

#include "numbers.cuh"
#include "ptx/elements.cuh"
#include "tile/tile.cuh"
#include "ptx/shared.cuh"

// Inverts I + L of each diagonal block by forward substitution in float32: a column to a lane, two blocks to a warp.
template <typename Element>
DEVICE void invert_diagonal(int l) {
  constexpr int BLOCKS = CHUNK / 16;
  const int lane = lane_index(), col = lane % 16;
  for (int first = warp_index() * 2; first < BLOCKS; first += WARPS * 2) {
    const int block = min(first + lane / 16, BLOCKS - 1);
    float x[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      x[i] = i == col ? 1.0f : 0.0f;
#pragma unroll
      for (int j = 0; j < i; j += 4) {
        const float4 row = at<float4>(l + Tile<CHUNK, 4>::offset(block * 16 + i, block * 16 + j));
        x[i] -= row.x * x[j];
        if (j + 1 < i) x[i] -= row.y * x[j + 1];
        if (j + 2 < i) x[i] -= row.z * x[j + 2];
        if (j + 3 < i) x[i] -= row.w * x[j + 3];
      }
      x[i] = Element::low(Element::pack(x[i], 0.0f));
    }
    __syncwarp();
    if (block == first + lane / 16) {
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        at<float>(l + Tile<CHUNK, 4>::offset(block * 16 + i, block * 16 + col)) = x[i];
      }
    }
  }
}

// float32 as a sum of two tf32 numbers, about 21 bits.
struct Split {
  u32 high, low;
  METHOD explicit Split(float x) {
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(high) : "f"(x));
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(low) : "f"(x - __uint_as_float(high)));
  }
};

DEVICE void mma_tf32(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// sum[j][i] += x[j][s] y[i][s] over a 16x16 block, x in accumulator layout, y a block of tile l at (row, col). The
// depth index is permuted so that accumulators serve as the A operand as they are: slot t of a step is column 2t,
// slot t + 4 column 2t + 1, which makes a lane's two B numbers neighbours in memory.
//
// Here x holds rounded entries of M, exact in tf32, and y entries of L in full.
DEVICE void multiply_by_l(float (&sum)[2][4], const float (&x)[2][4], int l, int row, int col, int lane) {
#pragma unroll
  for (int s = 0; s < 2; ++s) {
    const u32 a0 = __float_as_uint(x[s][0]), a1 = __float_as_uint(x[s][2]);
    const u32 a2 = __float_as_uint(x[s][1]), a3 = __float_as_uint(x[s][3]);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const float2 y = at<float2>(l + Tile<CHUNK, 4>::offset(row + n * 8 + lane / 4, col + s * 8 + lane % 4 * 2));
      const Split b0(y.x), b1(y.y);
      mma_tf32(sum[n], a0, a1, a2, a3, b0.low, b1.low);
      mma_tf32(sum[n], a0, a1, a2, a3, b0.high, b1.high);
    }
  }
}

// The same where y is exact in tf32, an inverted diagonal block, and x is not.
DEVICE void multiply_by_inverse(float (&sum)[2][4], const float (&x)[2][4], int l, int row, int col, int lane) {
#pragma unroll
  for (int s = 0; s < 2; ++s) {
    const Split a0(x[s][0]), a1(x[s][2]), a2(x[s][1]), a3(x[s][3]);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const float2 y = at<float2>(l + Tile<CHUNK, 4>::offset(row + n * 8 + lane / 4, col + s * 8 + lane % 4 * 2));
      const u32 b0 = __float_as_uint(y.x), b1 = __float_as_uint(y.y);
      mma_tf32(sum[n], a0.low, a1.low, a2.low, a3.low, b0, b1);
      mma_tf32(sum[n], a0.high, a1.high, a2.high, a3.high, b0, b1);
    }
  }
}

// Blocks of M, a block column to a warp, transposed in registers: X_I = (M_IJ)T.
//   X_I = -(sum over J <= B < I of X_B (L_IB)T) (M_II)T
template <typename Element>
DEVICE void solve_columns(int l, int m) {
  constexpr int BLOCKS = CHUNK / 16;
  const int lane = lane_index();
  for (int column = warp_index(); column < BLOCKS; column += WARPS) {
    float x[BLOCKS][2][4] = {};  // left undefined, skipped steps would keep registers through the whole kernel
#pragma unroll
    for (int step = 0; step < BLOCKS; ++step) {
      if (column + step < BLOCKS) {
        const int i0 = (column + step) * 16, j0 = column * 16;
        if (step == 0) {
#pragma unroll
          for (int n = 0; n < 2; ++n) {
#pragma unroll
            for (int c = 0; c < 4; ++c) {
              x[0][n][c] = at<float>(
                  l + Tile<CHUNK, 4>::offset(i0 + n * 8 + lane % 4 * 2 + c % 2, j0 + lane / 4 + c / 2 * 8));
            }
          }
        } else {
          float sum[2][4] = {};
#pragma unroll
          for (int before = 0; before < step; ++before) {
            multiply_by_l(sum, x[before], l, i0, j0 + before * 16, lane);
          }
#pragma unroll
          for (int n = 0; n < 2; ++n) {
#pragma unroll
            for (int c = 0; c < 4; ++c) {
              sum[n][c] = -sum[n][c];
              x[step][n][c] = 0.0f;
            }
          }
          multiply_by_inverse(x[step], sum, l, i0, i0, lane);
        }
#pragma unroll
        for (int n = 0; n < 2; ++n) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const u32 pair = Element::pack(x[step][n][half * 2], x[step][n][half * 2 + 1]);
            x[step][n][half * 2] = Element::low(pair);
            x[step][n][half * 2 + 1] = Element::high(pair);
            at<u32>(m + Tile<CHUNK, 2>::offset(i0 + n * 8 + lane / 4, j0 + half * 8 + lane % 4 * 2)) = transpose(pair);
          }
        }
      }
    }
  }
}
