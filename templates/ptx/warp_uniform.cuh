// A warp's index in its block.
#pragma once

#include "ptx/base.cuh"

// The same in every lane, which the compiler cannot know of a thread's index: what follows from it takes no register.
DEVICE int warp_index() { return __shfl_sync(0xffffffffu, threadIdx.x / 32, 0); }
