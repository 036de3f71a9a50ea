// The functions of formulas in float32. From e = exp(-|u|) nothing overflows or cancels, whatever u is; exponentials,
// and operands of products that may be large, saturate at 2^63, so that no infinity arises, nor 0 times one. A NaN stays.
#pragma once

#include "ptx/elements.cuh"

DEVICE float gate_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

DEVICE float gate_log2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// An operand within -2^63 to 2^63.
DEVICE float gate_saturated(float x) {
  const float most = 9223372036854775808.0f;
  return x > most ? most : x < -most ? -most : x;
}

// e^-|u|.
DEVICE float gate_falling(float u) { return exp2(fabsf(u) * -1.4426950408889634f); }

// 63 ln 2 is where it saturates.
DEVICE float gate_exp(float u) { return exp2((u > 43.668272f ? 43.668272f : u) * 1.4426950408889634f); }

DEVICE float gate_log(float u) { return gate_log2(u) * 0.6931471805599453f; }

DEVICE float gate_sigmoid(float u) {
  const float e = gate_falling(u);
  return (u >= 0.0f ? 1.0f : e) * gate_reciprocal(1.0f + e);
}

// ln(1 + e^u): below e = 2^-6 the logarithm would lose digits, and three terms of its series are exact enough.
DEVICE float gate_softplus(float u) {
  const float e = gate_falling(u);
  const float tail = e < 0.015625f ? e * (1.0f - e * (0.5f - e * 0.33333333f)) : gate_log2(1.0f + e) * 0.6931471805599453f;
  return (u > 0.0f ? u : 0.0f) + tail;
}

DEVICE float gate_logsigmoid(float u) { return -gate_softplus(-u); }

DEVICE float gate_silu(float u) { return u * gate_sigmoid(u); }

// Near 0 the quotient would cancel, and two terms of the series are exact enough.
DEVICE float gate_tanh(float u) {
  const float e = gate_falling(2.0f * u), square = u * u;
  const float far = (1.0f - e) * gate_reciprocal(1.0f + e);
  return fabsf(u) < 0.03125f ? u * (1.0f - square * (0.33333333f - square * 0.13333333f)) : u < 0.0f ? -far : far;
}
