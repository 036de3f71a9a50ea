// Tiles in shared memory as wgmma reads them.
//
// A tile is ROWS rows of COLS numbers of BYTES each, COLS a multiple of 16. A 16-bit tile is what wgmma reads: its
// columns lie in blocks of as many 16-byte units as one swizzle covers (8, 4 or 2), every block a run of rows, the units
// of a row exchanged by the row's index. A float32 tile, which wgmma never reads, is rows throughout.
#pragma once

#include "ptx/base.cuh"

template <int ROWS, int COLS, int BYTES>
struct ColumnTile {
  enum : int {
    UNITS = COLS / 8,
    MASK = (BYTES == 2 && UNITS % 8 == 0) ? 7 : UNITS % 4 == 0 ? 3 : 1,
    SHIFT = (MASK == 7 ? 0 : MASK == 3 ? 1 : 2) - (BYTES == 4 ? 1 : 0),
    SPAN = BYTES == 2 ? MASK + 1 : UNITS,  // units of a row that lie together
    ROW = SPAN * 8 * BYTES,                // bytes from a row to the next
    BLOCK = ROWS * ROW,                    // bytes of a block of columns
    SWIZZLE = MASK == 7 ? 1 : MASK == 3 ? 2 : 3,  // as a matrix descriptor names it
  };
  // Byte offset of a number from the start of the tile.
  static METHOD int offset(int row, int col) {
    const int unit = col / 8;
    return unit / SPAN * BLOCK + row * ROW + ((unit % SPAN) ^ ((row >> SHIFT) & MASK)) * (8 * BYTES) + (col % 8) * BYTES;
  }
};
