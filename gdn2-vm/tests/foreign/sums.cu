// Reductions, scans and atomics as CUDA programmers write them.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace cg = cooperative_groups;

__device__ float warp_sum(float x) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_down_sync(0xffffffffu, x, step);
  return x;
}

// *sum += every x: a loop over the grid, shuffles, shared memory, one atomic a block.
extern "C" __global__ void block_sums(const float* __restrict__ x, float* sum, int n) {
  __shared__ float parts[32];
  float mine = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) mine += x[i];
  mine = warp_sum(mine);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = mine;
  __syncthreads();
  if (threadIdx.x < 32) {
    mine = threadIdx.x < blockDim.x / 32 ? parts[threadIdx.x] : 0;
    mine = warp_sum(mine);
    if (threadIdx.x == 0) atomicAdd(sum, mine);
  }
}

// Appends the odd numbers of x, in any order: one atomic for each group of lanes that got there together.
extern "C" __global__ void keep_odd(const int* x, int* kept, int* count, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n || x[i] % 2 == 0) return;
  cg::coalesced_group together = cg::coalesced_threads();
  int first = 0;
  if (together.thread_rank() == 0) first = atomicAdd(count, static_cast<int>(together.size()));
  kept[together.shfl(first, 0) + together.thread_rank()] = x[i];
}

// How often each byte occurs.
extern "C" __global__ void histogram(const unsigned char* x, unsigned* bins, int n) {
  __shared__ unsigned own[256];
  for (int i = threadIdx.x; i < 256; i += blockDim.x) own[i] = 0;
  __syncthreads();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&own[x[i]], 1);
  __syncthreads();
  for (int i = threadIdx.x; i < 256; i += blockDim.x)
    if (own[i] != 0) atomicAdd(&bins[i], own[i]);
}

// A warp a row: exp(x - max) over its sum.
extern "C" __global__ void softmax(const float* x, float* y, int rows, int columns) {
  auto warp = cg::tiled_partition<32>(cg::this_thread_block());
  int row = blockIdx.x * warp.meta_group_size() + warp.meta_group_rank();
  if (row >= rows) return;
  float most = -__int_as_float(0x7f800000);
  for (int i = warp.thread_rank(); i < columns; i += 32) most = fmaxf(most, x[row * columns + i]);
  most = cg::reduce(warp, most, cg::greater<float>());
  float sum = 0;
  for (int i = warp.thread_rank(); i < columns; i += 32) sum += __expf(x[row * columns + i] - most);
  sum = cg::reduce(warp, sum, cg::plus<float>());
  for (int i = warp.thread_rank(); i < columns; i += 32) y[row * columns + i] = __expf(x[row * columns + i] - most) / sum;
}

// A block a row of halves: (x - mean) / sqrt(variance + 1e-5) * gain + bias.
extern "C" __global__ void layer_norm(const __half2* x, const float2* gain, const float2* bias, __half2* y, int pairs) {
  __shared__ float parts[2][4];
  float sum = 0, squares = 0;
  for (int i = threadIdx.x; i < pairs; i += blockDim.x) {
    float2 v = __half22float2(x[blockIdx.x * pairs + i]);
    sum += v.x + v.y;
    squares += v.x * v.x + v.y * v.y;
  }
  sum = warp_sum(sum);
  squares = warp_sum(squares);
  if (threadIdx.x % 32 == 0) {
    parts[0][threadIdx.x / 32] = sum;
    parts[1][threadIdx.x / 32] = squares;
  }
  __syncthreads();
  sum = parts[0][0] + parts[0][1] + parts[0][2] + parts[0][3];
  squares = parts[1][0] + parts[1][1] + parts[1][2] + parts[1][3];
  float mean = sum / (2 * pairs), scale = rsqrtf(squares / (2 * pairs) - mean * mean + 1e-5f);
  for (int i = threadIdx.x; i < pairs; i += blockDim.x) {
    float2 v = __half22float2(x[blockIdx.x * pairs + i]), g = gain[i], b = bias[i];
    y[blockIdx.x * pairs + i] = __floats2half2_rn((v.x - mean) * scale * g.x + b.x, (v.y - mean) * scale * g.y + b.y);
  }
}

// Tiles of 32 x 32 through padded shared memory, blocks of 32 x 8.
extern "C" __global__ void transpose(const float* x, float* y, int rows, int columns) {
  __shared__ float tile[32][33];
  int column = blockIdx.x * 32 + threadIdx.x, row = blockIdx.y * 32 + threadIdx.y;
  for (int i = 0; i < 32; i += 8)
    if (row + i < rows && column < columns) tile[threadIdx.y + i][threadIdx.x] = x[(row + i) * columns + column];
  __syncthreads();
  column = blockIdx.y * 32 + threadIdx.x;
  row = blockIdx.x * 32 + threadIdx.y;
  for (int i = 0; i < 32; i += 8)
    if (row + i < columns && column < rows) y[(row + i) * rows + column] = tile[threadIdx.x][threadIdx.y + i];
}

// Prefix sums of one block's numbers.
extern "C" __global__ void scan(const int* x, int* y, int n) {
  __shared__ int ends[32];
  auto warp = cg::tiled_partition<32>(cg::this_thread_block());
  int i = threadIdx.x, mine = i < n ? x[i] : 0;
  mine = cg::inclusive_scan(warp, mine);
  if (warp.thread_rank() == 31) ends[warp.meta_group_rank()] = mine;
  __syncthreads();
  if (warp.meta_group_rank() == 0) {
    int end = warp.thread_rank() < blockDim.x / 32 ? ends[warp.thread_rank()] : 0;
    ends[warp.thread_rank()] = cg::exclusive_scan(warp, end);
  }
  __syncthreads();
  if (i < n) y[i] = mine + ends[i / 32];
}

// Sums of 1, 2, ... in every kind of number that has an atomic, and a greatest float by compare-and-swap.
extern "C" __global__ void atomics(double* doubles, __half2* halves, __nv_bfloat162* bfloats, unsigned long long* longs,
                                   float* most, int* least, unsigned* turns) {
  float own = threadIdx.x % 8;
  atomicAdd(doubles, 0.5 * own);
  atomicAdd(halves, __floats2half2_rn(own, -own));
  atomicAdd(bfloats, __floats2bfloat162_rn(1, -1));
  atomicAdd(longs, 1ull << 40);
  atomicMax(longs + 1, static_cast<unsigned long long>(threadIdx.x) << 33);
  atomicXor(longs + 2, 3ull << threadIdx.x % 60);
  atomicMin(least, -static_cast<int>(threadIdx.x));
  atomicInc(turns, 9);
  atomicDec(turns + 1, 9);
  atomicOr(turns + 2, 1u << threadIdx.x % 32);
  atomicAnd(turns + 3, ~(1u << threadIdx.x % 32));
  unsigned* bits = reinterpret_cast<unsigned*>(most);
  unsigned seen = *reinterpret_cast<volatile unsigned*>(bits);
  while (__uint_as_float(seen) < static_cast<float>(threadIdx.x)) {
    unsigned before = atomicCAS(bits, seen, __float_as_uint(static_cast<float>(threadIdx.x)));
    if (before == seen) break;
    seen = before;
  }
}

// Votes, matches and hardware reductions of a warp: eight words a lane.
extern "C" __global__ void warp_words(const int* x, unsigned* y) {
  int v = x[threadIdx.x], pred;
  unsigned* out = y + threadIdx.x * 8;
  out[0] = __ballot_sync(0xffffffffu, v > 2);
  out[1] = __any_sync(0xffffffffu, v == 3) * 2 + __all_sync(0xffffffffu, v >= 0);
  out[2] = __match_any_sync(0xffffffffu, v);
  out[3] = __match_all_sync(0xffffffffu, v / 100, &pred) + pred;
  out[4] = __reduce_add_sync(0xffffffffu, v);
  out[5] = __reduce_max_sync(0xffffffffu, v) * 100 + __reduce_min_sync(0xffffffffu, v);
  out[6] = __reduce_xor_sync(0xffffffffu, static_cast<unsigned>(v));
  out[7] = __shfl_xor_sync(0xffffffffu, v, 5) + __shfl_up_sync(0xffffffffu, v, 1, 8) + __shfl_sync(0xffffffffu, v, 3, 4);
}

// The last block to finish adds up what all the others left behind a fence.
extern "C" __global__ void last_block(const float* x, float* parts, unsigned* done, float* sum, int n) {
  __shared__ bool last;
  float mine = 0;
  for (int i = blockIdx.x * 32 + threadIdx.x; i < n; i += gridDim.x * 32) mine += x[i];
  mine = warp_sum(mine);
  if (threadIdx.x == 0) {
    parts[blockIdx.x] = mine;
    __threadfence();
    last = atomicAdd(done, 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (last && threadIdx.x == 0) {
    __threadfence();
    float all = 0;
    for (int i = 0; i < gridDim.x; i++) all += reinterpret_cast<volatile float*>(parts)[i];
    *sum = all;
  }
}
