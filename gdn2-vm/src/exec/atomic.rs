//! Atomic read-modify-write, one lane after another; on device memory real atomics, as blocks run in parallel.

use crate::exec::access::Pointers;
use crate::exec::float::half;
use crate::exec::lanes::{Regs, lanes};
use crate::isa::inst::{AtomOp, FloatOp, Mode};
use crate::num::{Type, int_value};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The new value.
fn next(op: AtomOp, ty: Type, old: u64, b: u64, c: u64) -> u64 {
    if ty.float() && op == AtomOp::Add {
        return match ty {
            Type::F32 => u64::from((f32::from_bits(old as u32) + f32::from_bits(b as u32)).to_bits()),
            Type::F64 => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
            _ => halves(FloatOp::Add, ty, old, b),
        };
    }
    if ty.float() && matches!(op, AtomOp::Min | AtomOp::Max) {
        return halves(if op == AtomOp::Min { FloatOp::Min } else { FloatOp::Max }, ty, old, b);
    }
    let (so, sb) = (int_value(old, ty), int_value(b, ty));
    match op {
        AtomOp::Add => old.wrapping_add(b),
        AtomOp::Min => so.min(sb) as u64,
        AtomOp::Max => so.max(sb) as u64,
        AtomOp::Inc => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        AtomOp::Dec => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
        AtomOp::And => old & b,
        AtomOp::Or => old | b,
        AtomOp::Xor => old ^ b,
        AtomOp::Exch => b,
        AtomOp::Cas => {
            if old == b {
                c
            } else {
                old
            }
        }
    }
}

fn halves(op: FloatOp, ty: Type, old: u64, b: u64) -> u64 {
    let one = |k: u32| half(op, ty, Mode::default(), [(old >> k) as u32, (b >> k) as u32]);
    u64::from(if ty.packed() { one(0) | one(16) << 16 } else { one(0) })
}

/// Reads an element.
///
/// # Safety
/// `p` holds an element of `ty`.
pub(crate) unsafe fn read(p: *const u8, ty: Type) -> u64 {
    // SAFETY: the caller's.
    unsafe {
        match ty.bytes() {
            1 => u64::from(p.read()),
            2 => u64::from(p.cast::<u16>().read_unaligned()),
            4 => u64::from(p.cast::<u32>().read_unaligned()),
            _ => p.cast::<u64>().read_unaligned(),
        }
    }
}

/// One atomic update; returns the old value.
///
/// # Safety
/// `p` holds an aligned element of `ty`.
pub(crate) unsafe fn update(p: *mut u8, op: AtomOp, ty: Type, b: u64, c: u64) -> u64 {
    let order = Ordering::SeqCst;
    // SAFETY: the caller's.
    unsafe {
        match ty.bytes() {
            8 => AtomicU64::from_ptr(p.cast())
                .fetch_update(order, order, |v| Some(next(op, ty, v, b, c)))
                .unwrap_or_default(),
            2 => AtomicU16::from_ptr(p.cast())
                .fetch_update(order, order, |v| Some(next(op, ty, u64::from(v), b & 0xffff, c & 0xffff) as u16))
                .unwrap_or_default()
                .into(),
            1 => AtomicU8::from_ptr(p)
                .fetch_update(order, order, |v| Some(next(op, ty, u64::from(v), b & 0xff, c & 0xff) as u8))
                .unwrap_or_default()
                .into(),
            _ => AtomicU32::from_ptr(p.cast())
                .fetch_update(order, order, |v| Some(next(op, ty, u64::from(v), b, c) as u32))
                .unwrap_or_default()
                .into(),
        }
    }
}

/// Runs one for the lanes of `mask`.
pub(crate) fn run(g: &mut Regs, mask: u32, p: &Pointers, op: AtomOp, ty: Type, [b, c]: [u32; 2], d: Option<u32>) {
    for i in lanes(mask) {
        let get = |s: u32| if ty.bytes() == 8 { g.x[s as usize][i] } else { u64::from(g.r[s as usize][i]) };
        let (vb, vc) = (get(b), get(c));
        // SAFETY: `pointers` checked range and alignment, and every buffer is 16-byte aligned.
        let old = unsafe { update(p[i], op, ty, vb, vc) };
        if let Some(d) = d {
            if ty.bytes() == 8 {
                g.x[d as usize][i] = old;
            } else {
                g.r[d as usize][i] = old as u32;
            }
        }
    }
}

/// Exchanges 128 bits for the lanes of `mask`, where they are the wanted ones if any are. No integer of the standard library
/// is that wide and atomic, so that such exchanges keep each other out; a kernel that mixes them with narrower atomics on
/// the same bytes is in error.
pub(crate) fn run128(
    g: &mut Regs,
    mask: u32,
    p: &Pointers,
    wanted: Option<[u32; 2]>,
    new: [u32; 2],
    [low, high]: [u32; 2],
) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    for i in lanes(mask) {
        let get = |slots: [u32; 2]| slots.map(|s| g.x[s as usize][i]);
        let (new, wanted) = (get(new), wanted.map(get));
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let at = p[i].cast::<[u64; 2]>();
        // SAFETY: `pointers` checked range and alignment.
        let old = unsafe { at.read_unaligned() };
        if wanted.is_none_or(|wanted| wanted == old) {
            // SAFETY: as above.
            unsafe { at.write_unaligned(new) };
        }
        drop(alone);
        g.x[low as usize][i] = old[0];
        g.x[high as usize][i] = old[1];
    }
}
