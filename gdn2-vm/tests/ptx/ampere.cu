// Fixtures of the virtual machine's tests. Compile with NVRTC 13.0:
// --gpu-architecture=compute_80 -lineinfo, program name "ampere.cu".

__device__ inline unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

// c[64][8] = a[64][K] * b[K][8], bf16 in, f32 out; one block of 128 threads, K a multiple of 16.
extern "C" __global__ void __launch_bounds__(128)
gemm(const unsigned short* a, const unsigned short* b, float* c, int K) {
  extern __shared__ __align__(128) unsigned char tile[];
  int t = threadIdx.x, lane = t & 31, warp = t >> 5;
  float acc[4] = {0, 0, 0, 0};
  for (int k = 0; k < K; k += 16) {
    for (int i = t; i < 64 * 2; i += 128)
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(tile + i * 16)),
                   "l"(a + (i / 2) * K + k + (i & 1) * 8));
    if (t < 16)
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(tile + 2048 + t * 16)),
                   "l"(b + (k + t) * 8), "r"(16));
    asm volatile("cp.async.commit_group;");
    asm volatile("cp.async.wait_group %0;" ::"n"(0));
    __syncthreads();
    unsigned r[4], q[2];
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(tile + (warp * 16 + (lane & 15)) * 32 + (lane >> 4) * 16)));
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(q[0]), "=r"(q[1])
                 : "r"(shared_address(tile + 2048 + (lane & 15) * 16)));
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
        : "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]), "r"(q[0]), "r"(q[1]));
    __syncthreads();
  }
  int g = lane >> 2, u = lane & 3;
  float* row = c + (warp * 16 + g) * 8 + u * 2;
  row[0] = acc[0];
  row[1] = acc[1];
  row[64] = acc[2];
  row[65] = acc[3];
}

__constant__ float table[4] = {1.f, 2.f, 3.f, 4.f};

struct Job {
  const float* in;
  float* out;
  int n;
  float scale;
};

// A warp scan, transcendental functions, a local array, a constant table, shared memory and early exit.
extern "C" __global__ void mixture(Job job, long long stride) {
  __shared__ float s[64];
  float parts[8];
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  float v = i < job.n ? job.in[i * stride] * job.scale : 0.f;
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    float o = __shfl_up_sync(~0u, v, d);
    if ((threadIdx.x & 31) >= d) v += o;
  }
  for (int j = 0; j < 8; j++) parts[j] = v * j + table[j & 3];
  s[threadIdx.x & 63] = expf(v) + logf(fabsf(v) + 1.f) + tanhf(v) + v / (1.f + v * v) + sqrtf(fabsf(v)) + parts[(int)v & 7];
  __syncthreads();
  unsigned b = __ballot_sync(~0u, v > 1.f);
  int m = __reduce_max_sync(~0u, (int)v);
  if (i < job.n) job.out[i] = s[(threadIdx.x + 1) & 63] + __popc(b) + m + __clz(b) + i % 7 + i / 3;
}

// Lanes loop a different number of times, leave early, and meet again: out[i] counts steps of the 3n+1 sequence.
extern "C" __global__ void collatz(unsigned* out, unsigned n, unsigned* total) {
  unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  unsigned x = i + 1, steps = 0;
  while (x != 1) {
    if (x & 1) {
      x = 3 * x + 1;
      if (x > 1000000) break;
    } else {
      x /= 2;
    }
    steps++;
  }
  __syncwarp(__activemask());
  out[i] = steps;
  atomicAdd(total, steps);
}
