// A head's state in memory is [VALUE][KEY]: a tile's values are rows of 16 bytes, neighbouring lanes hold neighbouring
// keys.
#pragma once

#include "numbers.cuh"
#include "decode/tile.cuh"

struct State {
  float s[KEY_STEPS][TILE_KEYS][TILE_VALUES];

  METHOD void load(const float* head, const Place& place) {
#pragma unroll
    for (int step = 0; step < KEY_STEPS; ++step) {
      const float* const tile = head + (place.value * KEY + place.key(step));
#pragma unroll
      for (int j = 0; j < TILE_VALUES; ++j) {
        float4 row = {};
        if (head != nullptr && place.has(step)) row = *reinterpret_cast<const float4*>(tile + j * KEY);
        s[step][0][j] = row.x;
        s[step][1][j] = row.y;
        s[step][2][j] = row.z;
        s[step][3][j] = row.w;
      }
    }
  }
  METHOD void store(float* head, const Place& place) const {
#pragma unroll
    for (int step = 0; step < KEY_STEPS; ++step) {
      const size_t tile = __cvta_generic_to_global(head + (place.value * KEY + place.key(step)));
      if (place.has(step)) {
#pragma unroll
        for (int j = 0; j < TILE_VALUES; ++j) {
          store_row(tile + j * KEY * 4, s[step][0][j], s[step][1][j], s[step][2][j], s[step][3][j]);
        }
      }
    }
  }
};
