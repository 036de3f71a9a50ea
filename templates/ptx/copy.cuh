// Asynchronous copies from global to shared memory (cp.async). Rows that do not exist become zeros.
#pragma once

#include "numbers.cuh"
#include "ptx/elements.cuh"
#include "ptx/shared.cuh"

// BYTES is 8 or 16; both addresses are multiples of it.
template <int BYTES>
DEVICE void copy_async(int offset, const void* source, bool exists) {
  const int bytes = exists ? BYTES : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(offset)),
               "l"(__cvta_generic_to_global(source)), "n"(BYTES), "r"(bytes)
               : "memory");
}

DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most PENDING of this thread's latest groups are still under way.
template <int PENDING>
DEVICE void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Copies a chunk's rows of one tensor, COLS numbers each, into a tile; all threads of the block take part. Rows from
// `exist` on are zeros. Not unrolled: the compiler would hold each piece's global offset in registers throughout.
template <typename T, int COLS>
DEVICE void copy_tile(int tile, const T* rows, i64 stride, int exist) {
  constexpr int PIECE = 16 / sizeof(T), PIECES = COLS / PIECE;
#pragma unroll 1
  for (int i = thread_index(); i < CHUNK * PIECES; i += THREADS) {
    const int row = i / PIECES, col = i % PIECES * PIECE;
    copy_async<16>(tile + Tile<COLS, sizeof(T)>::offset(row, col), rows + row * stride + col, row < exist);
  }
}
