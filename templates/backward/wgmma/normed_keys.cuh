// Rows of dq or dk on their way back through their norms: of y = r x with r = 1 / sqrt(sum of x^2 + 1e-6),
// dx = r (dy - y (y . dy)).
#pragma once

#include "backward/wgmma/gate_gradients.cuh"
#include "backward/wgmma/key_gradients.cuh"
#include "numbers.cuh"

// Rows that were copied once more are normalised as they were before: a thread has the pieces that it copied itself.
template <typename Element>
DEVICE void scale_copied(int tile, int norms) {
  constexpr int PIECES = KEY / 8, APART = THREADS / PIECES;
  const int piece = thread_index() % PIECES;
#pragma unroll
  for (int row = thread_index() / PIECES; row < CHUNK; row += APART) {
    uint4& words = at<uint4>(tile + Tile<KEY, 2>::offset(row, piece * 8));
    const float norm = at<float>(norms + row * 4);
    const auto scaled = [&](u32 pair) { return Element::pack(Element::low(pair) * norm, Element::high(pair) * norm); };
    words = {scaled(words.x), scaled(words.y), scaled(words.z), scaled(words.w)};
  }
}

// The two warps meet that have the same tokens and other channels.
DEVICE void tokens_sync(int block) {
  if constexpr (KEY > ROW_BLOCK) asm volatile("bar.sync %0, 64;" ::"r"(2 + block) : "memory");
  else __syncwarp();
}

// Rows whose own head they are; those of heads that share them go as they are, for the sum that follows.
template <typename Element>
struct NormedKeys {
  KeyRows<Element> rows;
  int tile, norms, along;  // y, r, and where what warpgroups have of y . dy meets: [KEY / 64][CHUNK]

  METHOD void store(const KeySums& dy, int exist, int group, int block, int lane) const {
    if (rows.head != nullptr) {
      rows.store(dy, exist, group, block, lane);
      return;
    }
    const RowCursor<ROW_BLOCK> own = own_channels(tile, group, block, lane);
    store_row_sums(along, row_products<Element>(dy, own), group, block, lane);
    tokens_sync(block);
    float2 dot = {0.0f, 0.0f};
#pragma unroll
    for (int part = 0; part < KEY / ROW_BLOCK; ++part) {
      const float2 sum = row_factors(along + part * (CHUNK * 4), block, lane);
      dot = {dot.x + sum.x, dot.y + sum.y};
    }
    KeySums dx;
#pragma unroll
    for (int d = 0; d < ROW_BLOCK / 16; ++d) {
      u32 y[4];
      own.load(y, d * 16);
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        const float(&from)[4] = dy[d * 2 + p / 2];
        float(&to)[4] = dx[d * 2 + p / 2];
        const int first = p % 2 * 2;
        const float by = p % 2 ? dot.y : dot.x;
        to[first] = from[first] - Element::low(y[p]) * by;
        to[first + 1] = from[first + 1] - Element::high(y[p]) * by;
      }
    }
    scale_rows(dx, row_factors(norms, block, lane));
    rows.store(dx, exist, group, block, lane);
  }
};
