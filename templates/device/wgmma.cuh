// Hopper's own: barriers in shared memory that copies complete on, and matrix products of a warpgroup.

using u64 = unsigned long long;

DEVICE void barrier_init(int barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

// A warp arrives, whose lanes have met since what they did.
DEVICE void barrier_arrive_alone(int barrier) {
  if (lane_index() == 0) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
  }
}

// A warp arrives: what its lanes have done is seen by whoever waits.
DEVICE void barrier_arrive(int barrier) {
  __syncwarp();
  barrier_arrive_alone(barrier);
}

// A thread arrives once its copies so far have landed.
DEVICE void barrier_arrive_copied(int barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(barrier)) : "memory");
}

DEVICE void barrier_wait(int barrier, int parity) {
  u32 done;
  do {
    asm volatile(
        "{ .reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p; }"
        : "=r"(done)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
  } while (done == 0);
}

// The threads of one warpgroup meet.
DEVICE void group_sync() { asm volatile("bar.sync 1, 128;" ::: "memory"); }

// Ordinary writes up to here are seen by products that start after this is known.
DEVICE void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Products are asynchronous: their registers are pinned before they start and after they are waited for, or the compiler
// would move what it computes across.
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
DEVICE void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most PENDING of the latest groups are under way, of which `x` is not a part.
template <int PENDING, int N>
DEVICE void products_wait(float (&x)[N][4]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
  pin(x);
}

// B from a tile: its rows are B's columns, step s of the depth is columns 16 s and on.
template <int COLS>
DEVICE u64 rows_operand(int tile, int s) {
  using T = Tile<COLS, 2>;
  const int start = tile + s * 32 / T::ROW * T::BLOCK + s * 32 % T::ROW;
  return static_cast<u64>(shared_address(start) >> 4) | 1ull << 16 | static_cast<u64>(T::ROW / 2) << 32 |
         static_cast<u64>(T::SWIZZLE) << 62;
}

// B from a tile: its columns are B's columns, step s of the depth is rows 16 s and on.
template <int COLS>
DEVICE u64 columns_operand(int tile, int s) {
  using T = Tile<COLS, 2>;
  return static_cast<u64>(shared_address(tile + s * 16 * T::ROW) >> 4) | static_cast<u64>(T::BLOCK / 16) << 16 |
         static_cast<u64>(T::ROW / 2) << 32 | static_cast<u64>(T::SWIZZLE) << 62;
}

// Copies a chunk's rows of one tensor, COLS numbers each, into a tile; the threads of the load warpgroup take part. Rows
// from `exist` on are zeros. A thread's rows are a multiple of eight apart, after which swizzles repeat.
template <typename T, int COLS>
DEVICE void load_tile(int tile, const T* rows, i64 stride, int exist) {
  constexpr int PIECE = 16 / sizeof(T), PIECES = COLS / PIECE;
  constexpr int ACROSS = PIECES > 8 ? 16 : PIECES > 4 ? 8 : PIECES > 2 ? 4 : 2, ROWS = 128 / ACROSS;
  const u32 thread = thread_index() % 128u;
  const int first = thread / ACROSS;
#pragma unroll 1
  for (int piece = thread % ACROSS; piece < PIECES; piece += ACROSS) {
    const int target = tile + Tile<COLS, sizeof(T)>::offset(first, piece * PIECE);
#pragma unroll 1
    for (int row = first; row < CHUNK; row += ROWS) {
      const int after = (row - first) * Tile<COLS, sizeof(T)>::ROW;
      copy_async<16>(target + after, rows + row * stride + piece * PIECE, row < exist);
    }
  }
}

// Writes the four 8x8 matrices of a block, each lane's address that of a row.
DEVICE void store_matrices(const u32 (&block)[4], u32 address) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(block[0]),
               "r"(block[1]), "r"(block[2]), "r"(block[3])
               : "memory");
}

// Writes a 16x16 block as load_block reads it.
template <int COLS>
DEVICE void store_block(const u32 (&block)[4], int tile, int row, int col, int lane) {
  store_matrices(block, shared_address(tile + Tile<COLS, 2>::offset(row + lane % 16, col + lane / 16 * 8)));
}

// Blocks above the diagonal of a [CHUNK][CHUNK] tile, which products read as well, become zeros: a row of blocks to a
// warp.
DEVICE void clear_above(int tile) {
  const int lane = lane_index(), row = warp_index();
  const u32 zeros[4] = {};
#pragma unroll
  for (int col = 1; col < CHUNK / 16; ++col) {
    if (col > row) store_block<CHUNK>(zeros, tile, row * 16, col * 16, lane);
  }
}
