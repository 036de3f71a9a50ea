// The part of a state a thread holds: for each of KEY_STEPS steps a tile of TILE_KEYS keys and TILE_VALUES values, in
// registers from the first token to the last. A step of the block covers KEY_WARPS x KEY_LANES tiles along K.
#pragma once

#include "numbers.cuh"
#include "ptx/elements.cuh"

struct Place {
  int key_warp, key_lane, value_warp, value_lane;
  int column;  // first value of the tile, counted in the block
  int value;   // and in the head

  METHOD explicit Place(int value_block) {
    const int lane = lane_index();
    key_lane = lane / KEY_LANE_STRIDE % KEY_LANES;
    value_lane = lane / VALUE_LANE_STRIDE % VALUE_LANES;
    key_warp = warp_index() % KEY_WARPS;
    value_warp = warp_index() / KEY_WARPS;
    column = (value_warp * VALUE_LANES + value_lane) * TILE_VALUES;
    value = value_block * BLOCK_VALUES + column;
  }
  METHOD int key(int step) const { return ((step * KEY_WARPS + key_warp) * KEY_LANES + key_lane) * TILE_KEYS; }
  // Tiles past the end of K or V are zeros and stay zeros.
  METHOD bool has_key(int step) const {
    return KEY_STEPS * KEY_WARPS * KEY_LANES * TILE_KEYS == KEY || key(step) < KEY;
  }
  METHOD bool has_value() const { return VALUE_SPLIT * BLOCK_VALUES == VALUE || value < VALUE; }
  METHOD bool has(int step) const { return has_key(step) && has_value(); }
};

// Entry i of a row of stored numbers.
template <typename T>
struct Stored {
  static METHOD float at(const u32* words, int i) { return i % 2 ? T::high(words[i / 2]) : T::low(words[i / 2]); }
};

template <>
struct Stored<float> {
  static METHOD float at(const u32* words, int i) { return __uint_as_float(words[i]); }
};

// N neighbouring numbers as they are stored, 8 bytes or a multiple of 16.
template <typename T, int N>
struct Numbers {
  static constexpr int WORDS = N * sizeof(T) / 4;
  u32 words[WORDS];

  METHOD void load(const T* from, bool exists) {
    if (WORDS == 2) {
      const uint2 pair = exists ? *reinterpret_cast<const uint2*>(from) : uint2{};
      words[0] = pair.x;
      words[1] = pair.y;
    } else {
#pragma unroll
      for (int i = 0; i + 3 < WORDS; i += 4) {
        const uint4 four = exists ? *reinterpret_cast<const uint4*>(from + i * 4 / sizeof(T)) : uint4{};
        words[i] = four.x;
        words[i + 1] = four.y;
        words[i + 2] = four.z;
        words[i + 3] = four.w;
      }
    }
  }
  METHOD float at(int i) const { return Stored<T>::at(words, i); }
};

// A token's numbers along K, the thread's share.
template <typename T>
struct KeyNumbers {
  Numbers<T, TILE_KEYS> step[KEY_STEPS];

  METHOD void load(const T* row, const Place& place) {
#pragma unroll
    for (int s = 0; s < KEY_STEPS; ++s) step[s].load(row + place.key(s), place.has_key(s));
  }
  METHOD float at(int s, int i) const { return step[s].at(i); }
};

// A token's numbers along V, likewise.
template <typename T>
struct ValueNumbers {
  Numbers<T, TILE_VALUES> tile;

  METHOD void load(const T* row, const Place& place) { tile.load(row + place.value, place.has_value()); }
  METHOD float at(int j) const { return tile.at(j); }
};

// Vector stores as instructions, at addresses in global memory: left to the compiler, some are broken up into words,
// each a request of its own.
DEVICE void store_row(size_t to, float x, float y, float z, float w) {
  asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(x), "f"(y), "f"(z), "f"(w)
               : "memory");
}

DEVICE void store_words(size_t to, const u32 (&words)[2]) {
  asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(words[0]), "r"(words[1])
               : "memory");
}

DEVICE void store_words(size_t to, const u32 (&words)[4]) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(words[0]), "r"(words[1]), "r"(words[2]),
               "r"(words[3])
               : "memory");
}

// A tile's outputs, rounded, in one store.
template <typename T>
DEVICE void store_values(T* row, const Place& place, const float (&x)[TILE_VALUES]) {
  u32 words[TILE_VALUES / 2];
#pragma unroll
  for (int i = 0; i < TILE_VALUES / 2; ++i) words[i] = T::pack(x[i * 2], x[i * 2 + 1]);
  store_words(__cvta_generic_to_global(row + place.value), words);
}
