// Sums over the value heads that share a key head, in a fixed order: dq and dk of grouped heads, float32
// [tokens][value heads][KEY] in, operand type out.
#pragma once

#include "numbers.cuh"
#include "ptx/elements.cuh"

template <typename Element>
DEVICE void sum_heads(const float* heads, Element* rows, i64 token, int key_head, int group, int value_heads) {
  for (int d = thread_index() * 2; d < KEY; d += THREADS * 2) {
    float2 sum = {0.0f, 0.0f};
    for (int head = key_head * group; head < (key_head + 1) * group; ++head) {
      const float2 part = *reinterpret_cast<const float2*>(heads + (token * value_heads + head) * KEY + d);
      sum = {sum.x + part.x, sum.y + part.y};
    }
    *reinterpret_cast<u32*>(rows + d) = Element::pack(sum.x, sum.y);
  }
}
