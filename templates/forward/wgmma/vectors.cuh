// Vectors over a chunk's tokens that follow from gates with one number per token. One warp of the load warpgroup has the
// numbers in registers, fetched a chunk ahead.
#pragma once

#include "forward/wgmma/copies.cuh"
#include "forward/wgmma/ring.cuh"
#include "numbers.cuh"
#include "ptx/elements.cuh"
#include "ptx/shared.cuh"

// Neighbouring tokens of a lane.
enum : int { LANE_TOKENS = CHUNK > 32 ? CHUNK / 32 : 1 };

// A gate as it is stored: what is not looked at is not waited for. Tokens that do not exist are zeros: no decay, nothing
// erased, nothing written.
template <typename T>
struct TokenGate {
  T stored[LANE_TOKENS];

  METHOD void fetch(const Rows<T>& rows, i64 from, int exist, int lane) {
    const int token = lane * LANE_TOKENS;
    const T* source = rows.first + (from + token) * rows.stride;
#pragma unroll
    for (int r = 0; r < LANE_TOKENS; ++r) {
      stored[r] = T{};
      if (token + r < exist && token + r < CHUNK) stored[r] = *source;
      source += rows.stride;
    }
  }
  METHOD float operator[](int r) const { return load_number(&stored[r]); }
};

// The gates of a rule that have one number per token.
template <class Cfg>
struct TokenGates {
  enum : int {
    OWN_WRITE = Cfg::WRITE == TOKEN && !Cfg::TIED,
    ANY = Cfg::DECAY == TOKEN || Cfg::ERASE == TOKEN || OWN_WRITE,
  };
  TokenGate<typename Cfg::Decay> decay;
  TokenGate<typename Cfg::Erase> erase;
  TokenGate<typename Cfg::Write> write;

  // Of the chunk that begins `from` tokens from the first of `length`.
  template <class G, class B, class W>
  METHOD void fetch(const G& g, const B& b, const W& w, int from, int length, int lane) {
    if constexpr (Cfg::DECAY == TOKEN) decay.fetch(g, from, length - from, lane);
    if constexpr (Cfg::ERASE == TOKEN) erase.fetch(b, from, length - from, lane);
    if constexpr (OWN_WRITE) write.fetch(w, from, length - from, lane);
  }
};

// The lane's part of a vector.
template <typename Value>
DEVICE void store_vector(int vector, int lane, Value value) {
  if (CHUNK < 32 && lane >= CHUNK) return;
  const int place = vector + lane * (LANE_TOKENS * 4);
  if constexpr (LANE_TOKENS == 2) at<float2>(place) = {value(0), value(1)};
  else at<float>(place) = value(0);
}

// With G_i the log2 of the decay from the chunk's start through token i:
//   gamma = G    query = scale 2^G    decay_out = 2^(G_last - G)    chunk_decay = 2^G_last
//   beta = b     residual = -b 2^G, the sign and the factor of E^ S in R                      write = w
// Where the decay is not one number per token, 2^G is no part of them.
template <class Cfg>
DEVICE void store_vectors(const Buffer<Cfg>& buffer, const TokenGates<Cfg>& gates, float scale, int lane) {
  float into[LANE_TOKENS];
  if constexpr (Cfg::DECAY == TOKEN) {
    float sum[LANE_TOKENS], before = 0.0f;
#pragma unroll
    for (int r = 0; r < LANE_TOKENS; ++r) before = sum[r] = before + log2_decay(gates.decay[r]);
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const float other = __shfl_up_sync(0xffffffffu, before, step);
      if (lane >= step) before += other;
    }
    const float total = __shfl_sync(0xffffffffu, before, 31);
    // Handed on rather than taken off again: what is left of a difference depends on the lane's own, so that a token's
    // would depend on the next one's decay.
    before = __shfl_up_sync(0xffffffffu, before, 1);
    if (lane == 0) before = 0.0f;
#pragma unroll
    for (int r = 0; r < LANE_TOKENS; ++r) {
      sum[r] += before;
      into[r] = exp2(sum[r]);
    }
    store_vector(buffer.vector(Cfg::SMEM_DECAY_OUT), lane, [&](int r) { return exp2(total - sum[r]); });
    if (lane == 0) at<float>(buffer.chunk_decay()) = exp2(total);
    if constexpr (Cfg::OUTPUTS || Cfg::ERASE) {
      store_vector(buffer.vector(Cfg::SMEM_GAMMA), lane, [&](int r) { return sum[r]; });
    }
    if constexpr (Cfg::OUTPUTS) {
      store_vector(buffer.vector(Cfg::SMEM_QUERY), lane, [&](int r) { return scale * into[r]; });
    }
  } else {
#pragma unroll
    for (int r = 0; r < LANE_TOKENS; ++r) into[r] = 1.0f;
  }
  if constexpr (Cfg::ERASE == TOKEN) {
    store_vector(buffer.vector(Cfg::SMEM_BETA), lane, [&](int r) { return gates.erase[r]; });
    store_vector(buffer.vector(Cfg::SMEM_RESIDUAL), lane, [&](int r) { return -gates.erase[r] * into[r]; });
  } else if constexpr (Cfg::ERASE && Cfg::DECAY == TOKEN) {
    store_vector(buffer.vector(Cfg::SMEM_RESIDUAL), lane, [&](int r) { return -into[r]; });
  }
  if constexpr (TokenGates<Cfg>::OWN_WRITE) {
    store_vector(buffer.vector(Cfg::SMEM_WRITE), lane, [&](int r) { return gates.write[r]; });
  }
}
