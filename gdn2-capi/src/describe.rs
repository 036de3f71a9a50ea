//! What was loaded, for callers who did not write the rule.

use std::ffi::{CString, c_char, c_int};

use crate::abi::{AbiError, aligned, object};
use crate::calls::{Kernels, LAST_TEXT, guarded};
use gdn2_dsl::{Dtype, Gate, Grain, StateLayout, Write};

/// `gdn2_rule`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleInfo {
    /// K.
    pub key_dim: i32,
    /// V.
    pub value_dim: i32,
    /// Of q, k, v and o.
    pub dtype: i32,
    /// How finely g acts: 0 absent, 1 a number per head, 2 a number per channel.
    pub decay: i32,
    /// Of g.
    pub decay_dtype: i32,
    /// How finely b acts.
    pub erase: i32,
    /// Of b.
    pub erase_dtype: i32,
    /// How finely w acts; 3 where b is both.
    pub write: i32,
    /// Of w.
    pub write_dtype: i32,
    /// 1 where states are `[V, K]`.
    pub state_vk: i32,
}

fn number(dtype: Dtype) -> i32 {
    match dtype {
        Dtype::F32 => 0,
        Dtype::Bf16 => 1,
        Dtype::F16 => 2,
    }
}

fn gate(gate: Gate) -> (i32, i32) {
    let fineness = [Grain::None, Grain::Scalar, Grain::Channel].iter().position(|grain| *grain == gate.grain);
    (fineness.map_or(0, |at| at as i32), number(gate.storage))
}

/// See `include/gdn2.h`.
///
/// # Safety
/// Every pointer is null or points to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gdn2_rule_of(kernels: *const Kernels, rule: *mut RuleInfo) -> c_int {
    guarded(|| {
        // SAFETY: the caller's promise.
        let loaded = unsafe { object(kernels, "kernels") }?.0.rule();
        aligned(rule, "rule")?;
        // SAFETY: aligned; the caller's promise.
        let place = unsafe { rule.as_mut() }.ok_or(AbiError::Null("rule"))?;
        let ((decay, decay_dtype), (erase, erase_dtype)) = (gate(loaded.decay), gate(loaded.erase));
        let (write, write_dtype) = match loaded.write {
            Write::Own(own) => gate(own),
            Write::Tied => (3, erase_dtype),
        };
        *place = RuleInfo {
            key_dim: i32::try_from(loaded.key_dim).unwrap_or(i32::MAX),
            value_dim: i32::try_from(loaded.value_dim).unwrap_or(i32::MAX),
            dtype: number(loaded.dtype),
            decay,
            decay_dtype,
            erase,
            erase_dtype,
            write,
            write_dtype,
            state_vk: i32::from(loaded.state == StateLayout::Vk),
        };
        Ok(())
    })
}

/// See `include/gdn2.h`.
///
/// # Safety
/// `kernels` is null or came from `gdn2_load`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gdn2_named(kernels: *const Kernels, place: i32) -> *const c_char {
    let mut name = None;
    let status = guarded(|| {
        // SAFETY: the caller's promise.
        let prologue = &unsafe { object(kernels, "kernels") }?.0.rule().prologue;
        let own = usize::try_from(place).ok().and_then(|place| prologue.named_at(place));
        name = own.and_then(|own| CString::new(own.name).ok());
        Ok(())
    });
    let Some(name) = name.filter(|_| status == 0) else { return std::ptr::null() };
    LAST_TEXT.with(|last| {
        *last.borrow_mut() = name;
        last.borrow().as_ptr()
    })
}

/// See `include/gdn2.h`.
#[unsafe(no_mangle)]
pub extern "C" fn gdn2_version() -> *const c_char {
    const VERSION: &std::ffi::CStr =
        match std::ffi::CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => c"",
        };
    VERSION.as_ptr()
}
