// Hopper's copies and matrix products: bulk and tensor copies of one to three dimensions, reductions in flight, 8-bit
// factors, clusters of one block, elected lanes, stores that arrive at a barrier.
#include <cooperative_groups.h>
#include <cuda_fp16.h>
namespace cg = cooperative_groups;
typedef unsigned u32;
typedef unsigned long long u64;
struct __align__(64) Map { char bytes[128]; };

__device__ inline u32 shared_address(const void* p) { return static_cast<u32>(__cvta_generic_to_shared(p)); }
__device__ inline void init(u32 bar, u32 n) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(n));
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ inline void expect(u32 bar, u32 n) {
  asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(n) : "memory");
}
__device__ inline void wait(u32 bar, u32 parity) {
  u32 done = 0;
  while (!done)
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%1], %2, 0x989680;\nselp.u32 %0, 1, 0, p;\n}"
        : "=r"(done) : "r"(bar), "r"(parity) : "memory");
}
__device__ inline bool elected() {
  u32 one;
  asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}" : "=r"(one));
  return one;
}

// y[z][x] += 2 * the box of a volume at (4, 1, block), by a tensor copy in and a tensor reduction out.
extern "C" __global__ void boxes(const __grid_constant__ Map in, const __grid_constant__ Map out) {
  __shared__ __align__(128) float box[2][16];
  __shared__ __align__(8) u64 bar;
  if (threadIdx.x == 0) {
    init(shared_address(&bar), 1);
    expect(shared_address(&bar), sizeof box);
    asm volatile("prefetch.tensormap [%0];" ::"l"(&in) : "memory");
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];"
                 ::"r"(shared_address(box)), "l"(&in), "r"(4), "r"(1), "r"(static_cast<int>(blockIdx.x)), "r"(shared_address(&bar))
                 : "memory");
  }
  __syncthreads();
  wait(shared_address(&bar), 0);
  box[threadIdx.x / 16][threadIdx.x % 16] *= 2;
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  if (threadIdx.x < 32 && elected()) {
    asm volatile("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [%0, {%1, %2}], [%3];"
                 ::"l"(&out), "r"(0), "r"(static_cast<int>(blockIdx.x) * 2), "r"(shared_address(box)) : "memory");
    asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;" ::: "memory");
  }
}

// y[0..n) = x reversed within each block's 64 numbers through a one-dimensional map; sums[64] += the numbers in bulk.
extern "C" __global__ void lines(const __grid_constant__ Map in, float* y, float* sums) {
  __shared__ __align__(128) float line[64];
  __shared__ __align__(8) u64 bar;
  if (threadIdx.x == 0) {
    init(shared_address(&bar), 1);
    expect(shared_address(&bar), 256);
    asm volatile("cp.async.bulk.tensor.1d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2}], [%3];"
                 ::"r"(shared_address(line)), "l"(&in), "r"(static_cast<int>(blockIdx.x) * 64), "r"(shared_address(&bar)) : "memory");
  }
  __syncthreads();
  wait(shared_address(&bar), 0);
  y[blockIdx.x * 64 + threadIdx.x] = line[63 - threadIdx.x];
  if (threadIdx.x == 0) {
    asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;"
                 ::"l"(sums), "r"(shared_address(line)), "r"(256) : "memory");
    asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group.read 0;" ::: "memory");
  }
}

// A cluster of one block: ranks, addresses of its own block, arrival and wait; stores that count at a barrier.
extern "C" __global__ void cluster_of_one(u32* y) {
  __shared__ u32 words[32];
  __shared__ __align__(8) u64 bar;
  cg::cluster_group cluster = cg::this_cluster();
  if (threadIdx.x == 0) init(shared_address(&bar), 1);
  words[threadIdx.x] = 0;
  cluster.sync();
  u32* other = cluster.map_shared_rank(words, cluster.block_rank());
  atomicAdd(&other[31 - threadIdx.x], threadIdx.x + 100 * cluster.num_blocks());
  cluster.sync();
  y[threadIdx.x] = words[threadIdx.x];
  __syncthreads();
  u32 there, bar_there;
  asm("mapa.shared::cluster.u32 %0, %1, 0;" : "=r"(there) : "r"(shared_address(&words[threadIdx.x])));
  asm("mapa.shared::cluster.u32 %0, %1, 0;" : "=r"(bar_there) : "r"(shared_address(&bar)));
  if (threadIdx.x == 0) expect(shared_address(&bar), 128);
  __syncthreads();
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%0], %1, [%2];"
               ::"r"(there), "r"(threadIdx.x * 7), "r"(bar_there) : "memory");
  wait(shared_address(&bar), 0);
  y[32 + threadIdx.x] = words[31 - threadIdx.x];
}

__device__ inline u64 descriptor(u32 start, u32 leading, u32 stride) {
  return static_cast<u64>((start & 0x3ffff) >> 4) | static_cast<u64>(leading >> 4) << 16 | static_cast<u64>(stride >> 4) << 32;
}

// c[64][8] = a[64][32] b[8][32]^T, both factors of bytes in unswizzled core matrices of 8 rows x 16 bytes.
__device__ inline void stage(const u32* a, const u32* b, u32* fa, u32* fb) {
  for (int i = threadIdx.x; i < 512; i += 128) fa[i / 64 * 64 + i / 4 % 2 * 32 + i / 8 % 8 * 4 + i % 4] = a[i];
  for (int i = threadIdx.x; i < 64; i += 128) fb[i / 4 % 2 * 32 + i / 8 % 8 * 4 + i % 4] = b[i];
  asm volatile("fence.proxy.async;" ::: "memory");
  __syncthreads();
}
#define PRODUCT(shape, d0, d1, d2, d3, tail)                                                                          \
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");                                                             \
  asm volatile("wgmma.mma_async.sync.aligned." shape " {%0,%1,%2,%3}, %4, %5, 0" tail ";"                             \
               : d0, d1, d2, d3 : "l"(descriptor(shared_address(fa), 128, 256)), "l"(descriptor(shared_address(fb), 128, 256))); \
  asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory")

extern "C" __global__ void wgmma_fp8(const u32* a, const u32* b, float* c) {
  __shared__ __align__(128) u32 fa[512], fb[64];
  stage(a, b, fa, fb);
  float d[4];
  PRODUCT("m64n8k32.f32.e4m3.e5m2", "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3]), ", 1, 1");
  int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
  for (int i = 0; i < 4; i++) c[(row + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
}
extern "C" __global__ void wgmma_bytes(const u32* a, const u32* b, int* c) {
  __shared__ __align__(128) u32 fa[512], fb[64];
  stage(a, b, fa, fb);
  int d[4];
  PRODUCT("m64n8k32.s32.s8.u8", "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]), "");
  int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
  for (int i = 0; i < 4; i++) c[(row + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
}

// mma on 8-bit floats: c[16][8] = a[16][32] b[8][32]^T; and a second grid's prologue.
extern "C" __global__ void mma_fp8(const u32* a, const u32* b, float* c) {
  asm volatile("griddepcontrol.wait;" ::: "memory");
  int lane = threadIdx.x;
  float d[4] = {};
  u32 fa[4], fb[2];
  for (int i = 0; i < 4; i++) fa[i] = a[(lane / 4 + i % 2 * 8) * 8 + lane % 4 + i / 2 * 4];
  for (int i = 0; i < 2; i++) fb[i] = b[lane / 4 * 8 + lane % 4 + i * 4];
  asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e5m2.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]));
  for (int e = 0; e < 4; e++) c[(lane / 4 + e / 2 * 8) * 8 + lane % 4 * 2 + e % 2] = d[e];
  asm volatile("griddepcontrol.launch_dependents;");
}

// Four floats added at once, and a matrix of halves stored through stmatrix, transposed.
extern "C" __global__ void wide_stores(float4* sums, const __half2* x, __half2* y) {
  __shared__ __align__(128) __half2 tile[32];
  atomicAdd(&sums[threadIdx.x % 4], make_float4(1, 2, 3, threadIdx.x));
  u32 v = reinterpret_cast<const u32*>(x)[threadIdx.x];
  asm volatile("stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%0], {%1};"
               ::"r"(shared_address(&tile[threadIdx.x % 8 * 4])), "r"(v) : "memory");
  __syncwarp();
  y[threadIdx.x] = tile[threadIdx.x];
}

// Minima and maxima of three, Smith-Waterman's instructions.
extern "C" __global__ void three(const int* a, const int* b, const int* c, int* y) {
  int i = threadIdx.x, *out = y + i * 8;
  out[0] = __vimax3_s32(a[i], b[i], c[i]);
  out[1] = __vimin3_u32(a[i], b[i], c[i]);
  out[2] = __viaddmax_s32(a[i], b[i], c[i]);
  out[3] = __viaddmin_s32_relu(a[i], b[i], c[i]);
  out[4] = __vimax3_s16x2(a[i], b[i], c[i]);
  out[5] = __viaddmax_s16x2(a[i], b[i], c[i]);
  out[6] = __vimin_s16x2_relu(a[i], b[i]);
  out[7] = fmaxf(fmaxf(a[i], b[i]), c[i]);
}
