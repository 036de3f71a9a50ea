// Gates with one number per token. Warp 0 holds a chunk's numbers in registers, token 32 r + lane in entry r, fetched
// one chunk ahead, and lays them out in shared memory as vectors over the chunk's tokens.
#pragma once

#include "numbers.cuh"
#include "ptx/elements.cuh"
#include "ptx/shared.cuh"

enum : int { TOKEN_ROWS = CHUNK < 32 ? 1 : CHUNK / 32 };

struct TokenGate {
  float value[TOKEN_ROWS];

  // Tokens from `exist` on are zeros: no decay, nothing erased, nothing written. So are the upper lanes' for
  // CHUNK = 16, which belong to the chunk after.
  template <typename T>
  METHOD void fetch(const T* rows, i64 stride, int exist) {
    const int lane = lane_index();
#pragma unroll
    for (int r = 0; r < TOKEN_ROWS; ++r) {
      const int token = r * 32 + lane;
      value[r] = (CHUNK >= 32 || token < CHUNK) && token < exist ? load_number(rows + token * stride) : 0.0f;
    }
  }
};

// Writes a vector; for CHUNK = 16 the upper lanes have nothing to write.
template <typename Value>
DEVICE void store_tokens(int vector, Value value) {
  const int lane = lane_index();
#pragma unroll
  for (int r = 0; r < TOKEN_ROWS; ++r) {
    const int token = r * 32 + lane;
    if (CHUNK >= 32 || token < CHUNK) at<float>(vector + token * 4) = value(r, token);
  }
}
