// Clocks of one turn of warpgroups' products, and of small products beside them. A question's numbers stand before this
// text: WARPGROUPS, GROUPS (products of each group that is waited for, up to three; 0 ends), ACCUMULATORS (1 or 2, taken
// in turns), A_IN_REGISTERS, SMALL (mma.sync a turn of one warp more; 0: no such warp).
using u32 = unsigned int;
using u64 = unsigned long long;

__device__ __forceinline__ long long now() {
  long long clock;
  asm volatile("mov.u64 %0, %%clock64;" : "=l"(clock)::"memory");
  return clock;
}

// 64 x 64 x 16 into 32 registers of a thread.
struct Sums {
  float x[32];
};

#define EIGHT(s, i) "+f"(s.x[i]), "+f"(s.x[i + 1]), "+f"(s.x[i + 2]), "+f"(s.x[i + 3]), "+f"(s.x[i + 4]), "+f"(s.x[i + 5]), \
                    "+f"(s.x[i + 6]), "+f"(s.x[i + 7])
#define REGISTERS                                                                                                      \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "    \
  "%24, %25, %26, %27, %28, %29, %30, %31}"

__device__ __forceinline__ void product(Sums& s, const u32 (&a)[4], u64 left, u64 right) {
  if constexpr (A_IN_REGISTERS)
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " REGISTERS ", {%32, %33, %34, %35}, %36, 1, 1, 1, 0;"
                 : EIGHT(s, 0), EIGHT(s, 8), EIGHT(s, 16), EIGHT(s, 24)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(right));
  else
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " REGISTERS ", %32, %33, 1, 1, 1, 0, 0;"
                 : EIGHT(s, 0), EIGHT(s, 8), EIGHT(s, 16), EIGHT(s, 24)
                 : "l"(left), "l"(right));
}

template <int COUNT>
__device__ __forceinline__ void group(Sums (&s)[ACCUMULATORS], const u32 (&a)[4], u64 left, u64 right) {
  if constexpr (COUNT > 0) {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
    for (int i = 0; i < COUNT; ++i) product(s[i % ACCUMULATORS], a, left, right);
    asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
    for (int of = 0; of < ACCUMULATORS; ++of)
#pragma unroll
      for (int i = 0; i < 32; ++i) asm volatile("" : "+f"(s[of].x[i])::"memory");
  }
}

// Rows of 128 bytes, every eight of them a core matrix apart: swizzled by 128 bytes, as the descriptor's top says.
__device__ __forceinline__ u64 descriptor(const void* tile) {
  const u64 at = static_cast<u32>(__cvta_generic_to_shared(tile));
  return (at & 0x3ffff) >> 4 | 1ull << 16 | 64ull << 32 | 1ull << 62;
}

// `clocks` takes those of each warp, then a number of each thread.
extern "C" __global__ void __launch_bounds__(WARPGROUPS * 128 + (SMALL > 0 ? 32 : 0)) k(const int* turns, long long* clocks) {
  __shared__ __align__(1024) u32 tiles[2 * 64 * 32];
  for (int i = threadIdx.x; i < 2 * 64 * 32; i += blockDim.x) tiles[i] = 0;
  asm volatile("fence.proxy.async;" ::: "memory");
  __syncthreads();
  const int count = *turns;
  float sum = 0.0f;
  const long long begin = now();
  long long end;
  if (threadIdx.x < WARPGROUPS * 128) {
    Sums s[ACCUMULATORS] = {};
    // Numbers that the assembler does not know: registers, not zeros.
    const u32 own = count, a[4] = {own, own, own, own};
    const u64 left = descriptor(tiles), right = descriptor(tiles + 64 * 32);
    constexpr int SIZES[3] = {GROUPS};
#pragma unroll 1
    for (int turn = 0; turn < count; ++turn) {
      group<SIZES[0]>(s, a, left, right);
      group<SIZES[1]>(s, a, left, right);
      group<SIZES[2]>(s, a, left, right);
    }
    end = now();
#pragma unroll
    for (int of = 0; of < ACCUMULATORS; ++of)
#pragma unroll
      for (int i = 0; i < 32; ++i) sum += s[of].x[i];
  } else {
    float d[4] = {};
#pragma unroll 1
    for (int turn = 0; turn < count; ++turn) {
#pragma unroll
      for (int i = 0; i < SMALL; ++i)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %4, %4, %4}, {%4, %4}, {%0, %1, "
                     "%2, %3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(0));
    }
    end = now();
    sum = d[0] + d[1] + d[2] + d[3];
  }
  // The assembler leaves out products whose sums nobody reads.
  if (threadIdx.x % 32 == 0) clocks[threadIdx.x / 32] = end - begin;
  clocks[blockDim.x / 32 + threadIdx.x] = __float_as_int(sum);
}
