// Tiles in shared memory, and how matrix fragments leave them.
//
// A tile is rows of COLS numbers of BYTES each, COLS a multiple of 16, in units of eight numbers. The units of a row
// are exchanged by the row's index so that the eight rows (16-bit) or four rows (32-bit) one access touches lie in
// different banks. No padding: a tile is exactly rows x COLS x BYTES.

template <int COLS, int BYTES>
struct Tile {
  static constexpr int UNITS = COLS / 8;
  static constexpr int MASK = (BYTES == 2 && UNITS % 8 == 0) ? 7 : UNITS % 4 == 0 ? 3 : 1;
  static constexpr int SHIFT = (MASK == 7 ? 0 : MASK == 3 ? 1 : 2) - (BYTES == 4 ? 1 : 0);
  // Byte offset of a number from the start of the tile.
  static METHOD int offset(int row, int col) {
    return row * (COLS * BYTES) + ((col / 8) ^ ((row >> SHIFT) & MASK)) * (8 * BYTES) + (col % 8) * BYTES;
  }
};

// A 16x16 block of 16-bit numbers as four 8x8 matrices: rows 0-7, rows 8-15, then the same of columns 8-15. That is
// the A operand of mma.m16n8k16. As a B operand whose columns are the block's rows, {0, 2} is the first eight
// columns and {1, 3} the second.
template <int COLS>
DEVICE void load_block(u32 (&block)[4], int tile, int row, int col) {
  const int lane = lane_index();
  const u32 address = shared_address(tile + Tile<COLS, 2>::offset(row + lane % 16, col + lane / 16 * 8));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(block[0]), "=r"(block[1]), "=r"(block[2]), "=r"(block[3])
               : "r"(address));
}

// The same block with each 8x8 matrix transposed: as a B operand whose rows are the block's rows, {0, 1} is its
// first eight columns and {2, 3} the second.
template <int COLS>
DEVICE void load_block_transposed(u32 (&block)[4], int tile, int row, int col) {
  const int lane = lane_index();
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

template <typename T, int COLS>
struct FragmentOf {
  static METHOD Fragment load(int tile, int row, int col) {
    u32 block[4];
    load_block<COLS>(block, tile, row, col);
    Fragment x;
#pragma unroll
    for (int p = 0; p < 4; ++p) x.pair[p] = {T::low(block[p]), T::high(block[p])};
    return x;
  }
};

template <int COLS>
struct FragmentOf<float, COLS> {
  static METHOD Fragment load(int tile, int row, int col) {
    const int lane = lane_index();
    Fragment x;
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      x.pair[p] = at<float2>(
          tile + Tile<COLS, 4>::offset(row + lane / 4 + p % 2 * 8, col + lane % 4 * 2 + p / 2 * 8));
    }
    return x;
  }
};
