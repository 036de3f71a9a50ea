// How matrix fragments enter and leave tiles in shared memory. `Tile` is the layout of the kernel's tiles.
#pragma once

#include "numbers.cuh"
#include "ptx/shared.cuh"

// A 16x16 block of 16-bit numbers as four 8x8 matrices: rows 0-7, rows 8-15, then the same of columns 8-15. That is
// the A operand of mma.m16n8k16. As a B operand whose columns are the block's rows, {0, 2} is the first eight
// columns and {1, 3} the second.
template <int COLS>
DEVICE void load_block(u32 (&block)[4], int tile, int row, int col, int lane) {
  const u32 address = shared_address(tile + Tile<COLS, 2>::offset(row + lane % 16, col + lane / 16 * 8));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(block[0]), "=r"(block[1]), "=r"(block[2]), "=r"(block[3])
               : "r"(address));
}

// The same block with each 8x8 matrix transposed: as a B operand whose rows are the block's rows, {0, 1} is its
// first eight columns and {2, 3} the second.
template <int COLS>
DEVICE void load_block_transposed(u32 (&block)[4], int tile, int row, int col, int lane) {
  const u32 address = shared_address(tile + Tile<COLS, 2>::offset(row + lane % 16, col + lane / 16 * 8));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(block[0]), "=r"(block[1]), "=r"(block[2]), "=r"(block[3])
               : "r"(address));
}

// Transposes an 8x8 matrix of 16-bit numbers held one pair to a lane.
DEVICE u32 transpose(u32 pair) {
  u32 turned;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(turned) : "r"(pair));
  return turned;
}

// A 16x16 block as float32, eight numbers to a lane in the order of the A operand: pair p covers row
// lane/4 + 8 (p % 2), columns 2 (lane % 4) + 8 (p / 2) and the next.
struct Fragment {
  float2 pair[4];
};

template <typename T>
DEVICE Fragment unpack(const u32 (&block)[4]) {
  Fragment x;
#pragma unroll
  for (int p = 0; p < 4; ++p) x.pair[p] = {T::low(block[p]), T::high(block[p])};
  return x;
}

template <typename Element>
DEVICE void pack_product(u32 (&block)[4], const Fragment& x, const Fragment& y) {
#pragma unroll
  for (int p = 0; p < 4; ++p) {
    block[p] = Element::pack(x.pair[p].x * y.pair[p].x, x.pair[p].y * y.pair[p].y);
  }
}

// The pairs of a float32 tile that a fragment's pair p covers.
template <int COLS>
DEVICE float2 load_pair(int tile, int row, int col, int p, int lane) {
  return at<float2>(tile + Tile<COLS, 4>::offset(row, col + lane % 4 * 2 + p / 2 * 8));
}

// A fragment of a tile stored as T, and eight neighbouring numbers of a row.
template <typename T, int COLS>
struct Stored {
  static METHOD Fragment fragment(int tile, int row, int col, int lane) {
    u32 block[4];
    load_block<COLS>(block, tile, row, col, lane);
    return unpack<T>(block);
  }
  static METHOD void unit(float (&x)[8], int tile, int row, int col) {
    const uint4 pairs = at<uint4>(tile + Tile<COLS, 2>::offset(row, col));
    x[0] = T::low(pairs.x);
    x[1] = T::high(pairs.x);
    x[2] = T::low(pairs.y);
    x[3] = T::high(pairs.y);
    x[4] = T::low(pairs.z);
    x[5] = T::high(pairs.z);
    x[6] = T::low(pairs.w);
    x[7] = T::high(pairs.w);
  }
};

template <int COLS>
struct Stored<float, COLS> {
  static METHOD Fragment fragment(int tile, int row, int col, int lane) {
    Fragment x;
#pragma unroll
    for (int p = 0; p < 4; ++p) x.pair[p] = load_pair<COLS>(tile, row + lane / 4 + p % 2 * 8, col, p, lane);
    return x;
  }
  static METHOD void unit(float (&x)[8], int tile, int row, int col) {
    const float4 near = at<float4>(tile + Tile<COLS, 4>::offset(row, col));
    const float4 far = at<float4>(tile + Tile<COLS, 4>::offset(row, col + 4));
    x[0] = near.x;
    x[1] = near.y;
    x[2] = near.z;
    x[3] = near.w;
    x[4] = far.x;
    x[5] = far.y;
    x[6] = far.z;
    x[7] = far.w;
  }
};

// Writes eight neighbouring numbers of a row as operands.
template <typename Element, int COLS>
DEVICE void store_unit(int tile, int row, int col, const float (&x)[8]) {
  at<uint4>(tile + Tile<COLS, 2>::offset(row, col)) = {Element::pack(x[0], x[1]), Element::pack(x[2], x[3]),
                                                       Element::pack(x[4], x[5]), Element::pack(x[6], x[7])};
}
