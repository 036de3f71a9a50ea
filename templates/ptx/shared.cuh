// Dynamic shared memory, `shared`, by byte offsets. A kernel's own text declares it, with the map that names offsets.
#pragma once

#include "numbers.cuh"

template <typename T>
DEVICE T& at(int offset) {
  return *reinterpret_cast<T*>(shared + offset);
}

DEVICE u32 shared_address(int offset) {
  return static_cast<u32>(__cvta_generic_to_shared(shared)) + offset;
}
