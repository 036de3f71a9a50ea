// A finished tile on its way out.
#pragma once

#include "numbers.cuh"
#include "ptx/elements.cuh"
#include "ptx/shared.cuh"

// Copies a finished tile [CHUNK][KEY] to memory.
template <typename T>
DEVICE void write_tile(int tile, T* rows, i64 stride, int exist) {
  constexpr int PIECE = 16 / sizeof(T), PIECES = KEY / PIECE;
  for (int i = thread_index(); i < CHUNK * PIECES; i += THREADS) {
    const int row = i / PIECES, col = i % PIECES * PIECE;
    if (row < exist) *reinterpret_cast<uint4*>(rows + row * stride + col) = at<uint4>(tile + Tile<KEY, sizeof(T)>::offset(row, col));
  }
}
