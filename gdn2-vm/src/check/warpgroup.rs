//! Registers that a `wgmma` still reads or writes after it was issued, and the fence it needs before.

use super::operands::{self, File, Role};
use crate::isa::entry::Entry;
use crate::isa::hopper::{Async, FactorA};
use crate::isa::inst::{Alu, IntUnary, Op, Slot};
use std::collections::HashMap;

/// What an instruction has to do with `wgmma` registers.
#[derive(Clone, Debug, Default)]
struct Row {
    uses: Vec<Slot>,
    defs: Vec<Slot>,
}

/// The instructions of a kernel that touch registers of some `wgmma`; empty in kernels without any.
#[derive(Debug, Default)]
pub(crate) struct Tracked {
    rows: Vec<Row>,
}

impl Tracked {
    pub(crate) fn new(entry: &Entry) -> Self {
        let mut slots: Vec<Slot> = Vec::new();
        for inst in &entry.insts {
            if let Op::Async(Async::Wgmma(m)) = &inst.op {
                slots.extend(&m.d);
                if let FactorA::Registers(a) = &m.a {
                    slots.extend(a);
                }
            }
        }
        if slots.is_empty() {
            return Self::default();
        }
        slots.sort_unstable();
        slots.dedup();
        let row = |op: &Op| {
            let mut row = Row::default();
            operands::visit(op, &mut |role, file, slot| {
                if file == File::Word && slots.binary_search(&slot).is_ok() {
                    if role == Role::Use { row.uses.push(slot) } else { row.defs.push(slot) }
                }
            });
            row
        };
        Self { rows: entry.insts.iter().map(|i| row(&i.op)).collect() }
    }
}

/// A register in use by unfinished work.
#[derive(Clone, Copy, Debug)]
struct Busy {
    /// The latest `wgmma` event that uses it.
    event: u32,
    at: u32,
    /// It is an accumulator (else a factor, which may still be read).
    written: bool,
}

/// What is wrong with an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// It touches a register of the `wgmma` at this instruction, which has not been waited for.
    Busy(u32),
    /// A `wgmma` register was last touched at this instruction, and no `wgmma.fence` has followed.
    Unfenced(u32),
}

/// The `wgmma` registers of one warp.
#[derive(Debug, Default)]
pub(crate) struct Warpgroup {
    busy: HashMap<Slot, Busy>,
    /// Registers touched since the last fence, and where.
    unfenced: HashMap<Slot, u32>,
    /// There has been a fence.
    fenced: bool,
    /// Events of the committed groups.
    groups: Vec<u32>,
    waited: u32,
}

impl Warpgroup {
    /// An instruction is about to run; `event` is the warp's next `wgmma` event.
    pub(crate) fn step(&mut self, tracked: &Tracked, pc: u32, op: &Op, event: u32) -> Option<Wrong> {
        let row = tracked.rows.get(pc as usize)?;
        if row.uses.is_empty() && row.defs.is_empty() {
            return None;
        }
        let Op::Async(Async::Wgmma(m)) = op else {
            let waited = self.waited;
            let busy = |slot: &Slot, any: bool| {
                self.busy.get(slot).filter(|b| b.event > waited && (any || b.written)).map(|b| Wrong::Busy(b.at))
            };
            let used = row.uses.iter().find_map(|s| busy(s, false));
            let wrong = used.or_else(|| row.defs.iter().find_map(|s| busy(s, true)));
            // Compilers move copies past the fence, which the assembler undoes.
            if !matches!(op, Op::Alu(Alu::Un32(IntUnary::Mov, ..))) {
                for s in row.defs.iter().chain(&row.uses) {
                    self.unfenced.insert(*s, pc);
                }
            }
            return wrong;
        };
        let a: &[Slot] = if let FactorA::Registers(a) = &m.a { a } else { &[] };
        let unfenced = |s: &Slot| self.unfenced.get(s).map(|at| Wrong::Unfenced(*at));
        // Products into one accumulator run in order; a factor may not be one that is still being summed.
        let summed =
            |s: &Slot| self.busy.get(s).filter(|b| b.event > self.waited && b.written).map(|b| Wrong::Busy(b.at));
        let first = (!self.fenced).then_some(Wrong::Unfenced(pc));
        let wrong = m.d.iter().chain(a).find_map(unfenced).or(first).or_else(|| a.iter().find_map(summed));
        for s in a {
            self.busy.insert(*s, Busy { event, at: pc, written: false });
        }
        for s in &m.d {
            self.busy.insert(*s, Busy { event, at: pc, written: true });
        }
        wrong
    }

    pub(crate) fn fence(&mut self) {
        self.fenced = true;
        self.unfenced.clear();
    }

    pub(crate) fn commit(&mut self, event: u32) {
        self.groups.push(event);
    }

    /// All but `keep` groups are done; returns the last event that is.
    pub(crate) fn wait(&mut self, keep: u32) -> u32 {
        if let Some(done) = self.groups.len().checked_sub(keep as usize + 1) {
            self.waited = self.waited.max(self.groups[done]);
        }
        self.waited
    }
}
