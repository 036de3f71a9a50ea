// Decays along K, computed as a warp takes them from its block's logits: float32 sums of two operands, whatever logits are
// stored as. Tokens that do not exist decay nothing, whatever a formula makes of a logit of 0.
#pragma once

#include "forward/wgmma/computed.cuh"
#include "forward/wgmma/exponents.cuh"
#include "numbers.cuh"
#include "ptx/elements.cuh"
#include "ptx/shared.cuh"

// Rows that Of makes decays of, or NoRows; how many tokens a chunk has goes beside its tile.
template <class Of, class Logits>
struct DecayRows {
  Logits logits;
};
template <int COLS, class Of, class Logits>
DEVICE void copy_tile(int tile, const DecayRows<Of, Logits>& rows, i64 from, int exist) {
  if (thread_index() % THREADS == 0) at<int>(Of::exist(tile)) = exist;
  copy_tile<COLS>(tile, rows.logits, from, exist);
}

// A block's logits over 16 channels, in the order of `Logs`.
template <typename... T>
struct BlockLogits {
  static METHOD int token(int lane, int second) { return Logs<float>::token(lane, second); }
  METHOD void load(const RowCursor<KEY>&, int, int, int, int) {}
  METHOD float at(int, int) const { return 0.0f; }
};
template <typename T>
struct BlockLogits<T> {
  u32 pairs[4];
  static METHOD int token(int lane, int second) { return lane * 2 + second; }
  METHOD void load(const RowCursor<KEY>& tile, int, int, int d, int) { tile.load_transposed(pairs, d); }
  METHOD float at(int p, int second) const { return second ? T::high(pairs[p]) : T::low(pairs[p]); }
};
template <>
struct BlockLogits<float> {
  Logs<float> logs;
  static METHOD int token(int lane, int second) { return Logs<float>::token(lane, second); }
  METHOD void load(const RowCursor<KEY>& tile, int first_byte, int first, int d, int lane) {
    logs.load(tile, first_byte, first, d, lane);
  }
  METHOD float at(int p, int second) const { return logs.stored[p][second]; }
};

template <class Of, typename... T>
struct Logs<Computed<Of, T...>> : Logs<float> {
  BlockLogits<T...> logits;
  int channel, exist;  // the lane's in the first eight; tokens from its first on

  static METHOD int token(int lane, int second) { return BlockLogits<T...>::token(lane, second); }

  METHOD void load(const RowCursor<KEY>& tile, int first_byte, int first, int d, int lane) {
    logits.load(tile, first_byte, first, d, lane);
    channel = d + lane / 4;
    exist = at<int>(Of::exist(first_byte)) - first - token(lane % 4, 0);
  }
  METHOD void bound() {
#pragma unroll
    for (int p = 0; p < 4; ++p) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const float decay = Of::of(logits.at(p, c), channel + p / 2 * 8);
        this->stored[p][c] = p % 2 * 8 + token(0, c) < exist ? decay : 0.0f;
      }
    }
    Logs<float>::bound();
  }
};
