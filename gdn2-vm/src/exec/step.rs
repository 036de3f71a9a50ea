//! The inner loop: one warp runs until it finishes, blocks or lets others run.

use crate::exec::block::{Block, Stop};
use crate::exec::observe::{Observer, Sync};
use crate::exec::warp::Next;
use crate::exec::warp::{Wait, Warp};
use crate::exec::{level, slow};
use crate::isa::inst::{Flow, Op};
use crate::report::trap::{Exec, Fault, fail};

/// Backward branches a warp may take before others get a turn: a spin on memory must not starve its writer.
const SLICE: u32 = 4096;

impl<O: Observer> Block<'_, O> {
    /// Runs `w` until it stops.
    pub(crate) fn run_warp(&mut self, w: &mut Warp) -> Exec<Stop> {
        let mut slice = SLICE;
        w.outward = false;
        loop {
            let Some(g) = self.choose(w)? else {
                if w.groups.is_empty() {
                    return Ok(Stop::Done);
                }
                if w.unblock() {
                    continue;
                }
                let mut yielded = false;
                for g in &mut w.groups {
                    if g.wait == Wait::Yielded {
                        g.wait = Wait::No;
                        yielded = true;
                    }
                }
                if let Some((pc, needs, here)) = w.divided().filter(|_| !yielded) {
                    self.at.pc = pc;
                    return fail(Fault::Divergent { needs, here });
                }
                return Ok(if yielded { Stop::Yielded } else { Stop::Blocked });
            };
            self.run_group(w, g, &mut slice)?;
            if w.live == 0 {
                self.leave();
                return Ok(Stop::Done);
            }
            if slice == 0 {
                if w.repeats() {
                    let waiting = format!("warp {} repeats a loop that changes nothing", w.id);
                    return fail(Fault::Deadlock { waiting });
                }
                self.progress = true;
                return Ok(Stop::Yielded);
            }
        }
    }

    /// The runnable group of the lowest pc.
    fn choose(&mut self, w: &mut Warp) -> Exec<Option<usize>> {
        let mut best: Option<usize> = None;
        let mut i = 0;
        while i < w.groups.len() {
            if let Wait::Barrier { id, generation } = w.groups[i].wait
                && self.bars[id as usize].generation != generation
            {
                self.at.pc = w.groups[i].pc;
                self.pass(w, i, id, generation);
                if w.park(i) {
                    // Another group took this place, or a new one came at the end.
                    best = None;
                    i = 0;
                    continue;
                }
            }
            let g = &w.groups[i];
            if g.wait == Wait::No && best.is_none_or(|b| g.pc < w.groups[b].pc) {
                best = Some(i);
            }
            i += 1;
        }
        Ok(best)
    }

    fn run_group(&mut self, w: &mut Warp, g: usize, slice: &mut u32) -> Exec<()> {
        let entry = self.grid.entry;
        let active = w.groups[g].mask;
        let join = w.groups[g].join_pc;
        let mut pc = w.groups[g].pc;
        loop {
            let inst = &entry.insts[pc as usize];
            let mask = active & (w.regs.p[inst.guard as usize] ^ inst.flip);
            w.clock += 1;
            self.at.pc = pc;
            if O::ON {
                self.observer.step(self.at, mask, active, inst, &w.regs);
            }
            if mask != 0 {
                let next = match &inst.op {
                    Op::Alu(op) => {
                        level::alu(self.grid.level, &mut w.regs, mask, op);
                        Next::Step
                    }
                    Op::Slow(op) => {
                        slow::run(w, mask, active, op);
                        Next::Step
                    }
                    Op::Mem(op) => {
                        w.outward = true;
                        self.memory(w, mask, op)?;
                        Next::Step
                    }
                    Op::Matrix(op) => {
                        self.matrix(w, mask, op)?;
                        Next::Step
                    }
                    Op::Warp(op) => {
                        w.outward = true;
                        self.collective(w, mask, op)?
                    }
                    Op::Flow(Flow::Bra { target, join: at, uniform }) => {
                        if mask == active {
                            if *target <= pc {
                                *slice -= 1;
                            }
                            pc = *target;
                            if pc == join || *slice == 0 {
                                w.groups[g].pc = pc;
                                w.park(g);
                                return Ok(());
                            }
                            continue;
                        }
                        if *uniform {
                            return fail(Fault::Divergent { needs: active, here: mask });
                        }
                        w.groups[g].pc = pc;
                        w.diverge(g, mask, *target, *at);
                        Next::Choose
                    }
                    Op::Flow(Flow::Exit) => {
                        w.groups[g].pc = pc + 1;
                        w.exit(g, mask);
                        Next::Choose
                    }
                    Op::Flow(Flow::Trap) => return fail(Fault::TrapInstruction),
                    Op::Flow(Flow::Yield) => {
                        self.progress = true;
                        Next::Yield
                    }
                    Op::Async(op) => {
                        w.outward = true;
                        self.asynchronous(w, g, mask, op)?
                    }
                    Op::Nop => Next::Step,
                };
                match next {
                    Next::Step => {}
                    Next::Wait(wait) => {
                        w.groups[g].pc = pc;
                        w.groups[g].wait = wait;
                        if let Wait::Sync(members) = wait {
                            w.settle_sync(members);
                        }
                        return Ok(());
                    }
                    Next::Yield => {
                        w.groups[g].pc = pc + 1;
                        w.groups[g].wait = Wait::Yielded;
                        w.park(g);
                        return Ok(());
                    }
                    Next::Choose => return Ok(()),
                }
            }
            pc += 1;
            if pc == join {
                w.groups[g].pc = pc;
                w.park(g);
                return Ok(());
            }
        }
    }

    /// A barrier phase ended: group `i` goes on.
    fn pass(&mut self, w: &mut Warp, i: usize, id: u8, generation: u64) {
        let mask = w.groups[i].mask;
        if O::ON {
            self.observer.sync(self.at, mask, Sync::BarPass { id, generation });
        }
        self.reduced(w, mask, id);
        w.groups[i].pc += 1;
        w.groups[i].wait = Wait::No;
    }
}
