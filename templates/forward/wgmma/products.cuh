// Warpgroup products: operands in shared memory as descriptors name them, and the order of registers about them.
//
// Products are asynchronous: their registers are pinned before they start and after they are waited for, or the compiler
// would move what it computes across.
#pragma once

#include "numbers.cuh"
#include "ptx/shared.cuh"

template <int N>
DEVICE void pin(float (&x)[N][4]) {
#pragma unroll
  for (int n = 0; n < N; ++n) asm volatile("" : "+f"(x[n][0]), "+f"(x[n][1]), "+f"(x[n][2]), "+f"(x[n][3])::"memory");
}
template <int N>
DEVICE void pin(u32 (&x)[N][4]) {
#pragma unroll
  for (int n = 0; n < N; ++n) asm volatile("" : "+r"(x[n][0]), "+r"(x[n][1]), "+r"(x[n][2]), "+r"(x[n][3])::"memory");
}
DEVICE void pin(u32 (&x)[4]) { asm volatile("" : "+r"(x[0]), "+r"(x[1]), "+r"(x[2]), "+r"(x[3])::"memory"); }
DEVICE void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most PENDING of the latest groups are under way, of which none of `sums` is a part.
template <int PENDING, typename... Sums>
DEVICE void products_wait(Sums&... sums) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
  (pin(sums), ...);
}

// Ordinary writes up to here are seen by products that start after this is known.
DEVICE void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// A tile [CHUNK][COLS] as an operand whose depth is its columns: step s is columns 16 s and on.
template <int COLS>
struct ByColumns {
  using T = Tile<COLS, 2>;
  u64 first;
  METHOD explicit ByColumns(int tile)
      : first(static_cast<u64>(shared_address(tile) >> 4) | 1ull << 16 | static_cast<u64>(T::ROW / 2) << 32 |
              static_cast<u64>(T::SWIZZLE) << 62) {}
  METHOD u64 step(int s) const { return first + (s * 32 / T::ROW * T::BLOCK + s * 32 % T::ROW) / 16; }
};

// A tile [CHUNK][COLS] as an operand whose depth is its rows: step s is rows 16 s and on.
template <int COLS>
struct ByRows {
  using T = Tile<COLS, 2>;
  u64 first;
  METHOD explicit ByRows(int tile)
      : first(static_cast<u64>(shared_address(tile) >> 4) | static_cast<u64>(T::BLOCK / 16) << 16 |
              static_cast<u64>(T::ROW / 2) << 32 | static_cast<u64>(T::SWIZZLE) << 62) {}
  METHOD u64 step(int s) const { return first + s * T::ROW; }
};
