// e = b k as operands, where no decay scales them later: a tile of its own, or over b.
#pragma once

#include "numbers.cuh"
#include "chunk/erase_gates.cuh"
#include "ptx/elements.cuh"

template <typename Element, typename T>
DEVICE void gate_keys(int b, int k, int e) {
  const ChannelErase<T> erase{b};
  for (int i = thread_index(); i < CHUNK * (KEY / 8); i += THREADS) {
    const int row = i / (KEY / 8), d = i % (KEY / 8) * 8;
    float x[8];
    Stored<Element, KEY>::unit(x, k, row, d);
    erase.gate(x, row, d);
    store_unit<Element, KEY>(e, row, d, x);
  }
}
