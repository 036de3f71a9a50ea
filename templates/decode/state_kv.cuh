// A head's state in memory is [KEY][VALUE]: a tile's keys are rows of 16 bytes, neighbouring lanes hold neighbouring
// values.
#pragma once

#include "numbers.cuh"
#include "decode/tile.cuh"

struct State {
  float s[KEY_STEPS][TILE_KEYS][TILE_VALUES];

  METHOD void load(const float* head, const Place& place) {
#pragma unroll
    for (int step = 0; step < KEY_STEPS; ++step) {
      const float* const tile = head + (place.key(step) * VALUE + place.value);
#pragma unroll
      for (int i = 0; i < TILE_KEYS; ++i) {
        float4 row = {};
        if (head != nullptr && place.has(step)) row = *reinterpret_cast<const float4*>(tile + i * VALUE);
        s[step][i][0] = row.x;
        s[step][i][1] = row.y;
        s[step][i][2] = row.z;
        s[step][i][3] = row.w;
      }
    }
  }
  METHOD void store(float* head, const Place& place) const {
#pragma unroll
    for (int step = 0; step < KEY_STEPS; ++step) {
      const size_t tile = __cvta_generic_to_global(head + (place.key(step) * VALUE + place.value));
      if (place.has(step)) {
#pragma unroll
        for (int i = 0; i < TILE_KEYS; ++i) {
          store_row(tile + i * VALUE * 4, s[step][i][0], s[step][i][1], s[step][i][2], s[step][i][3]);
        }
      }
    }
  }
};
