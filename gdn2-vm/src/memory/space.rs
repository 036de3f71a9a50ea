//! How a 64-bit address says its state space: one tag bit each for shared, local and param windows.

use crate::isa::operand::Space;

pub(crate) const SHARED: u64 = 1 << 60;
pub(crate) const LOCAL: u64 = 1 << 61;
pub(crate) const PARAM: u64 = 1 << 62;

/// The tag of a space's generic addresses; global and constant ones carry none.
pub(crate) fn tag(space: Space) -> u64 {
    match space {
        Space::Shared => SHARED,
        Space::Local => LOCAL,
        Space::Param => PARAM,
        Space::Global | Space::Const | Space::Generic => 0,
    }
}

/// The space a generic address lies in, and the address within it.
pub(crate) fn split(address: u64) -> (Space, u64) {
    match address & (SHARED | LOCAL | PARAM) {
        0 => (Space::Global, address),
        SHARED => (Space::Shared, address ^ SHARED),
        LOCAL => (Space::Local, address ^ LOCAL),
        _ => (Space::Param, address ^ PARAM),
    }
}
