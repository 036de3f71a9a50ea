// 16x16 blocks of a tile, between shared memory and the registers of a warp.
#pragma once

#include "numbers.cuh"
#include "ptx/elements.cuh"
#include "ptx/shared.cuh"

// Reads, as they lie or turned, and writes the four 8x8 matrices of a block, each lane's address that of a row.
DEVICE void load_matrices(u32 (&block)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(block[0]), "=r"(block[1]), "=r"(block[2]), "=r"(block[3])
               : "r"(address));
}
DEVICE void load_matrices_transposed(u32 (&block)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(block[0]), "=r"(block[1]), "=r"(block[2]), "=r"(block[3])
               : "r"(address));
}
DEVICE void store_matrices(const u32 (&block)[4], u32 address) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(block[0]),
               "r"(block[1]), "r"(block[2]), "r"(block[3])
               : "memory");
}

// A lane's place in a tile of 16-bit numbers as its warp reads and writes blocks of rows ROW and on: in row lane % 16, unit
// lane / 16 of a block's two. The swizzle exchanges units by the row, which all blocks of these rows share.
template <int COLS>
struct RowCursor {
  using T = Tile<COLS, 2>;
  u32 first;

  METHOD RowCursor(int tile, int row, int lane)
      : first(shared_address(tile + T::offset(row + lane % 16, lane / 16 * 8))) {}

  // Of the block whose first column is `col`, `down` rows below.
  METHOD u32 place(int col, int down) const {
    const u32 unit = static_cast<u32>(col) / 8;
    return (first ^ (unit % T::SPAN * 16)) + (unit / T::SPAN * T::BLOCK + down * T::ROW);
  }
  METHOD void load(u32 (&block)[4], int col, int down = 0) const { load_matrices(block, place(col, down)); }
  METHOD void load_transposed(u32 (&block)[4], int col, int down = 0) const {
    load_matrices_transposed(block, place(col, down));
  }
  METHOD void store(const u32 (&block)[4], int col) const { store_matrices(block, place(col, 0)); }
  METHOD void store_transposed(const u32 (&block)[4], int col) const {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(place(col, 0)), "r"(block[0]),
                 "r"(block[1]), "r"(block[2]), "r"(block[3])
                 : "memory");
  }
};

// Accumulators of a block's two halves of columns, as operands.
template <typename Element, int COLS>
DEVICE void store_sums(const RowCursor<COLS>& to, const float (&near)[4], const float (&far)[4], int col) {
  const u32 pairs[4] = {Element::pack(near[0], near[1]), Element::pack(near[2], near[3]), Element::pack(far[0], far[1]),
                        Element::pack(far[2], far[3])};
  to.store(pairs, col);
}

// Blocks above the diagonal of a [CHUNK][CHUNK] tile, which products read as well, become zeros: a row of blocks to a
// warp.
DEVICE void clear_above(int tile, int block) {
  const RowCursor<CHUNK> to(tile, block * 16, lane_index());
  const u32 zeros[4] = {};
#pragma unroll
  for (int other = 1; other < CHUNK / 16; ++other) {
    if (other > block) to.store(zeros, other * 16);
  }
}

DEVICE void clear_above(int tile) { clear_above(tile, warp_index()); }

// A float32 vector over columns as the lanes of an accumulator read it: entry n is of columns 8 n + 2 (lane % 4) and the
// next.
struct Columns {
  const float2* first;
  METHOD Columns(int vector, int lane) : first(&at<float2>(vector + lane % 4 * 8)) {}
  METHOD float2 operator[](int n) const { return first[n * 4]; }
};
