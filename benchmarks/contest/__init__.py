"""Our kernels beside other implementations of the same rules: one process, the same tensors, the same stream."""
