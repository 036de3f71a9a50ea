// Gates with one number per token, computed where their logits were fetched. Tokens that do not exist get 0 after the
// formula: no decay, nothing erased, nothing written, whatever a formula makes of a logit of 0.
#pragma once

#include "forward/wgmma/computed.cuh"
#include "forward/wgmma/vectors.cuh"
#include "numbers.cuh"

// Rows of a gate's logits, in the order that its formula takes them.
template <typename... T>
struct LogitRows {};
template <typename T, typename... Rest>
struct LogitRows<T, Rest...> {
  Rows<T> first;
  LogitRows<Rest...> rest;
};

// A lane's logits as they are stored, likewise.
template <typename... T>
struct TokenLogits {
  METHOD void fetch(const LogitRows<>&, i64, int, int) {}
  template <class Of, typename... X>
  METHOD float value(int, X... x) const {
    return Of::of(x..., 0);
  }
};
template <typename T, typename... Rest>
struct TokenLogits<T, Rest...> {
  TokenGate<T> first;
  TokenLogits<Rest...> rest;

  METHOD void fetch(const LogitRows<T, Rest...>& rows, i64 from, int exist, int lane) {
    first.fetch(rows.first, from, exist, lane);
    rest.fetch(rows.rest, from, exist, lane);
  }
  // Of the lane's token `r`, after logits that are known.
  template <class Of, typename... X>
  METHOD float value(int r, X... x) const {
    return rest.template value<Of>(r, x..., first[r]);
  }
};

template <class Of, typename... T>
struct TokenGate<Computed<Of, T...>> {
  TokenLogits<T...> logits;
  int exist;  // tokens from the lane's first on

  METHOD void fetch(const LogitRows<T...>& rows, i64 from, int tokens, int lane) {
    logits.fetch(rows, from, tokens, lane);
    exist = min(tokens, CHUNK) - lane * LANE_TOKENS;
  }
  METHOD float operator[](int r) const { return r < exist ? logits.template value<Of>(r) : 0.0f; }
};
