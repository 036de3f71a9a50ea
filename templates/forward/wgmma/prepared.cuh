// What comes before a chunk's factors where a rule computes it: rows of q and k normalised, and an erase gate along K made of
// its logits, where they lie.
#pragma once

#include "formula/rows.cuh"
#include "formula/tiles.cuh"
#include "forward/wgmma/products.cuh"
#include "forward/wgmma/ring.cuh"
#include "numbers.cuh"

template <class Cfg, int PARTS>
struct ChunkFactors;

// What a thread has on its way at once: registers are not short here, and nothing else hides how long each part takes.
enum : int { ROWS_AT_ONCE = CHUNK / 16, UNITS_AT_ONCE = 4 };

// The same numbers, of a warpgroup that prepares chunks: it always has something to make.
template <class Cfg>
struct Prepared : Cfg {
  enum : int { OUTPUTS = 1 };
};

template <class Cfg>
struct Buffer<Prepared<Cfg>> : Buffer<Cfg> {
  using Buffer<Cfg>::Buffer;
};

template <class Cfg>
struct ChunkFactors<Prepared<Cfg>, 1> : ChunkFactors<Cfg, 1> {
  METHOD void make(const Buffer<Cfg>& buffer, float scale) {
    using Element = typename Cfg::Element;
    if constexpr (Cfg::OUTPUTS && Cfg::NORMALISES_Q) normalise_rows<Element, ROWS_AT_ONCE>(buffer.queries());
    if constexpr (Cfg::NORMALISES_K) normalise_rows<Element, ROWS_AT_ONCE>(buffer.keys());
    if constexpr (Cfg::COMPUTES_ERASE) {
      // Rows without a token have no key, of which nothing is erased by any finite gate.
      using Of = typename Cfg::EraseFormula;
      compute_tile<typename Cfg::Erase, UNITS_AT_ONCE>(buffer.gates(), Of::logits(buffer.gates()), CHUNK,
                                        [](float x, int, int d) { return Of::of(x, d); });
    }
    if constexpr (Cfg::DECAY != CHANNEL) fence_async();  // products read tiles
    group_sync();
    if constexpr (Cfg::DECAY == CHANNEL || Cfg::OUTPUTS || Cfg::ERASE) ChunkFactors<Cfg, 1>::make(buffer, scale);
  }
};
