// Gates along channels that are computed before their gradients are taken.
#pragma once

#include "backward/wgmma/channel_keys.cuh"
#include "backward/wgmma/channel_values.cuh"
#include "numbers.cuh"

// A gate along K in a tile of 16-bit numbers T. Its gradient, float32, leaves for memory as it is made: where, Of says.
template <class Of, typename T>
struct InTile : T {};
template <class Of, typename T>
struct BlockStore<InTile<Of, T>> {
  static METHOD void store(int, int first, int channel, const float (&x)[2][4], int lane) {
    Of::gradients().store(x, first, channel, lane);
  }
};

// The warp's 16 values of a gate along V that Of makes of logits, the first of the head's being `value`; as operands.
template <class Of, typename Element, class Logits>
struct ComputedValues {
  Logits logits;
  int value;
};
template <class Of, typename Element, class Logits>
DEVICE void fetch_values(ValueWords& words, const ComputedValues<Of, Element, Logits>& from, int exist, int lane) {
  const int own = lane % 4 * 4, d = from.value + own;
#pragma unroll
  for (int group = 0; group < CHUNK / 8; ++group) {
    const int token = group * 8 + lane / 4;
    u32(&pair)[4] = words[group / 2];
    pair[group % 2 * 2] = pair[group % 2 * 2 + 1] = 0;
    if (token < exist) {
      const float4 x = from.logits.load(token, own);
      pair[group % 2 * 2] = Element::pack(Of::of(x.x, d), Of::of(x.y, d + 1));
      pair[group % 2 * 2 + 1] = Element::pack(Of::of(x.z, d + 2), Of::of(x.w, d + 3));
    }
  }
}
