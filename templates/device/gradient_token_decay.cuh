// The gradient of a decay with one number per token: sums over K of dG, and of what the chunk's end adds to all tokens.
// INTO, OUT: vectors of 2^G and 2^(G_C - G). ROWS: [SLICES][CHUNK] partial sums; TAIL: one number per warp.

template <typename Element, int INTO, int OUT, int ROWS, int TAIL>
struct TokenDecayGradient {
  struct Tail {
    float sum = 0.0f;
  };
  struct Words {
    float row[2] = {};
  };

  METHOD float2 into(int i, int) const { return {at<float>(INTO + i * 4), at<float>(INTO + i * 4)}; }
  METHOD float2 out(int i, int) const { return {at<float>(OUT + i * 4), at<float>(OUT + i * 4)}; }

  // S dS over a group of channels, carried past the whole chunk; counted once, by the warps of the first tokens.
  METHOD void overlap(Tail& tail, const KeyTask& task, int kept, int kept_grad, int tiles) const {
    const int lane = lane_index();
    if (task.row != 0) return;
    const float carry = at<float>(INTO + (CHUNK - 1) * 4);
    for (int g = 0; g < task.groups; ++g) {
      const float4 sum = state_overlap<Element>(kept, kept_grad, task.group + g, tiles);
      if (lane < 4) tail.sum += (sum.x + sum.y + sum.z + sum.w) * carry;
    }
  }
  METHOD void note_tail(Tail& tail, int, float2 key, float2 tau) const { tail.sum += key.x * tau.x + key.y * tau.y; }
  METHOD void close_tail(const Tail& tail, const KeyTask&) const {
    const int lane = lane_index();
    float sum = tail.sum;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (lane == 0) at<float>(TAIL + warp_index() * 4) = sum;
  }

  METHOD void note(Words& words, int, int half, float2 dg) const { words.row[half] += dg.x + dg.y; }
  METHOD void finish(const Words& words, const KeyTask& task) const {
const int lane = lane_index();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = sum_quad(words.row[half]);
      const int row = task.row + half * 8 + lane / 4;
      if (task.groups > 0 && lane % 4 == 0) at<float>(ROWS + (task.slice * CHUNK + row) * 4) = sum;
    }
  }

  // dg_t = sum over i >= t of dG_i, and the tail; one warp.
  template <typename T>
  METHOD void write(T* rows, i64 stride, int exist) const {
    const int lane = lane_index();
    float after = 0.0f;
    for (int warp = 0; warp < WARPS; ++warp) after += at<float>(TAIL + warp * 4);
#pragma unroll
    for (int r = TOKEN_ROWS - 1; r >= 0; --r) {
      const int token = r * 32 + lane;
      float sum = token < CHUNK ? sum_partials<SLICES>(ROWS, token) : 0.0f;
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const float other = __shfl_down_sync(0xffffffffu, sum, step);
        if (lane + step < 32) sum += other;
      }
      sum += after;
      after = __shfl_sync(0xffffffffu, sum, 0);
      if (token < exist && token < CHUNK) store_number(rows + token * stride, sum);
    }
  }
};
