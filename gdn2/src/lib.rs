//! Delta-rule linear-attention kernels as Rust functions: macro, devices, loaded rules.
