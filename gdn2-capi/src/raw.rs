//! The exported raw calls: device addresses, a stream, no checks of what lies behind them.

use std::ffi::{c_int, c_void};

use crate::abi::object;
use crate::calls::{Kernels, guarded};
use gdn2::raw::Arguments;
use gdn2::{Error, Loaded};

/// # Safety
/// The pointers are null or point to live structs.
unsafe fn raw(
    kernels: *const Kernels,
    call: *const Arguments,
    run: impl FnOnce(&Loaded, &Arguments) -> Result<(), Error>,
) -> c_int {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (kernels, call) = unsafe { (object(kernels, "kernels")?, object(call, "call")?) };
        Ok(run(&kernels.0, call)?)
    })
}

/// See `include/gdn2.h`.
///
/// # Safety
/// As `gdn2::Loaded::forward_raw`; every pointer is null or points to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gdn2_forward_raw(
    kernels: *const Kernels,
    stream: *mut c_void,
    call: *const Arguments,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { raw(kernels, call, |kernels, call| kernels.forward_raw(stream, call)) }
}

/// See `include/gdn2.h`.
///
/// # Safety
/// As `gdn2::Loaded::forward_with_scratch_raw`; every pointer is null or points to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gdn2_forward_with_scratch_raw(
    kernels: *const Kernels,
    stream: *mut c_void,
    call: *const Arguments,
    scratch: u64,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { raw(kernels, call, |kernels, call| kernels.forward_with_scratch_raw(stream, call, scratch)) }
}

/// See `include/gdn2.h`.
///
/// # Safety
/// As `gdn2::Loaded::decode_raw`; every pointer is null or points to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gdn2_decode_raw(
    kernels: *const Kernels,
    stream: *mut c_void,
    call: *const Arguments,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { raw(kernels, call, |kernels, call| kernels.decode_raw(stream, call)) }
}

/// See `include/gdn2.h`.
///
/// # Safety
/// As `gdn2::Loaded::forward_for_backward_raw`; every pointer is null or points to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gdn2_forward_for_backward_raw(
    kernels: *const Kernels,
    stream: *mut c_void,
    call: *const Arguments,
    scratch: u64,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { raw(kernels, call, |kernels, call| kernels.forward_for_backward_raw(stream, call, scratch)) }
}

/// See `include/gdn2.h`.
///
/// # Safety
/// As `gdn2::Loaded::backward_raw`; every pointer is null or points to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gdn2_backward_raw(
    kernels: *const Kernels,
    stream: *mut c_void,
    call: *const Arguments,
    scratch: u64,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { raw(kernels, call, |kernels, call| kernels.backward_raw(stream, call, scratch)) }
}
