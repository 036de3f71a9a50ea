// What a kernel's own text says before the device code: its numbers, its shared memory, the layout of its tiles. Here for
// no kernel in particular, so that every file compiles alone and an editor understands it; the generator leaves it out.
#pragma once

#include "ptx/base.cuh"
#include "ptx/warp.cuh"
#include "tile/columns.cuh"

enum : int {
  KEY = 128,
  VALUE = 128,
  CHUNK = 64,
  WARPS = 4,
  THREADS = 128,
  STATE_WARP = 8,  // on wgmma
  STATE_WARPS = 8,
  VALUES = 128,
  STAGES = 2,
  BACK = 0,  // from a sequence's start
  VALUE_SPLIT = 1,
  DECAY_THREADS = 1,
  STATE_KEY_STRIDE = VALUE,
  STATE_VALUE_STRIDE = 1,
  SLICES = 1,
  SLICE_GROUPS = 8,  // of backward's gradients
  SEGMENTS = 4,  // of forward
  MAP_ROWS = KEY,
  MAP_BLOCKS = 1,
  ROWS = 16,
  PARTS = 4,  // of sums where segments are joined
  SMEM_S = 0,
  SMEM_SUMS = 16384,
};

// Of decode.
constexpr int BLOCK_VALUES = 32, KEY_WARPS = 4, KEY_STEPS = 1;
constexpr int KEY_LANES = 4, KEY_LANE_STRIDE = 8, VALUE_LANES = 8, VALUE_LANE_STRIDE = 1;
constexpr int TILE_KEYS = 8, TILE_VALUES = 4;
constexpr int SMEM_READ = 0, SMEM_ERASED = 1024, SMEM_DOTS = 2048;

extern __shared__ __align__(1024) unsigned char shared[];

template <int COLS, int BYTES>
using Tile = ColumnTile<CHUNK, COLS, BYTES>;

// Products of a warpgroup, which a kernel's text spells out for each number of columns.
template <int MAJOR, int N>
DEVICE void multiply(float (&d)[N][4], const u32 (&a)[4], u64 b, bool keep) {}
template <int N>
DEVICE void multiply_tiles(float (&d)[N][4], u64 a, u64 b, bool keep) {}
template <int LEFT, int RIGHT, int N>
DEVICE void multiply_turned(float (&d)[N][4], u64 a, u64 b, bool keep) {}
