//! What a launch asks of a streaming multiprocessor: warp instructions by unit, from the virtual machine's counts per
//! PTX instruction.

use gdn2_vm::{Class, Counters, InstructionCount};
use serde::{Deserialize, Serialize};

/// The unit that a PTX instruction keeps busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Integer, logic, predicates, selects.
    Integer,
    /// Single and half precision arithmetic.
    Float,
    /// Conversions.
    Convert,
    /// Exponentials, logarithms, reciprocals, square roots.
    Special,
    /// Shared memory, `ldmatrix` and the waiting for asynchronous copies included.
    Shared,
    /// Global memory.
    Global,
    /// Exchanges within a warp.
    Shuffle,
    /// Matrix instructions of a warp.
    Mma,
    /// Matrix instructions of a warpgroup.
    Wgmma,
    /// Barriers.
    Barrier,
    /// Branches.
    Branch,
    /// Waits and arrivals at mbarriers.
    Mbarrier,
    /// Waits for warpgroup matrix instructions.
    WgmmaWait,
}

/// How many units there are.
pub(crate) const UNITS: usize = 13;

impl Unit {
    /// Every unit.
    pub const ALL: [Unit; UNITS] = [
        Unit::Integer,
        Unit::Float,
        Unit::Convert,
        Unit::Special,
        Unit::Shared,
        Unit::Global,
        Unit::Shuffle,
        Unit::Mma,
        Unit::Wgmma,
        Unit::Barrier,
        Unit::Branch,
        Unit::Mbarrier,
        Unit::WgmmaWait,
    ];

    /// The unit of a PTX instruction; `None` where the machine code has none for it: moves between registers, address
    /// space casts, kernel parameters.
    pub fn of(class: Class, instruction: &str) -> Option<Unit> {
        let text = instruction.trim_start();
        let text = match text.strip_prefix('@') {
            Some(guarded) => guarded.split_once(char::is_whitespace)?.1.trim_start(),
            None => text,
        };
        Some(match class {
            Class::Integer if text.starts_with("mov.") || text.starts_with("cvta.") => return None,
            Class::Integer => Unit::Integer,
            Class::Float => Unit::Float,
            Class::Convert => Unit::Convert,
            Class::Special => Unit::Special,
            Class::Matrix if text.starts_with("wgmma.") => Unit::Wgmma,
            Class::Matrix => Unit::Mma,
            Class::Shared => Unit::Shared,
            Class::Global | Class::Copy => Unit::Global,
            Class::Local => return None,
            Class::Exchange => Unit::Shuffle,
            // Waiting for copies costs what it waits for; what meets other warps or the matrix units has a price of its
            // own. Dealing registers out anew happens once a kernel.
            Class::Wait if text.starts_with("bar") => Unit::Barrier,
            Class::Wait if text.starts_with("mbarrier") || text.starts_with("cp.async.mbarrier") => Unit::Mbarrier,
            Class::Wait if text.starts_with("wgmma.wait_group") => Unit::WgmmaWait,
            Class::Wait => Unit::Integer,
            Class::Branch => Unit::Branch,
        })
    }
}

/// The work of one launch, per block.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Warp instructions by unit, in the order of [`Unit::ALL`], all warps of a block together.
    pub instructions: [f64; UNITS],
    /// Multiply-adds of warp matrix instructions.
    pub mma: f64,
    /// Multiply-adds of warpgroup matrix instructions.
    pub wgmma: f64,
    /// Passes over the shared-memory banks.
    pub wavefronts: f64,
    /// Bytes of global memory moved in whole sectors, before any cache.
    pub sector_bytes: f64,
}

impl Load {
    /// The mean over the blocks of a launch.
    pub fn of(counters: &Counters, blocks: u64) -> Load {
        let mut load = Load {
            wavefronts: counters.shared_wavefronts as f64,
            sector_bytes: 32.0 * (counters.global_read_sectors + counters.global_write_sectors) as f64,
            ..Load::default()
        };
        for InstructionCount { instruction, class, executed, matrix_fmas, .. } in &counters.instructions {
            let Some(unit) = Unit::of(*class, instruction) else { continue };
            load.instructions[unit as usize] += *executed as f64;
            match unit {
                Unit::Mma => load.mma += *matrix_fmas as f64,
                Unit::Wgmma => load.wgmma += *matrix_fmas as f64,
                _ => {}
            }
        }
        load.mean(blocks)
    }

    /// The mean of so many blocks' work.
    pub fn mean(&self, blocks: u64) -> Load {
        self.map(|count| count / blocks.max(1) as f64)
    }

    /// What a launch does at `tokens`, where this is what it does at `at.0` and `other` at `at.1` tokens: every count
    /// grows by a constant per chunk.
    pub fn extrapolated(&self, other: &Load, at: (f64, f64), tokens: f64) -> Load {
        let along = if at.0 == at.1 { 0.0 } else { (tokens - at.0) / (at.1 - at.0) };
        let mut ends = other.counts();
        // Never below nothing: the difference of two counts of a block that does not loop is noise.
        self.map(|count| (count + (ends.next().unwrap_or(count) - count) * along).max(0.0))
    }

    fn counts(&self) -> impl Iterator<Item = f64> {
        self.instructions.into_iter().chain([self.mma, self.wgmma, self.wavefronts, self.sector_bytes])
    }

    fn map(&self, mut change: impl FnMut(f64) -> f64) -> Load {
        Load {
            instructions: self.instructions.map(&mut change),
            mma: change(self.mma),
            wgmma: change(self.wgmma),
            wavefronts: change(self.wavefronts),
            sector_bytes: change(self.sector_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_go_to_the_unit_they_keep_busy() {
        for (class, text, unit) in [
            (Class::Integer, "@%p1 mov.b32 %r1, %r2;", None),
            (Class::Integer, "add.s32 %r1, %r2, %r3;", Some(Unit::Integer)),
            (Class::Local, "ld.param.u64 %rd1, [k_param_0];", None),
            (Class::Copy, "cp.async.cg.shared.global [%r1], [%rd1], 16;", Some(Unit::Global)),
            (Class::Wait, "cp.async.wait_group 1;", Some(Unit::Integer)),
            (Class::Wait, "@!%p2 bar.sync 0;", Some(Unit::Barrier)),
            (Class::Wait, "mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r1], %r2;", Some(Unit::Mbarrier)),
            (Class::Wait, "wgmma.wait_group.sync.aligned 0;", Some(Unit::WgmmaWait)),
            (Class::Wait, "wgmma.fence.sync.aligned;", Some(Unit::Integer)),
            (Class::Matrix, "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1};", Some(Unit::Mma)),
            (Class::Matrix, "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%f1};", Some(Unit::Wgmma)),
        ] {
            assert_eq!(Unit::of(class, text), unit, "{text}");
        }
    }

    #[test]
    fn counts_grow_by_a_constant_per_token() {
        let at = |scale: f64| Load { mma: 100.0 * scale, wavefronts: 7.0, ..Load::default() };
        let far = at(1.0).extrapolated(&at(2.0), (64.0, 128.0), 640.0);
        assert!((far.mma - 1000.0).abs() < 1e-9 && (far.wavefronts - 7.0).abs() < 1e-9, "{far:?}");
    }
}
