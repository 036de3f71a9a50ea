// L where no query is scored and the decay, if any, is one factor per pair of tokens:
//   L_ij = row_i * pair_ij * (e_i . k_j)   i > j
// in 16x16 blocks on and below the diagonal, one block to a warp. Blocks above the diagonal are never read.

template <typename Left, typename Decay>
DEVICE void erase_pair(const Left& left, int k) {
  constexpr int BLOCKS = CHUNK / 16;
  const int lane = lane_index();
  for (int task = warp_index(); task < BLOCKS * (BLOCKS + 1) / 2; task += WARPS) {
    int row = 0;
    while ((row + 1) * (row + 2) / 2 <= task) ++row;
    const int i0 = row * 16, j0 = (task - row * (row + 1) / 2) * 16;

    typename Left::Sums erase;
#pragma unroll 4
    for (int d = 0; d < KEY; d += 16) {
      u32 key[4];
      load_block<KEY>(key, k, j0, d, lane);
      left.multiply(erase, i0, d, key, lane);
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int i = i0 + half * 8 + lane / 4, j = j0 + n * 8 + lane % 4 * 2;
        left.store(erase, n, half, i, j, {Decay::of(i, j), Decay::of(i, j + 1)});
      }
    }
  }
}
