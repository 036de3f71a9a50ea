// A warp's 16 value rows of v, w and o: of a chunk's tile in shared memory, and of device memory.
#pragma once

#include "numbers.cuh"
#include "ptx/elements.cuh"
#include "ptx/shared.cuh"

// Values of 16 tokens, and of the warp's 16 rows, from a tile [CHUNK][VALUES], transposed into accumulator layout.
template <typename T>
struct Values {
  enum : bool { ALONE = false };  // no lane goes on before all have read
  u32 address;
  METHOD Values(int tile, int warp, int lane)
      : address(shared_address(tile + Tile<VALUES, 2>::offset(lane % 8 + lane / 16 * 8, warp * 16 + lane / 8 % 2 * 8))) {}
  // The same as the register operand of a product over tokens.
  METHOD void operand(u32 (&pairs)[4], int tokens) const {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(pairs[0]), "=r"(pairs[1]), "=r"(pairs[2]), "=r"(pairs[3])
                 : "r"(address + tokens * Tile<VALUES, 2>::ROW));
  }
  METHOD void load(float (&near)[4], float (&far)[4], int tokens) const {
    u32 pairs[4];
    operand(pairs, tokens);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      near[half * 2] = T::low(pairs[half]);
      near[half * 2 + 1] = T::high(pairs[half]);
      far[half * 2] = T::low(pairs[half + 2]);
      far[half * 2 + 1] = T::high(pairs[half + 2]);
    }
  }
};
template <>
struct Values<float> {
  enum : bool { ALONE = true };
  int tile, value, lane;
  METHOD Values(int tile, int warp, int lane) : tile(tile), value(warp * 16 + lane / 4), lane(lane) {}
  METHOD void load(float (&near)[4], float (&far)[4], int tokens) const {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int token = tokens + lane % 4 * 2 + c % 2;
      near[c] = at<float>(tile + Tile<VALUES, 4>::offset(token, value + c / 2 * 8));
      far[c] = at<float>(tile + Tile<VALUES, 4>::offset(token + 8, value + c / 2 * 8));
    }
  }
};

// Bytes of a warp's place for outputs, of 16 tokens, and of 16 more while those leave.
enum : int { OUT_BYTES = CHUNK > 16 ? 1024 : 512 };

// Writes a chunk's outputs, 16 tokens at a time through a place of the warp's own, so that a lane writes eight neighbouring
// values. Tokens from `exist` on are not written.
template <typename Element>
DEVICE void store_outputs(const float (&out)[CHUNK / 8][4], int place, Element* rows, i64 stride, int exist, int lane) {
  // Matrices of a store, 8 tokens by 8 values: tokens of rows lane % 8 and, from lane 16 on, eight on; values of unit
  // lane / 8 % 2. A row is two units of 16 bytes, which change places every four rows.
  auto unit = [&](int token, int half) { return shared_address(place + token * 32 + (half ^ token / 4 % 2) * 16); };
  const u32 to = unit(lane % 8 + lane / 16 * 8, lane / 8 % 2), from = unit(lane / 2, lane % 2);
  Element* row = rows + lane / 2 * stride + lane % 2 * 8;
#pragma unroll
  for (int t = 0; t < CHUNK / 16; ++t) {
    const float(&near)[4] = out[t * 2], (&far)[4] = out[t * 2 + 1];
    u32 x[4] = {Element::pack(near[0], near[1]), Element::pack(near[2], near[3]), Element::pack(far[0], far[1]),
                Element::pack(far[2], far[3])};
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(to + t % 2 * 512), "r"(x[0]),
                 "r"(x[1]), "r"(x[2]), "r"(x[3])
                 : "memory");
    __syncwarp();
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(from + t % 2 * 512)
                 : "memory");
    if constexpr (CHUNK == 16) __syncwarp();  // one place: nothing else parts these reads from the next chunk's outputs
    if (t * 16 + lane / 2 < exist) *reinterpret_cast<uint4*>(row) = {x[0], x[1], x[2], x[3]};
    row += 16 * stride;
  }
}
