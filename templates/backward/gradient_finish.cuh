// From sums to gradients: factors of the state terms, then everything that is elementwise.
#pragma once

#include "numbers.cuh"
#include "backward/gradient_keys.cuh"

DEVICE void store_number(float* address, float x) { *address = x; }
template <typename T>
DEVICE void store_number(T* address, float x) {
  address->bits = static_cast<u16>(T::pack(x, 0.0f));
}

// Sum of a token's COUNT partial sums, [COUNT][CHUNK].
template <int COUNT>
DEVICE float sum_partials(int partials, int token) {
  float sum = 0.0f;
  for (int part = 0; part < COUNT; ++part) sum += at<float>(partials + (part * CHUNK + token) * 4);
  return sum;
}

// Gradient of a gate with one number per token from the sums over warps' values or channels; one warp.
template <typename T, typename Sum>
DEVICE void write_token_gradient(T* rows, i64 stride, int exist, Sum sum) {
  const int lane = lane_index();
  for (int token = lane; token < CHUNK; token += 32) {
    if (token < exist) store_number(rows + token * stride, sum(token));
  }
}

// What q, e and k of a token have in the decay's gradient: q dq + e de - k dk.
template <typename Erase>
DEVICE float2 decay_share(const KeySums& sums, const typename Erase::Sums& left, const Erase& erase, int n, int half, int i,
                          int d, float2 query, float2 key) {
  const float2 share = {query.x * sums.q[n][half * 2] - key.x * sums.k[n][half * 2],
                        query.y * sums.q[n][half * 2 + 1] - key.y * sums.k[n][half * 2 + 1]};
  return erase.add(share, left, n, half, i, d, key);
}

// The state terms carry their tokens' decay; tau meets k for the chunk's end.
template <typename Element, typename Decay, typename Erase>
DEVICE void scale_sums(KeySums& sums, typename Erase::Sums& left, typename Decay::Tail& tail, typename Decay::Words& words,
                       const Decay& decay, const Erase& erase, const KeyTask& task, int q, int k, float scale) {
  each_pair(task, [&](int n, int half, int i, int d) {
    const float2 into = decay.into(i, d), out = decay.out(i, d);
    const float2 query = Neighbours<Element>::load(q, i, d), key = Neighbours<Element>::load(k, i, d);
    sums.q[n][half * 2] *= scale * into.x;
    sums.q[n][half * 2 + 1] *= scale * into.y;
    erase.scale(left, n, half, {-into.x, -into.y});
    sums.k[n][half * 2] *= out.x;
    sums.k[n][half * 2 + 1] *= out.y;
    decay.note_tail(tail, n, key, {sums.k[n][half * 2], sums.k[n][half * 2 + 1]});
    decay.note_state(words, half, decay_share(sums, left, erase, n, half, i, d, query, key));
  });
}

// q, k of one value head: packed for their tiles, or, where several value heads share them, float32 for the sum over
// the group that follows.
template <typename Element, typename Decay, typename Erase>
DEVICE void finish_keys(KeyWords<Element>& words, typename Decay::Words& decay_words, typename Erase::Words& erase_words,
                        const KeySums& sums, const typename Erase::Sums& left, const Decay& decay, const Erase& erase,
                        const KeyTask& task, int q, int k, int diagonal, float* dq_head, float* dk_head, i64 head_stride,
                        int exist) {
  each_pair(task, [&](int n, int half, int i, int d) {
    const float2 query = Neighbours<Element>::load(q, i, d), key = Neighbours<Element>::load(k, i, d);
    float2 dq = {sums.q[n][half * 2], sums.q[n][half * 2 + 1]};
    float2 dk = {sums.k[n][half * 2], sums.k[n][half * 2 + 1]};
    decay.note(decay_words, n, half, decay_share(sums, left, erase, n, half, i, d, query, key));
    const float2 share = erase.share(left, erase_words, n, half, i, d, key);
    const float same = at<float>(diagonal + i * 4);
    dq = {dq.x + same * key.x, dq.y + same * key.y};
    dk = {dk.x + same * query.x + share.x, dk.y + same * query.y + share.y};
    if (dq_head == nullptr) {
      words.q[n][half] = Element::pack(dq.x, dq.y);
      words.k[n][half] = Element::pack(dk.x, dk.y);
    } else if (i < exist) {
      *reinterpret_cast<float2*>(dq_head + i * head_stride + d) = dq;
      *reinterpret_cast<float2*>(dk_head + i * head_stride + d) = dk;
    }
  });
}

template <typename Element>
DEVICE void store_keys(const KeyWords<Element>& words, const KeyTask& task, int q, int k) {
  each_pair(task, [&](int n, int half, int i, int d) {
    Neighbours<Element>::store(q, i, d, words.q[n][half]);
    Neighbours<Element>::store(k, i, d, words.k[n][half]);
  });
}
