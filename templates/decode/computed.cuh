// What formulas make of a token's inputs: normalised rows and gates, the thread's share of them.
#pragma once

#include "numbers.cuh"
#include "decode/tile.cuh"

// A row of q or k as it is read for its norm, a pair of neighbouring numbers to a lane: each warp has all of it.
template <typename T>
struct NormPairs {
  static constexpr int PAIRS = (KEY / 2 + 31) / 32;
  u32 pairs[PAIRS];

  METHOD void load(const T* row) {
    const int lane = lane_index();
#pragma unroll
    for (int i = 0; i < PAIRS; ++i) {
      const int pair = i * 32 + lane;
      pairs[i] = pair < KEY / 2 ? reinterpret_cast<const u32*>(row)[pair] : 0;
    }
  }
  // 1 / sqrt(sum of x^2 + 1e-6).
  METHOD float inverse() const {
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < PAIRS; ++i) squares += T::low(pairs[i]) * T::low(pairs[i]) + T::high(pairs[i]) * T::high(pairs[i]);
#pragma unroll
    for (int step = 1; step < 32; step *= 2) squares += __shfl_xor_sync(0xffffffffu, squares, step);
    float scale;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(scale) : "f"(squares + 1e-6f));
    return scale;
  }
};

template <typename T>
struct NormedRow {
  const KeyNumbers<T>& row;
  float scale;
  METHOD float at(int step, int i) const { return row.at(step, i) * scale; }
};

// Gates along K and along V.
struct KeyGates {
  float x[KEY_STEPS][TILE_KEYS];
  METHOD float at(int step, int i) const { return x[step][i]; }
};

struct ValueGates {
  float x[TILE_VALUES];
  METHOD float at(int j) const { return x[j]; }
};

// `of(step, i, d)` is the gate of the thread's number i of a step, which is channel d of the head; past the end of K there
// is none.
template <typename Of>
DEVICE void compute_keys(KeyGates& gates, const Place& place, Of of) {
#pragma unroll
  for (int step = 0; step < KEY_STEPS; ++step) {
#pragma unroll
    for (int i = 0; i < TILE_KEYS; ++i) {
      gates.x[step][i] = place.has_key(step) ? of(step, i, place.key(step) + i) : 0.0f;
    }
  }
}

template <typename Of>
DEVICE void compute_values(ValueGates& gates, const Place& place, Of of) {
#pragma unroll
  for (int j = 0; j < TILE_VALUES; ++j) gates.x[j] = place.has_value() ? of(j, place.value + j) : 0.0f;
}
