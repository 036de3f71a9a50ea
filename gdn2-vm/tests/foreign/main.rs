//! Kernels that know nothing of this machine. Their PTX is what NVRTC 13.0 made of the `.cu` beside it with
//! `-std=c++17 -default-device --device-int128`, for compute_80 (`bits_90.ptx`: compute_90a, as for `tma.cu`), the headers'
//! variables that no kernel uses left out.
#![allow(clippy::unwrap_used, missing_docs, reason = "a failed unwrap is a failed test")]

mod call;
mod numbers;
mod programs;
