//! Which lanes of which registers have been set. What is not set may be moved, chosen between and computed with, as
//! compilers do on paths whose result is thrown away; it may not decide anything.

use super::operands::{self, File, Role};
use crate::exec::lanes::{Regs, lanes, mask_of};
use crate::isa::entry::{Entry, SINK, SINK_PRED, TRUE};
use crate::isa::inst::{Alu, Bool, IntOp, Op, Slot, Slow, WarpOp};

/// Registers an instruction reads and writes, as indices into one table of all files.
#[derive(Debug)]
struct Row {
    uses: std::ops::Range<u32>,
    defs: std::ops::Range<u32>,
}

/// The operands of a kernel, laid flat.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Row>,
    flat: Vec<u32>,
    /// Index of slot 0 of each file.
    base: [u32; 3],
    /// What no instruction has set when a warp starts.
    unset: Vec<u32>,
}

impl Table {
    pub(crate) fn new(entry: &Entry) -> Self {
        let base = [0, entry.slots[0], entry.slots[0] + entry.slots[1]];
        let mut unset = vec![u32::MAX; (base[2] + entry.slots[2]) as usize];
        for fixed in [TRUE, SINK_PRED, base[1] + SINK, base[2] + SINK] {
            unset[fixed as usize] = 0;
        }
        for (file, fixed) in entry.fixed.iter().enumerate() {
            for (_, slot) in fixed {
                unset[(base[file + 1] + slot) as usize] = 0;
            }
        }
        let (mut rows, mut flat) = (Vec::with_capacity(entry.insts.len()), Vec::new());
        for inst in &entry.insts {
            let (mut uses, mut defs) = (Vec::new(), Vec::new());
            operands::visit(&inst.op, &mut |role, file, slot| {
                let (index, sink) = match file {
                    File::Pred => (slot, slot == SINK_PRED),
                    File::Word => (base[1] + slot, slot == SINK),
                    File::Wide => (base[2] + slot, slot == SINK),
                };
                match role {
                    Role::Use if unset[index as usize] != 0 => uses.push(index),
                    Role::Def if !sink => defs.push(index),
                    _ => {}
                }
            });
            let start = flat.len() as u32;
            flat.extend(uses);
            let middle = flat.len() as u32;
            flat.extend(defs);
            rows.push(Row { uses: start..middle, defs: middle..flat.len() as u32 });
        }
        Self { rows, flat, base, unset }
    }

    fn slice(&self, r: &std::ops::Range<u32>) -> &[u32] {
        &self.flat[r.start as usize..r.end as usize]
    }
}

/// The registers of one warp.
#[derive(Debug)]
pub(crate) struct Defined {
    unset: Vec<u32>,
}

impl Defined {
    pub(crate) fn new(table: &Table) -> Self {
        Self { unset: table.unset.clone() }
    }

    /// Lanes of `active` whose guard is not set.
    #[inline]
    pub(crate) fn guard(&self, guard: Slot, active: u32) -> u32 {
        self.unset[guard as usize] & active
    }

    /// An instruction runs with these lanes, its registers as they are before it; returns the lanes in which
    /// something that is not set decides.
    #[inline]
    pub(crate) fn step(&mut self, table: &Table, pc: usize, op: &Op, mask: u32, regs: &Regs) -> u32 {
        let row = &table.rows[pc];
        let mut unset = 0;
        for u in table.slice(&row.uses) {
            unset |= self.unset[*u as usize];
        }
        if unset & mask == 0 {
            for d in table.slice(&row.defs) {
                self.unset[*d as usize] &= !mask;
            }
            return 0;
        }
        self.unset_used(table, row, op, mask, unset & mask, regs)
    }

    #[cold]
    fn unset_used(&mut self, table: &Table, row: &Row, op: &Op, mask: u32, any: u32, regs: &Regs) -> u32 {
        let (result, decides) = match op {
            Op::Mem(_) | Op::Matrix(_) | Op::Async(_) | Op::Flow(_) => (0, any),
            Op::Warp(WarpOp::Shfl { .. }) => self.shuffled(table, op, mask, regs),
            Op::Warp(_) => (0, any),
            Op::Alu(op) => (self.computed(table, op, any, regs), 0),
            Op::Slow(Slow::Setp { with: Some((how, w, flip)), a, b, ty, .. }) => {
                let file = if ty.bytes() == 8 { 2 } else { 1 };
                let compared = self.of(table, file, *a) | self.of(table, file, *b);
                let value = regs.p[*w as usize] ^ flip;
                (either(*how, [compared, self.of(table, 0, *w)], [0, value], true), 0)
            }
            Op::Slow(_) | Op::Nop => (any, 0),
        };
        for d in table.slice(&row.defs) {
            let unset = &mut self.unset[*d as usize];
            *unset = (*unset & !mask) | (result & mask);
        }
        decides
    }

    fn of(&self, table: &Table, file: usize, slot: Slot) -> u32 {
        self.unset[(table.base[file] + slot) as usize]
    }

    /// Lanes whose result is not set, where a set operand may settle it alone.
    fn computed(&self, table: &Table, op: &Alu, any: u32, regs: &Regs) -> u32 {
        let word = |s: Slot| self.of(table, 1, s);
        match *op {
            Alu::Sel32(_, a, b, p) | Alu::Sel64(_, a, b, p) => {
                let file = if matches!(op, Alu::Sel32(..)) { 1 } else { 2 };
                let chosen = regs.p[p as usize];
                self.of(table, 0, p) | (chosen & self.of(table, file, a)) | (!chosen & self.of(table, file, b))
            }
            Alu::Pred(how, _, a, b, flip) => {
                let values = [regs.p[a as usize], regs.p[b as usize] ^ flip];
                either(how, [self.of(table, 0, a), self.of(table, 0, b)], values, false)
            }
            Alu::Int32(how @ (IntOp::And | IntOp::Or), _, a, b) => {
                let settles = if how == IntOp::And { 0 } else { u32::MAX };
                let settled = |s: Slot| mask_of(|i| regs.r[s as usize][i] == settles) & !word(s);
                (word(a) | word(b)) & !settled(a) & !settled(b)
            }
            _ => any,
        }
    }

    /// A shuffle moves what is not set from lane to lane; which lane it reads must be known.
    fn shuffled(&self, table: &Table, op: &Op, mask: u32, regs: &Regs) -> (u32, u32) {
        let Op::Warp(WarpOp::Shfl { mode, a, b, c, members, .. }) = *op else { return (0, 0) };
        let decides = (self.of(table, 1, b) | self.of(table, 1, c) | self.of(table, 1, members)) & mask;
        let source = self.of(table, 1, a);
        let moved = lanes(mask).fold(0, |m, i| {
            let (from, _) = crate::exec::collective::source(mode, i, regs.r[b as usize][i], regs.r[c as usize][i]);
            m | (source >> from & 1) << i
        });
        (moved, decides)
    }
}

/// `a how b` of predicates: lanes in which the result is not set. The first value is unknown where `opaque`.
fn either(how: Bool, [ua, ub]: [u32; 2], [va, vb]: [u32; 2], opaque: bool) -> u32 {
    let settles = |value: u32| match how {
        Bool::And => !value,
        Bool::Or => value,
        Bool::Xor => 0,
    };
    let by_a = if opaque { 0 } else { settles(va) & !ua };
    (ua | ub) & !by_a & !(settles(vb) & !ub)
}
