// Tiles in shared memory as mma.sync reads them.
//
// A tile is rows of COLS numbers of BYTES each, COLS a multiple of 16, in units of eight numbers. The units of a row
// are exchanged by the row's index so that the eight rows (16-bit) or four rows (32-bit) one access touches lie in
// different banks. No padding: a tile is exactly rows x COLS x BYTES.
#pragma once

#include "ptx/base.cuh"

template <int COLS, int BYTES>
struct RowTile {
  enum : int {
    UNITS = COLS / 8,
    MASK = (BYTES == 2 && UNITS % 8 == 0) ? 7 : UNITS % 4 == 0 ? 3 : 1,
    SHIFT = (MASK == 7 ? 0 : MASK == 3 ? 1 : 2) - (BYTES == 4 ? 1 : 0),
  };
  // Byte offset of a number from the start of the tile.
  static METHOD int offset(int row, int col) {
    return row * (COLS * BYTES) + ((col / 8) ^ ((row >> SHIFT) & MASK)) * (8 * BYTES) + (col % 8) * BYTES;
  }
};
