// Fixtures of the virtual machine's tests. Compile with NVRTC 13.0:
// --gpu-architecture=compute_90a -lineinfo, program name "hopper.cu".

typedef unsigned u32;
typedef unsigned long long u64;
struct __align__(64) Map { char bytes[128]; };

__device__ inline u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
__device__ inline void init(u32 bar, u32 n) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(n)); }
__device__ inline void expect(u32 bar, u32 n) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(n) : "memory");
}
__device__ inline void arrive(u32 bar) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory"); }
__device__ inline void wait(u32 bar, u32 parity) {
  asm volatile(
      "{\n.reg .pred p;\nAGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra DONE;\nbra AGAIN;\nDONE:\n}"
      ::"r"(bar), "r"(parity) : "memory");
}
__device__ inline void load2(u32 dst, const Map* map, int x, int y, u32 bar) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
               ::"r"(dst), "l"(map), "r"(x), "r"(y), "r"(bar) : "memory");
}
// swizzle: 1 = 128 bytes, 2 = 64, 3 = 32, 0 = none; strides in bytes.
__device__ inline u64 descriptor(u32 start, u32 leading, u32 stride, u64 swizzle) {
  return (u64)((start & 0x3ffff) >> 4) | (u64)(leading >> 4) << 16 | (u64)(stride >> 4) << 32 | swizzle << 62;
}
#define D32(d) \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), \
  "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), \
  "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), \
  "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])

// c[M][64] = a[M][K] * b[K][64]: a ring of two stages filled by a producer warp, one consumer warpgroup, 128-byte
// swizzles, A with K along memory, B with N along memory; the result leaves through a tensor store.
extern "C" __global__ void __launch_bounds__(160)
ring(const __grid_constant__ Map a, const __grid_constant__ Map b, const __grid_constant__ Map c, int K) {
  extern __shared__ __align__(1024) unsigned char smem[];
  __shared__ __align__(8) u64 bars[4];
  const int stage_bytes = 16384;
  u32 full = shared_address(bars), empty = full + 16, tiles = shared_address(smem);
  int t = threadIdx.x, steps = K / 64;
  if (t == 0) {
    for (int i = 0; i < 2; i++) {
      init(full + 8 * i, 1);
      init(empty + 8 * i, 128);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  if (t >= 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (t == 128) {
      // Not unrolled, so that one wait stands for those that must wait and those that need not yet.
#pragma unroll 1
      for (int i = 0; i < steps; i++) {
        int s = i & 1;
        wait(empty + 8 * s, ((i >> 1) & 1) ^ 1);
        expect(full + 8 * s, stage_bytes);
        load2(tiles + s * stage_bytes, &a, i * 64, blockIdx.x * 64, full + 8 * s);
        load2(tiles + s * stage_bytes + 8192, &b, 0, i * 64, full + 8 * s);
      }
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    float d[32];
    for (int i = 0; i < 32; i++) d[i] = 0;
#pragma unroll 1
    for (int i = 0; i < steps; i++) {
      int s = i & 1;
      wait(full + 8 * s, (i >> 1) & 1);
      asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
      for (int k = 0; k < 4; k++) {
        u64 da = descriptor(tiles + s * stage_bytes + k * 32, 16, 1024, 1);
        u64 db = descriptor(tiles + s * stage_bytes + 8192 + k * 2048, 8192, 1024, 1);
        asm volatile(
            "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
            "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
            "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, %32, %33, p, 1, 1, 0, 1;\n}"
            : D32(d) : "l"(da), "l"(db), "r"((int)(i + k > 0)));
      }
      asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
      asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
      arrive(empty + 8 * s);
    }
    asm volatile("bar.sync 1, 128;" ::: "memory");
    float* out = (float*)smem;
    int lane = t & 31, warp = t >> 5;
    for (int j = 0; j < 8; j++)
      for (int e = 0; e < 4; e++)
        out[(warp * 16 + lane / 4 + e / 2 * 8) * 64 + j * 8 + lane % 4 * 2 + e % 2] = d[j * 4 + e];
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    asm volatile("bar.sync 1, 128;" ::: "memory");
    if (t == 0) {
      asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];"
                   ::"l"(&c), "r"(0), "r"((int)blockIdx.x * 64), "r"(tiles) : "memory");
      asm volatile("cp.async.bulk.commit_group;");
      asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
    }
  }
}

// c[64][24] = a[64][32] * b[24][32] in f16: A from registers, B with K along memory, 64-byte swizzle, 1-D bulk
// copies of a bias in and its doubled values out.
extern "C" __global__ void __launch_bounds__(128)
registers(const unsigned short* a, const __grid_constant__ Map b, float* c, const float* bias, float* twice) {
  __shared__ __align__(1024) unsigned char tile[24 * 64];
  __shared__ __align__(16) float line[24];
  __shared__ __align__(8) u64 bar;
  int t = threadIdx.x, lane = t & 31, warp = t >> 5;
  u32 address = shared_address(&bar);
  if (t == 0) {
    init(address, 1);
    asm volatile("fence.proxy.async;" ::: "memory");
    expect(address, 24 * 64 + 96);
    load2(shared_address(tile), &b, 0, 0, address);
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 ::"r"(shared_address(line)), "l"(bias), "r"(96), "r"(address) : "memory");
  }
  __syncthreads();
  wait(address, 0);
  float d[12];
  for (int i = 0; i < 12; i++) d[i] = line[i / 4 * 8 + lane % 4 * 2 + i % 2];
  for (int k = 0; k < 2; k++) {
    u32 r[4];
    for (int i = 0; i < 4; i++)
      r[i] = *(const u32*)(a + (warp * 16 + lane / 4 + i % 2 * 8) * 32 + k * 16 + lane % 4 * 2 + i / 2 * 8);
    u64 db = descriptor(shared_address(tile) + k * 32, 16, 512, 2);
    // r is new: it must be in place before the product reads it.
    asm volatile("wgmma.fence.sync.aligned;"
                 : "+r"(r[0]), "+r"(r[1]), "+r"(r[2]), "+r"(r[3])::"memory");
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n24k16.f32.f16.f16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11}, {%12,%13,%14,%15}, "
        "%16, 1, -1, 1, 0;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
          "+f"(d[9]), "+f"(d[10]), "+f"(d[11])
        : "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]), "l"(db));
  }
  asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
  for (int i = 0; i < 12; i++)
    c[(warp * 16 + lane / 4 + i / 2 % 2 * 8) * 24 + i / 4 * 8 + lane % 4 * 2 + i % 2] = d[i];
  __syncthreads();
  if (t >= 64 && t < 88) line[t - 64] *= 2;
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  if (t == 0) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(twice), "r"(shared_address(line)), "r"(96)
                 : "memory");
    asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group.read 0;" ::: "memory");
  }
}

// c[64][16] = a[64][8] * b[16][8] in tf32, both factors in unswizzled core matrices written by the threads.
extern "C" __global__ void __launch_bounds__(128) core_matrices(const float* a, const float* b, float* c) {
  __shared__ __align__(128) float fa[64 * 8], fb[16 * 8];
  int t = threadIdx.x, lane = t & 31, warp = t >> 5;
  // Core matrices of 8 rows x 4 floats: K neighbours 128 bytes apart (leading), row blocks 256 (stride).
  for (int i = t; i < 512; i += 128) fa[i / 64 * 64 + i / 4 % 2 * 32 + i / 8 % 8 * 4 + i % 4] = a[i];
  for (int i = t; i < 128; i += 128) fb[i / 64 * 64 + i / 4 % 2 * 32 + i / 8 % 8 * 4 + i % 4] = b[i];
  asm volatile("fence.proxy.async;" ::: "memory");
  __syncthreads();
  float d[8];
  u64 da = descriptor(shared_address(fa), 128, 256, 0), db = descriptor(shared_address(fb), 128, 256, 0);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
  asm volatile("wgmma.mma_async.sync.aligned.m64n16k8.f32.tf32.tf32 {%0,%1,%2,%3,%4,%5,%6,%7}, %8, %9, 0, 1, 1;"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
               : "l"(da), "l"(db));
  asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
  for (int i = 0; i < 8; i++)
    c[(warp * 16 + lane / 4 + i / 2 % 2 * 8) * 16 + i / 4 * 8 + lane % 4 * 2 + i % 2] = d[i];
}
