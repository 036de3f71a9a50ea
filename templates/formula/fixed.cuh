// What a formula computes from parameters alone, once for a block.
#pragma once

#include "numbers.cuh"
#include "ptx/elements.cuh"
#include "ptx/shared.cuh"

// `count` numbers from `vector` on, a number to a channel or one for the head.
template <typename Of>
DEVICE void fill_fixed(int vector, int count, Of of) {
  for (int i = thread_index(); i < count; i += THREADS) at<float>(vector + i * 4) = of(i);
}
