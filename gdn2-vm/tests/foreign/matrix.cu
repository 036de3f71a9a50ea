// Matrix products through every door: ldmatrix and mma, the wmma API, integers, doubles, dot products of bytes.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <mma.h>

using namespace nvcuda;
typedef unsigned u32;

__device__ u32 shared_address(const void* p) { return static_cast<u32>(__cvta_generic_to_shared(p)); }

// c[16][16] = a[16][64] b[16][64]^T in bf16: copies of 16 bytes, rows swizzled by hand.
extern "C" __global__ void gemm_mma(const __nv_bfloat16* a, const __nv_bfloat16* b, float* c) {
  __shared__ __align__(128) uint4 tiles[2][16 * 8];
  int lane = threadIdx.x;
  for (int i = lane; i < 128; i += 32) {
    int at = i / 8 * 8 + (i % 8 ^ i / 8 % 8);
    u32 to[2] = {shared_address(&tiles[0][at]), shared_address(&tiles[1][at])};
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to[0]), "l"(a + i * 8));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to[1]), "l"(b + i * 8));
  }
  asm volatile("cp.async.wait_all;" ::: "memory");
  __syncwarp();
  float d[2][4] = {};
  for (int k = 0; k < 4; k++) {
    int row = lane % 16, piece = k * 2 + lane / 16, at = row * 8 + (piece ^ row % 8);
    u32 fa[4], fb[4];
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(fa[0]), "=r"(fa[1]), "=r"(fa[2]), "=r"(fa[3]) : "r"(shared_address(&tiles[0][at])));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(fb[0]), "=r"(fb[1]), "=r"(fb[2]), "=r"(fb[3]) : "r"(shared_address(&tiles[1][at])));
    for (int n = 0; n < 2; n++)
      asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                   : "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
                   : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[n]), "r"(fb[n + 2]));
  }
  for (int n = 0; n < 2; n++)
    for (int e = 0; e < 4; e++) c[(lane / 4 + e / 2 * 8) * 16 + n * 8 + lane % 4 * 2 + e % 2] = d[n][e];
}

// c[M][N] = 2 a[M][k] b[k][N], A by rows, B by rows or by columns.
template <int M, int N, int K, typename T, typename Sum, typename ALayout, typename BLayout>
__device__ void gemm_wmma(const T* a, const T* b, Sum* c, int k, int lda, int ldb, int ldc) {
  wmma::fragment<wmma::matrix_a, M, N, K, T, ALayout> fa;
  wmma::fragment<wmma::matrix_b, M, N, K, T, BLayout> fb;
  wmma::fragment<wmma::accumulator, M, N, K, Sum> fc;
  wmma::fill_fragment(fc, static_cast<Sum>(0));
  for (int i = 0; i < k; i += K) {
    wmma::load_matrix_sync(fa, a + i, lda);
    wmma::load_matrix_sync(fb, b + (ldb >= k ? i : i * ldb), ldb);
    wmma::mma_sync(fc, fa, fb, fc);
  }
  for (int i = 0; i < fc.num_elements; i++) fc.x[i] = fc.x[i] + fc.x[i];
  wmma::store_matrix_sync(c, fc, ldc, wmma::mem_row_major);
}

// Twice the product of a[16][48] and b[48][16], both by rows.
extern "C" __global__ void wmma_half(const __half* a, const __half* b, float* c) {
  gemm_wmma<16, 16, 16, __half, float, wmma::row_major, wmma::row_major>(a, b, c, 48, 48, 16, 16);
}
// The same in halves throughout, B by columns, 32 x 8.
extern "C" __global__ void wmma_half_sums(const __half* a, const __half* b, __half* c) {
  gemm_wmma<32, 8, 16, __half, __half, wmma::row_major, wmma::col_major>(a, b, c, 48, 48, 48, 8);
}
// bf16 in 8 x 32, A through shared memory.
extern "C" __global__ void wmma_bfloat(const __nv_bfloat16* a, const __nv_bfloat16* b, float* c) {
  __shared__ __align__(32) __nv_bfloat16 own[8 * 56];
  for (int i = threadIdx.x; i < 8 * 48; i += 32) own[i / 48 * 56 + i % 48] = a[i];
  __syncwarp();
  gemm_wmma<8, 32, 16, __nv_bfloat16, float, wmma::row_major, wmma::row_major>(own, b, c, 48, 56, 32, 32);
}
// Bytes.
extern "C" __global__ void wmma_bytes(const signed char* a, const signed char* b, int* c) {
  gemm_wmma<16, 16, 16, signed char, int, wmma::row_major, wmma::col_major>(a, b, c, 48, 48, 48, 16);
}
// tf32: a[16][8] b[8][16].
extern "C" __global__ void wmma_tf32(const float* a, const float* b, float* c) {
  wmma::fragment<wmma::matrix_a, 16, 16, 8, wmma::precision::tf32, wmma::row_major> fa;
  wmma::fragment<wmma::matrix_b, 16, 16, 8, wmma::precision::tf32, wmma::row_major> fb;
  wmma::fragment<wmma::accumulator, 16, 16, 8, float> fc;
  wmma::load_matrix_sync(fc, c, 16, wmma::mem_row_major);
  wmma::load_matrix_sync(fa, a, 8);
  wmma::load_matrix_sync(fb, b, 16);
  for (int i = 0; i < fa.num_elements; i++) fa.x[i] = wmma::__float_to_tf32(fa.x[i]);
  for (int i = 0; i < fb.num_elements; i++) fb.x[i] = wmma::__float_to_tf32(fb.x[i]);
  wmma::mma_sync(fc, fa, fb, fc);
  wmma::store_matrix_sync(c, fc, 16, wmma::mem_row_major);
}
// Doubles: a[8][4] b[4][8].
extern "C" __global__ void wmma_double(const double* a, const double* b, double* c) {
  gemm_wmma<8, 8, 4, double, double, wmma::row_major, wmma::col_major>(a, b, c, 4, 4, 4, 8);
}

// c[16][8] = a[16][32] b[8][32]^T in signed bytes, then the same by dp4a; c holds both.
extern "C" __global__ void gemm_bytes(const u32* a, const u32* b, int* c) {
  int lane = threadIdx.x, d[4] = {};
  u32 fa[4], fb[2];
  for (int i = 0; i < 4; i++) fa[i] = a[(lane / 4 + i % 2 * 8) * 8 + lane % 4 + i / 2 * 4];
  for (int i = 0; i < 2; i++) fb[i] = b[lane / 4 * 8 + lane % 4 + i * 4];
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
               : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]));
  for (int e = 0; e < 4; e++) c[(lane / 4 + e / 2 * 8) * 8 + lane % 4 * 2 + e % 2] = d[e];
  for (int i = lane; i < 128; i += 32) {
    int sum = 0;
    for (int k = 0; k < 8; k++) sum = __dp4a(static_cast<int>(a[i / 8 * 8 + k]), static_cast<int>(b[i % 8 * 8 + k]), sum);
    c[128 + i] = sum + __dp2a_lo(static_cast<int>(a[i]), static_cast<int>(b[i % 64]), 0);
  }
}
