//! What instructions did together.

use std::collections::BTreeMap;

use gdn2_vm::{Class, InstructionCount};
use serde::Serialize;

/// What some instructions did together.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sum {
    pub instructions: u64,
    /// On the longest path of each block.
    pub path: u64,
    by_class: BTreeMap<Class, u64>,
    /// With fewer than 32 lanes.
    partial: u64,
    pub matrix_fmas: u64,
    pub shared_wavefronts: u64,
    pub bank_conflicts: u64,
    global_read_sectors: u64,
    global_write_sectors: u64,
    global_read_bytes: u64,
    global_write_bytes: u64,
}

impl Sum {
    pub fn add(&mut self, i: &InstructionCount) {
        self.instructions += i.executed;
        self.path += i.longest;
        *self.by_class.entry(i.class).or_default() += i.executed;
        self.partial += i.partial;
        self.matrix_fmas += i.matrix_fmas;
        self.shared_wavefronts += i.shared_wavefronts;
        self.bank_conflicts += i.shared_wavefronts.saturating_sub(i.shared_ideal_wavefronts);
        self.global_read_sectors += i.global_read_sectors;
        self.global_write_sectors += i.global_write_sectors;
        self.global_read_bytes += i.global_read_bytes;
        self.global_write_bytes += i.global_write_bytes;
    }

    pub fn class(&self, class: Class) -> u64 {
        self.by_class.get(&class).copied().unwrap_or_default()
    }

    /// Bytes of global memory asked for.
    pub fn bytes(&self) -> u64 {
        self.global_read_bytes + self.global_write_bytes
    }
}
