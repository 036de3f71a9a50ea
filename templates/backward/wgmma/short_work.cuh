// Which chunk a block serves, in as few registers as it takes from stage to stage.
#pragma once

#include "numbers.cuh"
#include "work/chunk_work.cuh"

struct ShortWork {
  int value_head, key_head, batch, first, exist;

  METHOD explicit ShortWork(const ChunkWork& work)
      : value_head(work.value_head), key_head(work.key_head), batch(work.batch), first(static_cast<int>(work.first)),
        exist(work.exist) {}

  // For rows of tensors.
  METHOD ChunkWork work() const { return {value_head, key_head, batch, first, 0, 0, exist}; }
};
