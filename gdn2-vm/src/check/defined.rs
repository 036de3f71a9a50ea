//! Which lanes of which registers have been set. What is not set may be moved, chosen between and computed with, as
//! compilers do on paths whose result is thrown away; it may not decide anything.

use super::defined_bytes::Bytes;
use super::operands::{self, File, Role};
use crate::exec::lanes::{Regs, lanes};
use crate::isa::entry::{Entry, SINK, SINK_PRED, TRUE};
use crate::isa::inst::{Alu, Bool, Op, Slot, Slow, WarpOp};
use std::collections::HashMap;

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
                let index = match file {
                    File::Pred => slot,
                    File::Word => base[1] + slot,
                    File::Wide => base[2] + slot,
                };
                match role {
                    Role::Use if unset[index as usize] != 0 => uses.push(index),
                    Role::Use => {}
                    Role::Def => defs.push(index),
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

    /// What nobody reads: it stays set, whatever is written to it.
    fn is_sink(&self, index: u32) -> bool {
        [SINK_PRED, self.base[1] + SINK, self.base[2] + SINK].contains(&index)
    }

    /// The index of a slot of a file: predicates, words, wides.
    pub(super) fn index(&self, file: usize, slot: Slot) -> u32 {
        self.base[file] + slot
    }

    fn slice(&self, r: &std::ops::Range<u32>) -> &[u32] {
        &self.flat[r.start as usize..r.end as usize]
    }
}

/// The registers of one warp.
#[derive(Debug)]
pub(crate) struct Defined {
    /// Lanes in which some byte of a register is not set.
    unset: Vec<u32>,
    /// Registers of which some bytes are set where others are not.
    partial: HashMap<u32, Bytes>,
}

impl Defined {
    pub(crate) fn new(table: &Table) -> Self {
        Self { unset: table.unset.clone(), partial: HashMap::new() }
    }

    /// Of each byte of a register, the lanes in which it is not set.
    pub(super) fn bytes(&self, index: u32) -> Bytes {
        let unset = self.unset[index as usize];
        self.partial.get(&index).map_or([unset; 8], |bytes| bytes.map(|byte| byte & unset))
    }

    /// In the lanes of `mask` these bytes are not set, and all others are.
    fn set_bytes(&mut self, index: u32, mask: u32, unset: Bytes, width: usize) {
        let now = self.bytes(index);
        let now: Bytes = std::array::from_fn(|i| if i < width { (now[i] & !mask) | (unset[i] & mask) } else { 0 });
        let some = now[..width].iter().fold(0, |all, byte| all | byte);
        self.unset[index as usize] = some;
        if now[..width].iter().all(|byte| *byte == some) {
            self.partial.remove(&index);
        } else {
            self.partial.insert(index, now);
        }
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
        let (made, decides) = match op {
            Op::Mem(mem) => (None, self.stored(table, mem).map_or(any, |unset| unset & mask)),
            Op::Matrix(_) | Op::Async(_) | Op::Flow(_) => (None, any),
            Op::Warp(WarpOp::Shfl { .. }) => self.shuffled(table, op, mask, regs),
            Op::Warp(_) => (None, any),
            Op::Alu(Alu::Pred(how, _, a, b, flip)) => {
                let values = [regs.p[*a as usize], regs.p[*b as usize] ^ flip];
                (Some(vec![[either(*how, [self.of(table, 0, *a), self.of(table, 0, *b)], values, false); 8]]), 0)
            }
            Op::Slow(Slow::Setp { with, a, b, ty, .. }) => {
                let compared = self.compared(table, *ty, [*a, *b]);
                let unset = match with {
                    Some((how, w, flip)) => {
                        let value = regs.p[*w as usize] ^ flip;
                        either(*how, [compared, self.of(table, 0, *w)], [0, value], true)
                    }
                    None => compared,
                };
                (Some(vec![[unset; 8]; 2]), 0)
            }
            _ => (Some(self.made(table, op, mask, regs).unwrap_or_else(|| vec![[any; 8]; row.defs.len()])), 0),
        };
        for (i, d) in table.slice(&row.defs).iter().enumerate().filter(|(_, d)| !table.is_sink(**d)) {
            let width = if *d >= table.base[2] { 8 } else { 4 };
            let unset = made.as_ref().and_then(|made| made.get(i)).copied().unwrap_or([0; 8]);
            self.set_bytes(*d, mask, unset, width);
        }
        decides
    }

    fn of(&self, table: &Table, file: usize, slot: Slot) -> u32 {
        self.unset[(table.base[file] + slot) as usize]
    }

    /// A shuffle moves what is not set from lane to lane; which lane it reads must be known.
    fn shuffled(&self, table: &Table, op: &Op, mask: u32, regs: &Regs) -> (Option<Vec<Bytes>>, u32) {
        let Op::Warp(WarpOp::Shfl { mode, a, b, c, members, .. }) = *op else { return (None, 0) };
        let decides = (self.of(table, 1, b) | self.of(table, 1, c) | self.of(table, 1, members)) & mask;
        let source = self.bytes(table.index(1, a));
        let mut moved = [0; 8];
        for i in lanes(mask) {
            let (from, _) = crate::exec::collective::source(mode, i, regs.r[b as usize][i], regs.r[c as usize][i]);
            moved.iter_mut().zip(source).for_each(|(moved, byte)| *moved |= (byte >> from & 1) << i);
        }
        (Some(vec![moved, [0; 8]]), decides)
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
