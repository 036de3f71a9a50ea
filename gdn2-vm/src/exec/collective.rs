//! Warp collectives and block barriers.

use crate::exec::access::aligned;
use crate::exec::block::Block;
use crate::exec::lanes::lanes;
use crate::exec::observe::{Observer, Sync};
use crate::exec::warp::Next;
use crate::exec::warp::{Wait, Warp};
use crate::isa::inst::{BarRed, Op, ReduxOp, ShflMode, VoteOp, WarpOp};
use crate::report::trap::{Exec, Fault, fail, fail_at};

/// The members of a collective, if live lanes among them are elsewhere: they may come yet, or leave the kernel.
fn missing(w: &Warp, mask: u32, slot: u32) -> Exec<Option<u32>> {
    let m = &w.regs.r[slot as usize];
    let first = m[mask.trailing_zeros() as usize & 31];
    if first & w.live == mask && m.iter().all(|v| *v == first) {
        return Ok(None);
    }
    let mut elsewhere = None;
    for i in lanes(mask) {
        let needs = m[i] & w.live;
        if needs & mask != mask || m[i] >> i & 1 == 0 || elsewhere.is_some_and(|of| of != needs) {
            return fail_at(i, Fault::Divergent { needs: m[i], here: mask });
        }
        elsewhere = (needs != mask).then_some(needs);
    }
    Ok(elsewhere)
}

impl<O: Observer> Block<'_, O> {
    pub(crate) fn collective(&mut self, w: &mut Warp, mask: u32, op: &WarpOp) -> Exec<Next> {
        let named = match *op {
            WarpOp::Shfl { members, .. }
            | WarpOp::Vote { members, .. }
            | WarpOp::Match { members, .. }
            | WarpOp::Redux { members, .. }
            | WarpOp::Elect { members, .. } => Some(members),
            WarpOp::SyncWarp { .. } | WarpOp::Bar { .. } | WarpOp::BarRed { .. } => None,
        };
        if let Some(slot) = named
            && let Some(members) = missing(w, mask, slot)?
        {
            return Ok(Next::Wait(Wait::Collective(members)));
        }
        match *op {
            WarpOp::Shfl { mode, d, p, a, b, c, .. } => {
                shuffle(w, mask, mode, [d, a, b, c], p)?;
            }
            WarpOp::Vote { op, to, src, flip, .. } => {
                let v = (w.regs.p[src as usize] ^ flip) & mask;
                let all = |yes: bool| if yes { u32::MAX } else { 0 };
                match op {
                    VoteOp::All => w.regs.set_pred(to, all(v == mask), mask),
                    VoteOp::Any => w.regs.set_pred(to, all(v != 0), mask),
                    VoteOp::Uni => w.regs.set_pred(to, all(v == 0 || v == mask), mask),
                    VoteOp::Ballot => w.regs.set_word(to, mask, |_| v),
                }
            }
            WarpOp::Match { all, wide, d, p, a, .. } => {
                let v: [u64; 32] = std::array::from_fn(|i| {
                    if wide { w.regs.x[a as usize][i] } else { u64::from(w.regs.r[a as usize][i]) }
                });
                let equal = |i: usize| lanes(mask).filter(|&k| v[k] == v[i]).fold(0, |m, k| m | 1 << k);
                if all {
                    let first = mask.trailing_zeros() as usize;
                    let same = equal(first) == mask;
                    w.regs.set_word(d, mask, |_| if same { mask } else { 0 });
                    if let Some(p) = p {
                        w.regs.set_pred(p, if same { u32::MAX } else { 0 }, mask);
                    }
                } else {
                    w.regs.set_word(d, mask, equal);
                }
            }
            WarpOp::Redux { op, d, a, .. } => {
                let v = &w.regs.r[a as usize];
                let r = lanes(mask).map(|i| v[i]).reduce(|x, y| match op {
                    ReduxOp::Add => x.wrapping_add(y),
                    ReduxOp::MinU => x.min(y),
                    ReduxOp::MinS => (x as i32).min(y as i32) as u32,
                    ReduxOp::MaxU => x.max(y),
                    ReduxOp::MaxS => (x as i32).max(y as i32) as u32,
                    ReduxOp::And => x & y,
                    ReduxOp::Or => x | y,
                    ReduxOp::Xor => x ^ y,
                });
                let r = r.unwrap_or(0);
                w.regs.set_word(d, mask, |_| r);
            }
            WarpOp::Elect { d, p, .. } => {
                let leader = mask.trailing_zeros();
                if let Some(d) = d {
                    w.regs.set_word(d, mask, |_| leader);
                }
                w.regs.set_pred(p, 1 << leader, mask);
            }
            WarpOp::SyncWarp { members: slot } => {
                let first = mask.trailing_zeros() as usize;
                let m = w.regs.r[slot as usize][first];
                if m & mask != mask {
                    return fail_at(first, Fault::Divergent { needs: m, here: mask });
                }
                if O::ON {
                    self.observer.sync(self.at, mask, Sync::WarpSync { members: m });
                }
                if m & w.live != mask {
                    return Ok(Next::Wait(Wait::Sync(m)));
                }
            }
            WarpOp::Bar { id, threads, wait } => return self.barrier(w, mask, id, threads, None, wait),
            WarpOp::BarRed { id, threads, src, flip, .. } => {
                let vote = (w.regs.p[src as usize] ^ flip) & mask;
                return self.barrier(w, mask, id, threads, Some(vote), true);
            }
        }
        Ok(Next::Step)
    }

    fn barrier(
        &mut self,
        w: &Warp,
        mask: u32,
        id: u32,
        threads: Option<u32>,
        vote: Option<u32>,
        wait: bool,
    ) -> Exec<Next> {
        aligned(w, mask)?;
        let first = mask.trailing_zeros() as usize;
        let id = w.regs.r[id as usize][first];
        let threads = threads.map(|t| w.regs.r[t as usize][first]);
        if id > 15 {
            return fail(Fault::Barrier { id, what: "only barriers 0 to 15 exist".to_owned() });
        }
        let generation = self.arrive(id, threads, vote)?;
        let id = id as u8;
        if O::ON {
            self.observer.sync(self.at, mask, Sync::BarArrive { id, generation, wait, counted: threads.is_some() });
        }
        Ok(if wait { Next::Wait(Wait::Barrier { id, generation }) } else { Next::Step })
    }

    /// Writes the result of a `bar.red` that has just been passed.
    pub(crate) fn reduced(&mut self, w: &mut Warp, mask: u32, id: u8) {
        let entry = self.grid.entry;
        if let Op::Warp(WarpOp::BarRed { op, d, .. }) = entry.insts[self.at.pc as usize].op {
            let (trues, voters) = self.bars[id as usize].result;
            let all = |yes: bool| if yes { u32::MAX } else { 0 };
            match op {
                BarRed::Popc => w.regs.set_word(d, mask, |_| trues),
                BarRed::And => w.regs.set_pred(d, all(trues == voters), mask),
                BarRed::Or => w.regs.set_pred(d, all(trues > 0), mask),
            }
        }
    }
}

/// The lane that lane `i` reads in a shuffle (itself, if that is out of range), and whether it is in range.
#[inline(always)]
pub(crate) fn source(mode: ShflMode, i: usize, b: u32, c: u32) -> (usize, bool) {
    let lane = i as i32;
    let (bv, clamp, seg) = ((b & 31) as i32, (c & 31) as i32, (c >> 8 & 31) as i32);
    let max = (lane & seg) | (clamp & !seg);
    let min = lane & seg;
    let (j, ok) = match mode {
        ShflMode::Up => (lane - bv, lane - bv >= max),
        ShflMode::Down => (lane + bv, lane + bv <= max),
        ShflMode::Bfly => (lane ^ bv, lane ^ bv <= max),
        ShflMode::Idx => (min | (bv & !seg), min | (bv & !seg) <= max),
    };
    (if ok { j as usize } else { i }, ok)
}

fn shuffle(w: &mut Warp, mask: u32, mode: ShflMode, [d, a, b, c]: [u32; 4], p: Option<u32>) -> Exec<()> {
    let (va, vb, vc) = (&w.regs.r[a as usize], &w.regs.r[b as usize], &w.regs.r[c as usize]);
    let (mut out, mut from) = ([0; 32], [0; 32]);
    let (mut inside, mut read) = (0u32, 0u32);
    for i in 0..32 {
        let (j, ok) = source(mode, i, vb[i], vc[i]);
        inside |= u32::from(ok) << i;
        read |= (mask >> i & 1) << j;
        out[i] = va[j & 31];
        from[i] = j as u32;
    }
    if read & !mask != 0 {
        let lane = lanes(mask).find(|&i| mask >> from[i] & 1 == 0).unwrap_or(0);
        return fail_at(lane, Fault::ShuffleSource { source_lane: from[lane] });
    }
    crate::exec::lanes::put(&mut w.regs.r[d as usize], &out, mask);
    if let Some(p) = p {
        w.regs.set_pred(p, inside, mask);
    }
    Ok(())
}
