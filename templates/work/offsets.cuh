// Offsets of packed sequences, int32 or int64.
#pragma once

#include "ptx/base.cuh"

DEVICE i64 sequence_offset(const void* cu_seqlens, int is_64, int index) {
  return is_64 ? static_cast<const i64*>(cu_seqlens)[index] : static_cast<const int*>(cu_seqlens)[index];
}
