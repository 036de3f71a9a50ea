// Which chunk, sequence and head a block serves where every chunk is on its own. Blocks number the slots of all
// sequences' chunks, a few of which stand empty.
#pragma once

#include "numbers.cuh"
#include "work/offsets.cuh"

struct ChunkWork {
  int value_head;
  int key_head;
  int batch;   // row of the token tensors
  i64 first;   // the chunk's first token in that row
  i64 token;   // the same among all tokens
  i64 slot;    // of the chunk among all chunks
  int exist;   // tokens from there to the sequence's end; none: the slot is empty

  template <typename T>
  METHOD T* rows(T* base, i64 batch_stride, i64 token_stride, i64 head_stride, int head) const {
    return base + batch * batch_stride + first * token_stride + head * head_stride;
  }
};

DEVICE ChunkWork find_chunk(const void* cu_seqlens, int is_64, int sequences, int tokens, int key_heads, int value_heads) {
  auto offset = [&](int sequence) {
    return cu_seqlens == nullptr ? static_cast<i64>(sequence) * tokens : sequence_offset(cu_seqlens, is_64, sequence);
  };
  ChunkWork work;
  work.value_head = blockIdx.x % value_heads;
  work.key_head = work.value_head / (value_heads / key_heads);
  work.slot = blockIdx.x / value_heads;
  // The last sequence whose first slot is not past this one.
  int low = 0, high = sequences - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (offset(middle) / CHUNK + middle <= work.slot) low = middle;
    else high = middle - 1;
  }
  const i64 begin = offset(low), end = offset(low + 1);
  const i64 chunk = work.slot - (begin / CHUNK + low);
  work.token = begin + chunk * CHUNK;
  work.exist = static_cast<int>(end - work.token < CHUNK ? end - work.token : CHUNK);
  work.batch = cu_seqlens == nullptr ? low : 0;
  work.first = cu_seqlens == nullptr ? work.token - begin : work.token;
  return work;
}
