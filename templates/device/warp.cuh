DEVICE int warp_index() { return threadIdx.x / 32; }
