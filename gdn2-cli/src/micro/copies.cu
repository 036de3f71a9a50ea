// Clocks in which a chunk's keys and queries are asked for, and in which they arrive, once the level-two cache has them.
// ROUTE stands before this text: 0, four warps by cp.async, 16 bytes a lane; 1, one thread by bulk copies of a row each;
// 2, one thread by a tensor map, 64 rows of 128 bytes a copy.
using u32 = unsigned int;
using u64 = unsigned long long;

// As the kernels have them: 128 rows of 256 bytes, a token of 16 heads apart.
enum : int { ROWS = 128, ROW = 256, APART = 4096, HEADS = 16, BYTES = ROWS * ROW, WARPS = 4 };

struct alignas(64) Map {
  char encoded[128];
};

__device__ __forceinline__ long long now() {
  long long clock;
  asm volatile("mov.u64 %0, %%clock64;" : "=l"(clock)::"memory");
  return clock;
}

__device__ __forceinline__ void expect(u32 barrier) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "n"(int(BYTES)) : "memory");
}

__device__ __forceinline__ void wait(u32 barrier, u32 parity) {
  asm volatile(
      "{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n@!done bra again;\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// `clocks` takes of each warp those until all was asked for, then of each those until all had arrived.
extern "C" __global__ void __launch_bounds__(WARPS * 32)
k(const int* turns, const char* rows, long long* clocks
#if ROUTE == 2
  , const __grid_constant__ Map map
#endif
) {
  __shared__ __align__(1024) char tile[BYTES];
  __shared__ u64 arrived;
  const u32 to = static_cast<u32>(__cvta_generic_to_shared(tile));
  const u32 barrier = static_cast<u32>(__cvta_generic_to_shared(&arrived));
  if (threadIdx.x == 0) {
    asm volatile("mbarrier.init.shared.b64 [%0], 1;\nfence.mbarrier_init.release.cluster;" ::"r"(barrier) : "memory");
  }
  __syncthreads();
  const int count = *turns;
  long long asking = 0, arriving = 0;
#pragma unroll 1
  for (int turn = 0; turn < count; ++turn) {
    const int head = turn % HEADS;
    const long long begin = now();
#if ROUTE == 0
#pragma unroll
    for (int at = threadIdx.x * 16; at < BYTES; at += WARPS * 32 * 16)
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to + at),
                   "l"(rows + at / ROW * APART + head * ROW + at % ROW)
                   : "memory");
#elif ROUTE == 1
    if (threadIdx.x == 0) {
      expect(barrier);
#pragma unroll 8
      for (int row = 0; row < ROWS; ++row)
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                         to + row * ROW),
                     "l"(rows + row * APART + head * ROW), "n"(int(ROW)), "r"(barrier)
                     : "memory");
    }
#else
    if (threadIdx.x == 0) {
      expect(barrier);
#pragma unroll
      for (int part = 0; part < 4; ++part)
        asm volatile(
            "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
                to + part * BYTES / 4),
            "l"(&map), "r"(head * ROW / 2 + part % 2 * 64), "r"(part / 2 * 64), "r"(barrier)
            : "memory");
    }
#endif
    asking += now() - begin;
#if ROUTE == 0
    asm volatile("cp.async.wait_all;" ::: "memory");
#else
    wait(barrier, turn & 1);
#endif
    __syncthreads();
    arriving += now() - begin;
  }
  if (threadIdx.x % 32 == 0) {
    clocks[threadIdx.x / 32] = asking;
    clocks[WARPS + threadIdx.x / 32] = arriving;
  }
}
