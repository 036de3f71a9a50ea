// Floating point: directed rounding, the mathematical library with its slow paths, halves and brain floats.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
typedef unsigned u32;

extern "C" __global__ void rounding(const float* a, const float* b, const float* c, float* y) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  float u = a[i], v = b[i], w = c[i], *out = y + i * 16;
  out[0] = __fadd_rn(u, v);
  out[1] = __fadd_rz(u, v);
  out[2] = __fadd_rd(u, v);
  out[3] = __fadd_ru(u, v);
  out[4] = __fmul_rz(u, v);
  out[5] = __fmul_rd(u, v);
  out[6] = __fmul_ru(u, v);
  out[7] = __fmaf_rz(u, v, w);
  out[8] = __fmaf_rd(u, v, w);
  out[9] = __fmaf_ru(u, v, w);
  out[10] = __fdiv_rd(u, v);
  out[11] = __fdiv_ru(u, v);
  out[12] = __fsqrt_rz(fabsf(u));
  out[13] = __fsqrt_ru(fabsf(u));
  out[14] = __frcp_rd(v);
  out[15] = __fsub_rd(u, v);
}

extern "C" __global__ void double_rounding(const double* a, const double* b, const double* c, double* y) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  double u = a[i], v = b[i], w = c[i], *out = y + i * 16;
  out[0] = __dadd_rn(u, v);
  out[1] = __dadd_rz(u, v);
  out[2] = __dadd_rd(u, v);
  out[3] = __dadd_ru(u, v);
  out[4] = __dmul_rz(u, v);
  out[5] = __dmul_rd(u, v);
  out[6] = __dmul_ru(u, v);
  out[7] = __fma_rz(u, v, w);
  out[8] = __fma_rd(u, v, w);
  out[9] = __fma_ru(u, v, w);
  out[10] = __ddiv_rd(u, v);
  out[11] = __ddiv_ru(u, v);
  out[12] = __dsqrt_rz(fabs(u));
  out[13] = __dsqrt_ru(fabs(u));
  out[14] = __drcp_rd(v);
  out[15] = __dsub_ru(u, v);
}

// Library functions of f32: sine of a large number goes through a table in local memory.
extern "C" __global__ void library(const float* x, float* y) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  float v = x[i], *out = y + i * 16;
  out[0] = sinf(v);
  out[1] = cosf(v * 1e6f);
  out[2] = tanf(v);
  out[3] = expf(v);
  out[4] = logf(fabsf(v));
  out[5] = powf(fabsf(v), 1.7f);
  out[6] = erff(v);
  out[7] = tanhf(v);
  out[8] = atan2f(v, 2.0f);
  out[9] = fmodf(v, 0.7f);
  out[10] = cbrtf(v);
  out[11] = expm1f(v);
  out[12] = log1pf(fabsf(v));
  out[13] = rintf(v) + floorf(v) + ceilf(v) + truncf(v) + roundf(v);
  out[14] = exp2f(v * 1.25f);
  int exponent;
  out[15] = frexpf(v, &exponent) + exponent + ldexpf(v, 3) + copysignf(2.0f, v) + hypotf(v, 1.0f);
}

extern "C" __global__ void double_library(const double* x, double* y) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  double v = x[i], *out = y + i * 8;
  out[0] = sin(v);
  out[1] = exp(v);
  out[2] = log(fabs(v));
  out[3] = pow(fabs(v), 1.7);
  out[4] = v / 3.7;
  out[5] = sqrt(fabs(v)) + 1 / v;
  out[6] = tanh(v) + rint(v);
  out[7] = erf(v) + cos(v * 1e8);
}

// Pairs of halves and of brain floats; two words out of each.
extern "C" __global__ void halves(const __half2* a, const __half2* b, const __nv_bfloat162* c, const __nv_bfloat162* d, u32* y) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  __half2 u = a[i], v = b[i];
  __nv_bfloat162 s = c[i], t = d[i];
  u32* out = y + i * 16;
  auto put = [&](int at, auto value) { out[at] = *reinterpret_cast<u32*>(&value); };
  put(0, __hadd2(u, v));
  put(1, __hmul2(u, v));
  put(2, __hfma2(u, v, u));
  put(3, __hmax2(u, v));
  put(4, __hfma2_relu(u, v, v));
  put(5, __hsub2_sat(u, v));
  put(6, __hneg2(__habs2(u)));
  put(7, __hge2(u, v));
  put(8, __hadd2(s, t));
  put(9, __hmul2(s, t));
  put(10, __hfma2(s, t, s));
  put(11, __hmin2_nan(s, t));
  put(12, __float22bfloat162_rn(make_float2(__low2float(s) * 3, __high2float(t) / 3)));
  put(13, h2rint(u));
  put(14, __hcmadd(u, v, u));
  out[15] = __half_as_ushort(__hdiv(u.x, v.y)) | static_cast<u32>(__hlt(u.x, v.x)) << 16 | static_cast<u32>(__hbgt2(s, t)) << 17;
}

// Exponentials and their kin on halves.
extern "C" __global__ void half_library(const __half2* a, __half2* y) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  __half2 v = a[i], *out = y + i * 4;
  out[0] = h2exp(v);
  out[1] = h2sqrt(__habs2(v));
  out[2] = h2rcp(v);
  out[3] = h2tanh(v);
}

// Eight-bit floats and back.
extern "C" __global__ void bytes(const float* x, u32* y) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  float v = x[i];
  u32* out = y + i * 4;
  __nv_fp8_storage_t e4m3 = __nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E4M3);
  __nv_fp8_storage_t e5m2 = __nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E5M2);
  out[0] = e4m3;
  out[1] = e5m2;
  out[2] = __half_as_ushort(__half(__nv_cvt_fp8_to_halfraw(e4m3, __NV_E4M3)));
  out[3] = __half_as_ushort(__half(__nv_cvt_fp8_to_halfraw(e5m2, __NV_E5M2)));
}
