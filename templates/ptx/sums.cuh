// Sums over the lanes of a warp; every lane that takes part ends with the sum.
#pragma once

#include "ptx/base.cuh"

// Over the four lanes that share a row of an accumulator.
DEVICE float sum_quad(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

DEVICE float sum_warp(float x) {
#pragma unroll
  for (int step = 1; step < 32; step *= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}
