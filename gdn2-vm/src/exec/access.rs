//! What an instruction asks of memory, and of its warp.

use crate::exec::lanes::Wide;
use crate::exec::observe::{Agent, Kind};
use crate::exec::warp::Warp;
use crate::isa::inst::{Addr, Order, Space};
use crate::report::trap::{Exec, Fault, fail};

/// One checked pointer a lane; lanes outside the mask hold some valid one.
pub(crate) type Pointers = [*mut u8; 32];

/// What a warp asks of memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) space: Space,
    pub(crate) kind: Kind,
    pub(crate) agent: Agent,
    pub(crate) order: Order,
    /// Bytes from each lane's address.
    pub(crate) bytes: u32,
    /// What each address must be a multiple of.
    pub(crate) align: u32,
}

pub(crate) fn name(s: Space) -> &'static str {
    match s {
        Space::Global => "global",
        Space::Shared => "shared",
        Space::Local => "local",
        Space::Const => "constant",
        Space::Param => "parameter",
        Space::Generic => "generic",
    }
}

/// Each lane's `base + offset`.
pub(crate) fn addresses(w: &Warp, a: Addr) -> Wide {
    let mut out = [0; 32];
    if a.wide {
        for (o, v) in out.iter_mut().zip(&w.regs.x[a.base as usize]) {
            *o = v.wrapping_add(a.offset as u64);
        }
    } else {
        for (o, v) in out.iter_mut().zip(&w.regs.r[a.base as usize]) {
            *o = u64::from(v.wrapping_add(a.offset as u32));
        }
    }
    out
}

/// An aligned instruction: every live lane of the warp must be here.
pub(crate) fn aligned(w: &Warp, mask: u32) -> Exec<()> {
    if mask == w.live { Ok(()) } else { fail(Fault::Divergent { needs: w.live, here: mask }) }
}
