// Integers: fields, permutations, counts, wide products and quotients, SIMD in a word. Each thread writes a row of words.
#include <cuda_fp16.h>
typedef unsigned u32;
typedef unsigned long long u64;

extern "C" __global__ void fields(const u32* a, const u32* b, u32* y) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  u32 v = a[i], w = b[i], r, *out = y + i * 16;
  asm("bfi.b32 %0, %1, %2, %3, %4;" : "=r"(r) : "r"(v), "r"(w), "r"(v & 31), "r"(w & 15));
  out[0] = r;
  asm("bfe.u32 %0, %1, %2, %3;" : "=r"(r) : "r"(v), "r"(w & 31), "r"(7));
  out[1] = r;
  asm("bfe.s32 %0, %1, %2, %3;" : "=r"(r) : "r"(v), "r"(w & 31), "r"(9));
  out[2] = r;
  asm("lop3.b32 %0, %1, %2, %3, 0x96;" : "=r"(r) : "r"(v), "r"(w), "r"(v >> 3));
  out[3] = r;
  out[4] = __byte_perm(v, w, 0x5140 + (v & 7));
  out[5] = __funnelshift_l(v, w, w & 63);
  out[6] = __funnelshift_rc(v, w, v & 63);
  out[7] = __clz(v) + 64 * __popc(w) + 4096 * __ffs(v);
  out[8] = __brev(v) ^ __clzll(u64(v) << 7 | w);
  out[9] = __umulhi(v, w) + __mulhi(static_cast<int>(v), static_cast<int>(w));
  out[10] = __usad(v, w, 5) + __sad(static_cast<int>(v), static_cast<int>(w), 3);
  out[11] = __uhadd(v, w) ^ __urhadd(v, w) ^ __rhadd(static_cast<int>(v), static_cast<int>(w));
  u64 wide = u64(v) << 32 | w, by = w % 1000 + 1;
  out[12] = static_cast<u32>(wide / by) ^ static_cast<u32>(wide % by);
  out[13] = static_cast<u32>(static_cast<long long>(wide) / -static_cast<long long>(by)) + static_cast<u32>(__umul64hi(wide, ~wide));
  unsigned __int128 huge = static_cast<unsigned __int128>(wide) * wide + v;
  out[14] = static_cast<u32>(huge >> 64) ^ static_cast<u32>(huge >> 32);
  out[15] = v / (w | 1) + static_cast<u32>(static_cast<int>(v) % (static_cast<int>(w) | 1)) + __popcll(wide) + __brevll(wide);
}

// Four bytes or two halves at a time.
extern "C" __global__ void video(const u32* a, const u32* b, u32* y) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  u32 v = a[i], w = b[i], *out = y + i * 16;
  out[0] = __vabsdiffu4(v, w);
  out[1] = __vsadu4(v, w);
  out[2] = __vadd4(v, w);
  out[3] = __vsub4(v, w);
  out[4] = __vavgu4(v, w);
  out[5] = __vmaxs4(v, w);
  out[6] = __vminu4(v, w);
  out[7] = __vcmpeq4(v, w & 0xff00ff ^ v);
  out[8] = __vaddss2(v, w);
  out[9] = __vsubus2(v, w);
  out[10] = __vmaxs2(v, w);
  out[11] = __vminu2(v, w);
  out[12] = __vcmpgts2(v, w);
  out[13] = __vabsdiffs2(v, w);
  out[14] = __vadd2(v, w);
  out[15] = __vneg2(v) ^ __vabs4(w);
}

// Small types and saturating conversions.
extern "C" __global__ void narrow(const short* a, const short* b, const float* x, int* y) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, *out = y + i * 8;
  short v = a[i], w = b[i];
  unsigned short uv = v, uw = w;
  out[0] = static_cast<short>(v * w + v);
  out[1] = uv / (uw | 1) + v % (w | 1);
  out[2] = min(v, w) * 3 + max(uv, uw);
  out[3] = static_cast<signed char>(v) - static_cast<unsigned char>(w) + (v >> 3) + (uw << 2);
  out[4] = __float2int_rn(x[i]) + __float2uint_rz(fabsf(x[i]) * 1000) + static_cast<int>(__float2ll_ru(x[i]));
  out[5] = __float2int_rd(x[i] * 3e9f) ^ static_cast<int>(__double2uint_rn(x[i] * 1e7));
  out[6] = __half2int_rn(__float2half_rn(x[i])) + __half2short_rz(__int2half_rn(v));
  out[7] = __float_as_int(__int2float_rz(v * 65537)) ^ __float_as_int(__ull2float_rn(0x123456789abcdefull * uv));
}
