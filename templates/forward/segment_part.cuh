#pragma once

#include "forward/segments.cuh"

// Which segment and which of its slices a block advances, outputs and all. Blocks of a segment are neighbours.
DEVICE Segment find_part(Work work) {
  const int segment = work.value_block / SLICES;
  work.value_block %= SLICES;
  return find_segment(work, segment);
}
