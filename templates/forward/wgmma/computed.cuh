// Gates that are computed: what they are stored as, and where their logits lie.
#pragma once

#include "forward/wgmma/copies.cuh"
#include "numbers.cuh"

// A gate that Of computes from logits stored as T. In a tile it takes what its logit takes, or a float32.
template <class Of, typename... T>
struct Computed {
  float none;
};
template <class Of, typename T>
struct Computed<Of, T> {
  T logit;
};

// Nothing is read of a gate without logits.
template <int COLS>
DEVICE void copy_tile(int, const NoRows&, i64, int) {}
