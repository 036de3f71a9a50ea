// Indices of a thread, element types and the instructions on them.
#pragma once

#include "ptx/base.cuh"

// Volatile, and read once by each stage: the compiler would otherwise compute every stage's addresses before the loop
// over chunks and hold them in registers through it.
DEVICE int lane_index() {
  int lane;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}

// Likewise.
DEVICE int thread_index() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}

// 2^x. Arguments are never positive here, so nothing overflows; results below the normal range are 0.
DEVICE float exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// A decay's natural log in base 2. e^-104 is below the smallest float32: a stronger decay forgets no more, and would
// only cost prefix sums their precision.
DEVICE float log2_decay(float g) { return fmaxf(g, -104.0f) * 1.4426950408889634f; }

// bfloat16, two to a register: element 0 in the low half.
struct Bf16 {
  u16 bits;
  static METHOD u32 pack(float lo, float hi) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(hi), "f"(lo));
    return pair;
  }
  static METHOD float low(u32 pair) { return __uint_as_float(pair << 16); }
  static METHOD float high(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }
  // d[16][8] += a[16][16] b[16][8], float32 sums.
  static METHOD void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
};

// IEEE half precision, likewise.
struct F16 {
  u16 bits;
  static METHOD u32 pack(float lo, float hi) {
    u32 pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(hi), "f"(lo));
    return pair;
  }
  static METHOD float low(u32 pair) {
    float x;
    asm("{ .reg .b16 lo, hi; mov.b32 {lo, hi}, %1; cvt.f32.f16 %0, lo; }" : "=f"(x) : "r"(pair));
    return x;
  }
  static METHOD float high(u32 pair) {
    float x;
    asm("{ .reg .b16 lo, hi; mov.b32 {lo, hi}, %1; cvt.f32.f16 %0, hi; }" : "=f"(x) : "r"(pair));
    return x;
  }
  static METHOD void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
};

// One stored number as float32.
DEVICE float load_number(const float* address) { return *address; }
template <typename T>
DEVICE float load_number(const T* address) {
  return T::low(address->bits);
}
