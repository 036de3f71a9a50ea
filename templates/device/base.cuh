// Words, element types and the instructions on them.

using u16 = unsigned short;
using u32 = unsigned int;
using i64 = long long;

#define DEVICE [[maybe_unused]] static __device__ __forceinline__
#define METHOD __device__ __forceinline__

// Dynamic shared memory. The map above names byte offsets into it.
extern __shared__ __align__(128) unsigned char shared[];

template <typename T>
DEVICE T& at(int offset) {
  return *reinterpret_cast<T*>(shared + offset);
}

DEVICE u32 shared_address(int offset) {
  return static_cast<u32>(__cvta_generic_to_shared(shared)) + offset;
}

