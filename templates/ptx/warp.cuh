// A warp's index in its block.
#pragma once

#include "ptx/base.cuh"

DEVICE int warp_index() { return threadIdx.x / 32; }
