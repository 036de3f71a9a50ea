// What a token's gates do, by granularity. Multiplying by 1 costs nothing.
#pragma once

#include "numbers.cuh"
#include "ptx/elements.cuh"

// alpha = exp(g).
DEVICE float decay_factor(float g) { return exp2(log2_decay(g)); }

struct NoDecay {
  template <typename State, typename Token>
  static METHOD void apply(State&, const Token&) {}
};

struct TokenDecay {
  template <typename State, typename Token>
  static METHOD void apply(State& state, const Token& token) {
    const float alpha = decay_factor(token.g);
#pragma unroll
    for (int step = 0; step < KEY_STEPS; ++step) {
#pragma unroll
      for (int i = 0; i < TILE_KEYS; ++i) {
#pragma unroll
        for (int j = 0; j < TILE_VALUES; ++j) state.s[step][i][j] *= alpha;
      }
    }
  }
};

struct ChannelDecay {
  template <typename State, typename Token>
  static METHOD void apply(State& state, const Token& token) {
#pragma unroll
    for (int step = 0; step < KEY_STEPS; ++step) {
#pragma unroll
      for (int i = 0; i < TILE_KEYS; ++i) {
        const float alpha = decay_factor(token.g.at(step, i));
#pragma unroll
        for (int j = 0; j < TILE_VALUES; ++j) state.s[step][i][j] *= alpha;
      }
    }
  }
};

// The erase gate is a factor on the key before the sum over K, or one on the sum.
struct TokenErase {
  template <typename Token>
  static METHOD float key(const Token&, int, int) { return 1.0f; }
  template <typename Token>
  static METHOD float sum(const Token& token) { return token.b; }
};

struct ChannelErase {
  template <typename Token>
  static METHOD float key(const Token& token, int step, int i) { return token.b.at(step, i); }
  template <typename Token>
  static METHOD float sum(const Token&) { return 1.0f; }
};

struct NoWrite {
  template <typename Token>
  static METHOD float at(const Token&, int) { return 1.0f; }
};

struct TokenWrite {
  template <typename Token>
  static METHOD float at(const Token& token, int) { return token.w; }
};

struct ChannelWrite {
  template <typename Token>
  static METHOD float at(const Token& token, int j) { return token.w.at(j); }
};

struct TiedWrite {
  template <typename Token>
  static METHOD float at(const Token& token, int) { return token.b; }
};
