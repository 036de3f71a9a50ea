#pragma once

#include "ptx/elements.cuh"
#include "work/sequence.cuh"

// Packed sequences, the longest first, so that the last blocks to start are short ones. Up to 32 of them, a length to a lane,
// each warp for itself; more keep the order they lie in.
DEVICE Work longest_first(Work work, const void* cu_seqlens, int is_64, int sequences) {
  if (cu_seqlens == nullptr || sequences > 32) return work;
  auto offset = [&](int sequence) { return sequence_offset(cu_seqlens, is_64, sequence); };
  const int lane = lane_index();
  const int length = lane < sequences ? static_cast<int>(offset(lane + 1) - offset(lane)) : -1;
  int rank = 0;
#pragma unroll 1
  for (int other = 0; other < sequences; ++other) {
    const int with = __shfl_sync(0xffffffffu, length, other);
    rank += with > length || (with == length && other < lane);
  }
  work.sequence = __ffs(__ballot_sync(0xffffffffu, lane < sequences && rank == work.sequence)) - 1;
  work.first = offset(work.sequence);
  work.length = static_cast<int>(offset(work.sequence + 1) - work.first);
  return work;
}
