//! What each access to shared and device memory means for the others.

use super::tracks::Rival;
use super::{Full, Raw, Side};
use crate::exec::lanes::lanes;
use crate::exec::matrix::transpose;
use crate::exec::observe::{Access, Agent, At, Kind};
use crate::isa::inst::{Elem, Mem, Op, Order, Slot};
use crate::memory::WINDOW_BITS;
use crate::race::{By, Bytes, COLLECTIVE, Found, Hazard, Other, Region, Touch, Worker};
use crate::report::finding::Rule;
use std::sync::Arc;

/// What a store writes, so that it can be compared with what is there.
#[derive(Debug)]
pub(super) enum Stored {
    Plain { elem: Elem, from: Vec<Slot> },
    Matrix { trans: bool, from: Vec<Slot> },
}

impl Stored {
    pub(super) fn of(op: &Op) -> Option<Self> {
        match op {
            Op::Mem(Mem::St { elem, from, .. }) => Some(Stored::Plain { elem: *elem, from: from.clone() }),
            Op::Mem(Mem::StMatrix { trans, from, .. }) => Some(Stored::Matrix { trans: *trans, from: from.clone() }),
            _ => None,
        }
    }

    /// Whether this lane's bytes are what memory holds already.
    fn changes_nothing(&self, a: &Access<'_>, lane: usize) -> bool {
        let Some(data) = a.data else { return false };
        let bytes: Vec<u8> = match self {
            Stored::Plain { elem, from } => {
                let value = |s: &Slot| match elem.wide {
                    true => data.regs.x[*s as usize][lane],
                    false => u64::from(data.regs.r[*s as usize][lane]),
                };
                from.iter().flat_map(|s| value(s).to_le_bytes().into_iter().take(usize::from(elem.bytes))).collect()
            }
            // Lane 8 i + r names row r of matrix i.
            Stored::Matrix { trans, from } => {
                let Some(slot) = from.get(lane / 8) else { return false };
                let word = &data.regs.r[*slot as usize];
                let word = if *trans { transpose(word) } else { *word };
                word[lane % 8 * 4..][..4].iter().flat_map(|v| v.to_le_bytes()).collect()
            }
        };
        bytes.len() == a.bytes as usize && (0..a.bytes).zip(&bytes).all(|(i, b)| a.byte(lane, i) == Some(*b))
    }
}

fn touch_of(a: &Access<'_>, compares: bool) -> Touch {
    match (a.kind, a.order) {
        (Kind::Atomic, _) if compares => Touch::Compare,
        (Kind::Atomic, _) => Touch::Atomic,
        (Kind::Read, Order::Weak) => Touch::Read,
        (Kind::Write, Order::Weak) => Touch::Write,
        (Kind::Read, _) => Touch::StrongRead,
        (Kind::Write, _) => Touch::StrongWrite,
    }
}

impl Full {
    /// Shared or device memory, touched by the warp itself or its `cp.async`.
    pub(super) fn touched(&mut self, at: At, a: &Access<'_>, worker: Worker, region: Region) {
        let w = at.warp as usize;
        let agent = self.races.agent(w, worker);
        if worker == Worker::Copies {
            self.races.issue(w, agent);
        }
        let touch = touch_of(a, self.watch.compares[at.pc as usize]);
        if a.kind == Kind::Atomic || a.order != Order::Weak {
            self.flag(at, a, region);
        }
        let watch = Arc::clone(&self.watch);
        let (collective, stored) = (watch.collective[at.pc as usize], watch.stored[at.pc as usize].as_ref());
        for lane in lanes(a.mask) {
            let lane_mark = if collective { COLLECTIVE } else { lane as u8 };
            let by = By { agent, warp: w as u16, lane: lane_mark, at: at.pc };
            let same = || stored.is_some_and(|stored| stored.changes_nothing(a, lane));
            let bytes = Bytes { region, start: a.address[lane], len: a.bytes };
            if let Some(found) = self.races.touch(by, touch, bytes, &same) {
                self.hazard(at, lane as u32, worker, touch, region, found);
            }
        }
    }

    pub(super) fn hazard(&mut self, at: At, lane: u32, worker: Worker, touch: Touch, region: Region, found: Found) {
        let (rule, fix) = match found.hazard {
            Hazard::Unordered => {
                let rule = if region == Region::Shared { Rule::SharedRace } else { Rule::GlobalRace };
                (rule, self.what_orders(found.other))
            }
            Hazard::Lanes => (Rule::MissingSyncwarp, "a __syncwarp() between the two"),
            Hazard::Unfenced => {
                (Rule::MissingProxyFence, "fence.proxy.async after the write, before the barrier that publishes it")
            }
            Hazard::Unwaited => {
                (Rule::Unwaited, "wait for the group the copy was committed to before touching its bytes")
            }
            Hazard::Uninitialised => (Rule::UninitialisedShared, "write these bytes, or do not read them"),
        };
        self.note(rule, at, Some(lane), found.other.map(|o| o.at), |full, side| {
            let did = match touch {
                Touch::Read | Touch::StrongRead => "reads",
                Touch::Write | Touch::StrongWrite => "writes",
                Touch::Atomic | Touch::Compare => "updates",
            };
            let who = full.name(worker, at.warp as usize);
            let other = found.other.map(|o| {
                let (worker, warp) = full.races.describe(o.agent);
                let at = At { pc: o.at, warp: warp as u32 };
                let lane = (o.lane < 32).then_some(u32::from(o.lane));
                (Side { at, block: full.index, lane }, full.name(worker, warp), o.wrote)
            });
            let place = match region {
                Region::Shared => format!("shared byte {}", found.address - u64::from(full.watch.shared_base)),
                Region::Device => {
                    let byte = found.address & ((1 << WINDOW_BITS) - 1);
                    format!("byte {byte} of buffer `{}`", full.buffer(found.address))
                }
            };
            Raw { side, what: format!("{who} {did} {place}"), other, fix, times: 1 }
        });
    }

    fn what_orders(&self, other: Option<Other>) -> &'static str {
        match other.map(|o| self.races.describe(o.agent).0) {
            Some(Worker::Copies) => {
                "cp.async.wait_group by the warp that copied, then a barrier (__syncthreads) both warps pass"
            }
            Some(Worker::Wgmma) => "wgmma.wait_group by the reading warps, then a barrier or mbarrier arrival",
            Some(Worker::Stores) => "cp.async.bulk.wait_group.read by the storing thread, then a barrier",
            Some(Worker::Writes) => "cp.async.bulk.wait_group by the storing thread, then a barrier",
            Some(Worker::Loads(_)) => "a wait on the mbarrier phase the copy completes",
            _ => "a barrier (__syncthreads, or a named one) that both warps pass between the two",
        }
    }

    pub(super) fn name(&self, worker: Worker, warp: usize) -> String {
        match worker {
            Worker::Warp => format!("warp {warp}"),
            Worker::Copies => format!("cp.async of warp {warp}"),
            Worker::Wgmma => format!("wgmma of warp {warp}"),
            Worker::Stores | Worker::Writes => format!("bulk store of warp {warp}"),
            Worker::Loads(_) => "a bulk load".to_owned(),
        }
    }

    /// Device memory: its bytes must have been written, and no other block may write them.
    pub(super) fn global(&mut self, at: At, a: &Access<'_>) {
        match a.agent {
            Agent::Warp => self.touched(at, a, Worker::Warp, Region::Device),
            Agent::CpAsync => self.touched(at, a, Worker::Copies, Region::Device),
            Agent::Bulk => self.hold(a),
            Agent::WgmmaA | Agent::WgmmaB => {}
        }
        let me = Rival { block: self.linear, pc: at.pc };
        let watch = Arc::clone(&self.watch);
        let first = a.address[a.mask.trailing_zeros() as usize & 31];
        // Locks, flags and counters: one word for all lanes.
        if a.kind != Kind::Write && (a.mask.is_power_of_two() || a.address.iter().all(|at| *at == first)) {
            self.known.look(&watch.tracks, &watch.published, self.linear, first);
        }
        if a.kind == Kind::Atomic {
            self.known.tell(&watch.published, self.linear);
        }
        for lane in lanes(a.mask) {
            let address = a.address[lane];
            if a.kind != Kind::Write
                && let Some(byte) = self.watch.tracks.unwritten(address, a.bytes)
            {
                self.note(Rule::UninitialisedGlobal, at, Some(lane as u32), None, |full, side| Raw {
                    side,
                    what: format!("reads byte {byte} of buffer `{}`, which nothing has written", full.buffer(address)),
                    other: None,
                    fix: "write the buffer first, or do not read beyond what was written",
                    times: 1,
                });
            }
            if a.kind != Kind::Read
                && let Some(rival) = watch.tracks.write(address, a.bytes, a.kind == Kind::Atomic, me)
                && !self.known.has(&watch.tracks, &watch.published, self.linear, rival.block)
            {
                self.note(Rule::TwoBlocks, at, Some(lane as u32), Some(rival.pc), |full, side| {
                    let byte = address & ((1 << WINDOW_BITS) - 1);
                    let other =
                        Side { at: At { pc: rival.pc, warp: 0 }, block: full.watch.block(rival.block), lane: None };
                    Raw {
                        side,
                        what: format!(
                            "writes byte {byte} of buffer `{}`, which another block wrote",
                            full.buffer(address)
                        ),
                        other: Some((other, "another block".to_owned(), true)),
                        fix: "give each block its own part of the buffer, or use atomics",
                        times: 1,
                    }
                });
            }
        }
    }

    /// A word that several threads may touch at once: whoever reads it learns what those who wrote it had published, by
    /// an order of release or a fence before.
    #[cold]
    fn flag(&mut self, at: At, a: &Access<'_>, region: Region) {
        let w = at.warp as usize;
        let live = self.warps[w].live;
        let releases = matches!(a.order, Order::Release | Order::Both);
        for lane in lanes(a.mask) {
            let (word, lanes) = ((region, a.address[lane]), [1 << lane, live]);
            if a.kind != Kind::Write
                && let Some(known) = self.flags.get(&word)
            {
                self.races.acquire(w, lanes, known);
            }
            if a.kind == Kind::Read {
                continue;
            }
            let publishes = if releases {
                Some(self.races.snapshot(w, lanes))
            } else {
                let fenced = self.warps[w].fences.iter().filter(|(of, _)| of >> lane & 1 != 0);
                fenced.map(|(_, known)| known.clone()).next_back()
            };
            match (publishes, a.kind) {
                (Some(known), Kind::Atomic) => self.flags.entry(word).or_default().join(&known),
                (Some(known), _) => {
                    self.flags.insert(word, known);
                }
                (None, Kind::Atomic) => {}
                (None, _) => {
                    self.flags.remove(&word);
                }
            }
        }
    }

    pub(super) fn buffer(&self, address: u64) -> &str {
        let index = (address >> WINDOW_BITS).checked_sub(1).and_then(|i| usize::try_from(i).ok());
        index.and_then(|i| self.watch.names.get(i)).map_or("a module variable", String::as_str)
    }

    /// The access lies in shared memory.
    pub(super) fn shared(&mut self, at: At, a: &Access<'_>) {
        match a.agent {
            Agent::Warp => self.touched(at, a, Worker::Warp, Region::Shared),
            Agent::CpAsync => self.touched(at, a, Worker::Copies, Region::Shared),
            Agent::Bulk => self.hold(a),
            Agent::WgmmaA | Agent::WgmmaB => self.factor(at, a),
        }
    }
}
