// The unit that a warp holds its rows of a state in, a power of two.
//
// A state is float32, but as an operand of products it is as wide as they take, and f16 ends at 65,504. What a chunk does is
// linear in the state and the values it writes: both are held in a unit in which the largest of them is small, and what
// leaves the chunk is brought back. The unit is 1 unless numbers are larger than ever matters otherwise.
#pragma once

#include "numbers.cuh"
#include "ptx/elements.cuh"

DEVICE float power_of_two(int exponent) { return __int_as_float((exponent + 127) << 23); }

template <int N>
DEVICE void change_unit(float (&x)[N][4], float factor) {
#pragma unroll
  for (int n = 0; n < N; ++n) {
#pragma unroll
    for (int c = 0; c < 4; ++c) x[n][c] *= factor;
  }
}

// bfloat16 reaches as far as float32.
template <typename Element>
struct Unit {
  enum : bool { MOVES = false };
  METHOD float up() const { return 1.0f; }
  METHOD float down() const { return 1.0f; }
};

template <>
struct Unit<F16> {
  enum : int {
    MOVES = true,
    REACH = 9,   // the largest number is below 2^9: sums over a hundred of them still are operands
    MOST = 100,  // of exponents, or a factor would leave float32
  };
  int exponent = 0;  // alike in all lanes

  METHOD float up() const { return power_of_two(exponent); }
  METHOD float down() const { return power_of_two(-exponent); }

  // Brings the warp's numbers, which are in this unit, to the unit that suits them.
  template <typename... X>
  METHOD void fit(X&... x) {
    float largest = 0.0f;
    (note(largest, x), ...);
    const int size = static_cast<int>(__reduce_max_sync(0xffffffffu, __float_as_uint(largest)) >> 23) - 126;
    int wanted = exponent + size - REACH;
    wanted = wanted < 0 ? 0 : wanted > MOST ? MOST : wanted;
    if (wanted == exponent) return;
    const float factor = power_of_two(exponent - wanted);
    (change_unit(x, factor), ...);
    exponent = wanted;
  }

 private:
  template <int N>
  static METHOD void note(float& largest, const float (&x)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
      for (int c = 0; c < 4; ++c) largest = fmaxf(largest, fabsf(x[n][c]));
    }
  }
};
