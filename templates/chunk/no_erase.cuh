// Nothing is erased: no L, and a chunk writes Z as it is.
#pragma once

#include "numbers.cuh"
#include "tile/tile.cuh"

struct NoErase {
  struct Operand {};
  struct Sums {};
  METHOD void multiply(Sums&, int, int, const u32 (&)[4], int) const {}
  METHOD void store(const Sums&, int, int, int, int, float2) const {}
  METHOD float2 add(float2 w, const Sums&, int, int, int, float2) const { return w; }
  METHOD Operand load(int, int, int, int) const { return {}; }
  METHOD Operand gate(const Fragment&, int, int, int) const { return {}; }
  METHOD void multiply(Sums&, const Operand&, const Fragment&, const u32 (&)[4]) const {}
  METHOD void store_below(const Sums&, int, int, int, int) const {}
  template <int HIGH>
  METHOD void store_diagonal(const Sums (&)[2], int, int, int, int) const {}
  METHOD void scale(const float (&)[8], const float (&)[8], int, int) const {}
};
