// Rows of S^T, and of A^T, between accumulators and [rows][KEY] float32. A warp has 16 rows, the first of them `value`, in
// the order of its accumulators: on mma.sync that is not the order of values, and nothing asks for it.
#pragma once

#include "numbers.cuh"
#include "ptx/elements.cuh"

template <class Rows>
DEVICE void load_rows(Rows& state, const float* rows, int value) {
  const int lane = lane_index();
#pragma unroll
  for (int n = 0; n < KEY / 8; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = value + lane / 4 + half * 8;
      const float2 x = *reinterpret_cast<const float2*>(rows + row * KEY + n * 8 + lane % 4 * 2);
      state.s[n][half * 2] = x.x;
      state.s[n][half * 2 + 1] = x.y;
    }
  }
}

// Rows from ROWS on are not there. In words of PTX, as the compiler takes such a store apart here and there.
template <int ROWS, class Rows>
DEVICE void store_rows(const Rows& state, float* rows, int value) {
  const int lane = lane_index();
  const float up = state.unit.up();
#pragma unroll
  for (int n = 0; n < KEY / 8; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = value + lane / 4 + half * 8;
      float* const at = rows + row * KEY + n * 8 + lane % 4 * 2;
      if (row < ROWS) {
        asm volatile("st.global.v2.f32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(at)), "f"(state.s[n][half * 2] * up),
                     "f"(state.s[n][half * 2 + 1] * up)
                     : "memory");
      }
    }
  }
}
