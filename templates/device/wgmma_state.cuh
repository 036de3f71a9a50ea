// The sequential part on warpgroup products: 64 value rows of S^T to a warpgroup, in accumulators and, rounded, as the
// register operand. Factors that are one per token come from the vectors of the chunk's stage.

// A vector of a stage, indexed by token or by channel; `first` is where the stage's begins.
template <int VECTOR>
struct Staged {
  int first;
  METHOD float2 pair(int i) const { return at<float2>(VECTOR + (first + i) * 4); }
};

// One number for all columns: the vector's entry for the chunk's last token.
template <int VECTOR>
struct StagedEnd {
  int first;
  METHOD float2 pair(int) const {
    const float end = at<float>(VECTOR + (first + CHUNK - 1) * 4);
    return {end, end};
  }
};

// The write gate as z = w v sees it, one number per token.
template <typename Factor>
struct WriteTokens {
  Factor factor;
  METHOD void apply(float (&z)[4], int group, int lane) const {
    const float2 w = factor.pair(group * 8 + lane % 4 * 2);
    z[0] *= w.x;
    z[1] *= w.y;
    z[2] *= w.x;
    z[3] *= w.y;
  }
};

// x times a factor per column.
template <typename Factor, int N>
DEVICE void scale_columns(float (&x)[N][4], const Factor& factor) {
  const int lane = lane_index();
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const float2 f = factor.pair(n * 8 + lane % 4 * 2);
    x[n][0] *= f.x;
    x[n][1] *= f.y;
    x[n][2] *= f.x;
    x[n][3] *= f.y;
  }
}

// Accumulators as the register operand of products over their columns, 16 FROM and on, scaled by a factor per column.
template <typename Element, int FROM = 0, typename Factor, int N, int M>
DEVICE void to_operands(u32 (&a)[M][4], const float (&x)[N][4], const Factor& factor) {
  const int lane = lane_index();
#pragma unroll
  for (int b = 0; b < M; ++b) {
    const int n = (FROM + b) * 2, col = n * 8 + lane % 4 * 2;
    const float2 near = factor.pair(col), far = factor.pair(col + 8);
    a[b][0] = Element::pack(x[n][0] * near.x, x[n][1] * near.y);
    a[b][1] = Element::pack(x[n][2] * near.x, x[n][3] * near.y);
    a[b][2] = Element::pack(x[n + 1][0] * far.x, x[n + 1][1] * far.y);
    a[b][3] = Element::pack(x[n + 1][2] * far.x, x[n + 1][3] * far.y);
  }
}

// sum[.][i] (+)= a[.][j] y[i][j] over the rows i of a tile of COLS columns, j from 16 FROM on.
template <int COLS, int FROM = 0, int M>
DEVICE void multiply_rows(float (&sum)[CHUNK / 8][4], const u32 (&a)[M][4], int tile, bool keep) {
#pragma unroll
  for (int s = 0; s < M; ++s) multiply<0>(sum, a[s], rows_operand<COLS>(tile, FROM + s), keep || s > 0);
}

// s[.][d] += n[.][t] k[t][d] over the tokens of a tile [CHUNK][KEY].
DEVICE void multiply_columns(float (&s)[KEY / 8][4], const u32 (&n)[CHUNK / 16][4], int tile) {
#pragma unroll
  for (int t = 0; t < CHUNK / 16; ++t) multiply<1>(s, n[t], columns_operand<KEY>(tile, t), true);
}

// Copies a chunk's values of the block into the state warps' slices, 16 values to each; the threads of the load warpgroup
// take part. Eight lanes fill 128 bytes of one slice, so that no two meet in a bank; 32 read of four slices at once.
template <typename T>
DEVICE void load_slices(int slices, const T* rows, i64 stride, int exist) {
  constexpr int PIECE = 16 / sizeof(T), PIECES = 16 / PIECE, TOKENS = 8 / PIECES;
  const u32 thread = thread_index() % 128u;
  const int piece = thread % PIECES, first = thread / 32 * TOKENS + thread / PIECES % TOKENS;
#pragma unroll 1
  for (int warp = thread / 8 % 4; warp < STATE_WARPS; warp += 4) {
    const int target = slices + warp * SLICE<T> + piece * 16;
#pragma unroll 1
    for (int token = first; token < CHUNK; token += 4 * TOKENS) {
      const T* source = rows + token * stride + warp * 16 + piece * PIECE;
      copy_async<16>(target + token * (16 * sizeof(T)), source, token < exist);
    }
  }
}

// Z of a chunk.
template <typename Element, typename Write>
DEVICE void load_writes(float (&z)[CHUNK / 8][4], int v, const Write& write) {
  const int lane = lane_index();
#pragma unroll
  for (int group = 0; group < CHUNK / 8; ++group) {
    Slice<Element>::load(z[group], v, group, lane);
    write.apply(z[group], group, lane);
  }
}

// R = Z - E^ S, in float32: `r` holds E^ S up to the factor `row` per token.
template <typename Element, typename Write, typename Row>
DEVICE void subtract_held(float (&r)[CHUNK / 8][4], int v, const Write& write, const Row& row) {
  const int lane = lane_index();
#pragma unroll
  for (int group = 0; group < CHUNK / 8; ++group) {
    float z[4];
    Slice<Element>::load(z, v, group, lane);
    write.apply(z, group, lane);
    const float2 f = row.pair(group * 8 + lane % 4 * 2);
    r[group][0] = z[0] - r[group][0] * f.x;
    r[group][1] = z[1] - r[group][1] * f.y;
    r[group][2] = z[2] - r[group][2] * f.x;
    r[group][3] = z[3] - r[group][3] * f.y;
  }
}
