//! Compiles, caches and launches generated delta-rule kernels on CUDA, on the virtual machine and on the CPU.
//!
//! From the bottom: [`nvrtc`] and [`toolchain`] find the compiler, [`cache`] keeps what it made, [`artifact`] hands out
//! compiled kernels, of generated or edited text, [`raw`] turns pointers and strides into launch arguments, [`device`] launches, [`cpu`] computes
//! without any kernel, [`engine`] runs a whole [`tensors::Case`] on any of them, [`drawn`] makes cases,
//! [`judge`] compares, and [`seen`] watches calls.

pub mod artifact;
pub mod cache;
mod case_error;
#[cfg(feature = "cpu")]
pub mod cpu;
pub mod device;
pub mod drawn;
mod elf;
pub mod engine;
pub mod files;
pub mod judge;
pub mod nvrtc;
mod pinned;
pub mod problem;
pub mod raw;
pub mod seen;
pub mod storage;
pub mod tensors;
pub mod toolchain;
