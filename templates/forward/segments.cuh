// Segments of a sequence run side by side: whole chunks, as many to each as to the first but for the last. Those past the
// sequence's end are not there. A scan back counts them from the sequence's end, and none is there past its beginning.
// `starts` holds the state that each segment starts from, S^T as VALUE rows of KEY.
#pragma once

#include "numbers.cuh"
#include "work/sequence.cuh"

struct Segment : Work {
  int segment;
  bool exists;  // has tokens, or is the first
  bool last;    // none follows
};

// Tokens of a segment.
DEVICE int segment_length(int tokens) {
  const int chunks = (tokens + CHUNK - 1) / CHUNK, each = (chunks + SEGMENTS - 1) / SEGMENTS;
  return (each > 1 ? each : 1) * CHUNK;
}

// Narrows work on a sequence to one of its segments.
DEVICE Segment find_segment(const Work& work, int segment) {
  // Tokens before the segment, as the scan goes, of which all chunks count as whole; and those from it on.
  const int each = segment_length(work.length), before = segment * each;
  if (BACK) {
    const int end = (work.length + CHUNK - 1) / CHUNK * CHUNK - before;
    Segment found{work, segment, segment == 0 || end > 0, end <= each};
    const int begin = end < each ? 0 : end - each;
    found.first += begin;
    found.length = (end < work.length ? end : work.length) - begin;
    return found;
  }
  const int left = work.length - before;
  Segment found{work, segment, segment == 0 || left > 0, left <= each};
  found.first += before;
  found.length = left < each ? left : each;
  return found;
}

DEVICE float* segment_start(void* starts, const Work& work, int segment, int value_heads) {
  const i64 pair = static_cast<i64>(work.sequence) * value_heads + work.value_head;
  return static_cast<float*>(starts) + (pair * SEGMENTS + segment) * (VALUE * KEY);
}

// A's rows of a segment between the first and the last.
DEVICE float* segment_map(void* maps, const Work& work, int segment, int value_heads) {
  const i64 pair = static_cast<i64>(work.sequence) * value_heads + work.value_head;
  return static_cast<float*>(maps) + (pair * (SEGMENTS - 2) + segment - 1) * (MAP_ROWS * KEY);
}
