//! A PTX virtual machine that runs kernels on the CPU and reports what a GPU would hide.

mod api;

pub use api::{Address, Check, Landing, Launch, Limits, Value};
