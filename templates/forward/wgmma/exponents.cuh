// Exponents of a block's decays over runs of its tokens, by products: rows that count a run's tokens, times the logs of
// the decays. Nothing is subtracted, so they are exact at any decay, and no decay is above 1.
//
// A fragment's rows are tokens, the later half in reverse: of a lane's two tokens, rows g = lane / 4 and 8 on,
//
//   g                  0   1   2   3   4   5   6   7
//   row g, token       0   1   2   3   4   5   6   7
//   row g + 8, token  15  14  13  12  11  10   9   8
//
// one is in the later half of its group of 2, 4 or 8 tokens and the other in the earlier half of its own, at every level.
#pragma once

#include "forward/wgmma/blocks.cuh"
#include "forward/wgmma/solve_rows.cuh"
#include "numbers.cuh"

// The token of a block that is row `row` of a fragment.
DEVICE int token_of(int row) { return row < 8 ? row : 23 - row; }

// A stronger decay forgets no more than e^-104, and infinity times 0 would be no number.
constexpr float STRONGEST = -104.0f;

// Pairs of 16-bit numbers; and of bfloat16, which decays are stored or taken apart as, products of sixteen tokens or of
// eight, d = 0 to begin with.
template <typename T>
struct Pairs;
template <>
struct Pairs<Bf16> {
  enum : u32 { ONE = 0x3f80 };
  static METHOD u32 times(u32 x, u32 y) {
    u32 z;
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(z) : "r"(x), "r"(y));
    return z;
  }
  // Not below `STRONGEST`.
  static METHOD u32 bounded(u32 x) {
    u32 z;
    asm("max.bf16x2 %0, %1, %2;" : "=r"(z) : "r"(x), "r"(0xc2d0c2d0u));
    return z;
  }
  static METHOD void begin(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.0f));
  }
  static METHOD void begin(float (&d)[4], const u32 (&a)[2], u32 b) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%7,%7,%7};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(b), "f"(0.0f));
  }
  static METHOD void add(float (&d)[4], const u32 (&a)[2], u32 b) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(b));
  }
};
template <>
struct Pairs<F16> {
  static METHOD u32 times(u32 x, u32 y) {
    u32 z;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(z) : "r"(x), "r"(y));
    return z;
  }
};

// The logs of a block's decays over 16 channels, stored as T: two right operands of eight channels.
template <typename T>
struct Logs {
  enum : u32 { ONE = Pairs<T>::ONE };
  u32 pairs[4];

  // Of eight, the tokens in one register of lane % 4.
  static METHOD int token(int lane, int second) { return lane * 2 + second; }

  METHOD void load(const RowCursor<KEY>& tile, int, int, int d, int) { tile.load_transposed(pairs, d); }
  METHOD void bound() {
#pragma unroll
    for (int p = 0; p < 4; ++p) pairs[p] = Pairs<T>::bounded(pairs[p]);
  }
  // Over eight channels, what is counted of the block's tokens.
  METHOD void sum(float (&e)[4], int n, const u32 (&a)[4]) const { Pairs<T>::begin(e, a, pairs[n * 2], pairs[n * 2 + 1]); }
  // The same of one half's.
  METHOD void sum(float (&e)[4], int n, int half, const u32 (&a)[2]) const { Pairs<T>::begin(e, a, pairs[n * 2 + half]); }
};
// Float32 as a sum of two operands.
template <>
struct Logs<float> {
  enum : u32 { ONE = Pairs<Bf16>::ONE };
  float stored[4][2];
  u32 high[4], low[4];

  static METHOD int token(int lane, int second) { return lane + second * 4; }

  METHOD void load(const RowCursor<KEY>&, int tile, int first, int d, int lane) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      // Rows a multiple of four apart: their units are exchanged alike.
      const int column = tile + Tile<KEY, 4>::offset(first + lane % 4, d + n * 8 + lane / 4);
#pragma unroll
      for (int t = 0; t < 4; ++t) stored[n * 2 + t / 2][t % 2] = at<float>(column + t * 4 * Tile<KEY, 4>::ROW);
    }
  }
  METHOD void bound() {
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      const Halved<Bf16> x(fmaxf(stored[p][0], STRONGEST), fmaxf(stored[p][1], STRONGEST));
      high[p] = x.high;
      low[p] = x.low;
    }
  }
  METHOD void sum(float (&e)[4], int n, const u32 (&a)[4]) const {
    Pairs<Bf16>::begin(e, a, high[n * 2], high[n * 2 + 1]);
    Bf16::mma(e, a, low[n * 2], low[n * 2 + 1]);
  }
  METHOD void sum(float (&e)[4], int n, int half, const u32 (&a)[2]) const {
    Pairs<Bf16>::begin(e, a, high[n * 2 + half]);
    Pairs<Bf16>::add(e, a, low[n * 2 + half]);
  }
};

// A decay from its natural log.
DEVICE float decay_of(float log) { return exp2(log * 1.4426950408889634f); }

// Tokens from `from` on and before `to`.
struct Run {
  int from, to;
  METHOD bool has(int token) const { return token >= from && token < to; }
};

// A left operand of N registers: ones for tokens that count. A row's tokens are in the order of right operands: two that
// `Logs` have in one register, then eight on.
template <typename T, int N>
struct Counts {
  u32 ones[N];

  METHOD void set(int i, int half, Run run, int lane) {
    const int first = half * 8 + Logs<T>::token(lane % 4, 0), second = half * 8 + Logs<T>::token(lane % 4, 1);
    ones[i] = (run.has(first) ? Logs<T>::ONE : 0) | (run.has(second) ? Logs<T>::ONE << 16 : 0);
  }
};

// What counts for a lane's two tokens, for logs stored as T.
template <typename T>
struct Runs {
  // In groups of 8, 4, 2: of the token in a later half, since that half's start; of the other, until its own half's end.
  Counts<T, 4> fours, twos, ones;
  // Of the first token until the block's end, of the second since its start.
  Counts<T, 4> across;
  // Within each half: of the first since its start, and until its end; of the second until the end, and since the start.
  Counts<T, 2> first, second;

  METHOD explicit Runs(int lane) {
    const int row = lane / 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      level<4>(fours, half, lane);
      level<2>(twos, half, lane);
      level<1>(ones, half, lane);
      across.set(half * 2, half, {row + 1, 16}, lane);
      across.set(half * 2 + 1, half, {0, 16 - row}, lane);
    }
    first.set(0, 0, {0, row + 1}, lane);
    first.set(1, 0, {row + 1, 8}, lane);
    second.set(0, 1, {16 - row, 16}, lane);
    second.set(1, 1, {8, 16 - row}, lane);
  }

 private:
  template <int SIZE>
  static METHOD void level(Counts<T, 4>& a, int half, int lane) {
    const int row = lane / 4, later = row & SIZE ? row : 15 - row, earlier = 15 - later;
    a.set(half * 2, half, {later & -SIZE, later + 1}, lane);
    a.set(half * 2 + 1, half, {earlier + 1, (earlier | (SIZE - 1)) + 1}, lane);
  }
};
