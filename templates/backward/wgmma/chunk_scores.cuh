// A chunk's scores and the inverse of what it erases, P by one warpgroup while the other makes L and from it M.
#pragma once

#include "forward/wgmma/pair_scores.cuh"
#include "forward/wgmma/ring.cuh"
#include "forward/wgmma/solve_rows.cuh"
#include "numbers.cuh"

template <class Cfg>
struct QueriesAlone : Cfg {
  enum : int { ERASE = ABSENT };
};
template <class Cfg>
struct ErasesAlone : Cfg {
  enum : int { OUTPUTS = 0 };
};

template <class Cfg>
DEVICE void make_scores(float scale, int group, int block) {
  using Element = typename Cfg::Element;
  RowsOfL<Element> l;
  float p[CHUNK / 8][4];
  if (group == 0) {
    if constexpr (Cfg::ERASE) {
      using Erases = ErasesAlone<Cfg>;
      const Buffer<Erases> buffer{Stage{}};
      raw_scores<Erases>(p, l.sum, buffer);
      scale_scores<Erases>(l, p, buffer, scale, block);
      solve_rows<Element>(l, buffer.m());
    }
  } else {
    using Queries = QueriesAlone<Cfg>;
    const Buffer<Queries> buffer{Stage{}};
    raw_scores<Queries>(p, l.sum, buffer);
    scale_scores<Queries>(l, p, buffer, scale, block);
  }
}

// Blocks above the diagonal, which products read as well; nothing else is written there.
template <class Cfg>
DEVICE void clear_scores(const Buffer<Cfg>& buffer) {
  clear_above(buffer.p());
  if constexpr (Cfg::ERASE) clear_above(buffer.m());
}
