// Which sequence, head and value rows a block serves.
#pragma once

#include "numbers.cuh"
#include "work/offsets.cuh"

struct Work {
  int sequence;
  int value_head;
  int key_head;
  int value_block;  // slice of the value dim
  int batch;        // row of the token tensors
  i64 first;        // first token in that row
  int length;       // tokens

  // Where this work's rows of a token tensor begin.
  template <typename T>
  METHOD T* rows(T* base, i64 batch_stride, i64 token_stride, i64 head_stride, int head) const {
    return base + batch * batch_stride + first * token_stride + head * head_stride;
  }
};

// Blocks of one sequence and head are neighbours; a null cu_seqlens means dense rows of `tokens`.
DEVICE Work find_work(const void* cu_seqlens, int is_64, int tokens, int key_heads, int value_heads) {
  Work work;
  work.value_block = blockIdx.x % VALUE_SPLIT;
  const int pair = blockIdx.x / VALUE_SPLIT;
  work.value_head = pair % value_heads;
  work.sequence = pair / value_heads;
  work.key_head = work.value_head / (value_heads / key_heads);
  if (cu_seqlens == nullptr) {
    work.batch = work.sequence;
    work.first = 0;
    work.length = tokens;
  } else {
    work.batch = 0;
    work.first = sequence_offset(cu_seqlens, is_64, work.sequence);
    work.length = static_cast<int>(sequence_offset(cu_seqlens, is_64, work.sequence + 1) - work.first);
  }
  return work;
}

// A head's state in a pool of [slots, value heads, KEY x VALUE] float32, or null: no pool, or a negative slot.
template <typename T>
DEVICE T* find_state(T* pool, const int* slots, const Work& work, int value_heads) {
  if (pool == nullptr) return nullptr;
  const i64 slot = slots == nullptr ? work.sequence : slots[work.sequence];
  return slot < 0 ? nullptr : pool + (slot * value_heads + work.value_head) * (KEY * VALUE);
}
