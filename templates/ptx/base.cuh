// Words, and how functions are declared.
#pragma once

using u16 = unsigned short;
using u32 = unsigned int;
using i64 = long long;
using u64 = unsigned long long;

#define DEVICE [[maybe_unused]] static __device__ __forceinline__
#define METHOD __device__ __forceinline__
