// Copies of the load warpgroup, from rows of one head of a tensor into tiles.
#pragma once

#include "numbers.cuh"
#include "ptx/elements.cuh"
#include "ptx/shared.cuh"

template <typename T>
struct Rows {
  using Number = T;
  const T* first;
  i64 stride;  // numbers from a token to the next
};

// Of a tensor the rule does not have.
struct NoRows {
  using Number = float;
};

DEVICE void copy_piece(u32 target, const void* source) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" ::"r"(target), "l"(__cvta_generic_to_global(source)) : "memory");
}

// Zeros where it does not exist.
DEVICE void copy_piece(u32 target, const void* source, bool exists) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(__cvta_generic_to_global(source)),
               "r"(exists ? 16 : 0)
               : "memory");
}

// Copies a chunk's rows of COLS numbers, of which `exist` do; WHOLE: all of them. A thread's rows are a multiple of eight
// apart, after which swizzles repeat.
template <bool WHOLE, int COLS, typename T>
DEVICE void copy_rows(int tile, const Rows<T>& rows, i64 from, int exist) {
  constexpr int PIECE = 16 / sizeof(T), PIECES = COLS / PIECE;
  constexpr int ACROSS = PIECES > 8 ? 16 : PIECES > 4 ? 8 : PIECES > 2 ? 4 : 2, APART = THREADS / ACROSS;
  const u32 thread = thread_index() % static_cast<u32>(THREADS);
  const int first = thread / ACROSS;
#pragma unroll 1
  for (int piece = thread % ACROSS; piece < PIECES; piece += ACROSS) {
    u32 target = shared_address(tile + Tile<COLS, sizeof(T)>::offset(first, piece * PIECE));
    const T* source = rows.first + (from + first) * rows.stride + piece * PIECE;
#pragma unroll(WHOLE ? 8 : 1)
    for (int row = 0; row < CHUNK; row += APART) {
      if (APART > CHUNK && first >= CHUNK) break;
      if constexpr (WHOLE) copy_piece(target, source);
      else copy_piece(target, source, row + first < exist);
      target += APART * Tile<COLS, sizeof(T)>::ROW;
      source += APART * rows.stride;
    }
  }
}

template <int COLS, typename T>
DEVICE void copy_tile(int tile, const Rows<T>& rows, i64 from, int exist) {
  if (exist >= CHUNK) copy_rows<true, COLS>(tile, rows, from, exist);
  else copy_rows<false, COLS>(tile, rows, from, exist);
}
