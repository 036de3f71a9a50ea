//! Compiles, caches and launches generated delta-rule kernels on CUDA, on the virtual machine and on the CPU.
