//! Hopper's asynchronous work: bulk copies through mbarriers and groups, and `wgmma`.

use super::phases::Init;
use super::warpgroup::Wrong;
use super::{Full, Raw, Side, waited};
use crate::exec::async_state::Mbar;
use crate::exec::lanes::lanes;
use crate::exec::observe::{Access, At, Kind, Sync};
use crate::isa::inst::Space;
use crate::race::{By, Bytes, COLLECTIVE, Region, Touch, Worker};
use crate::report::finding::Rule;

/// One end of a bulk copy whose destination mbarrier or group the next event tells.
#[derive(Debug)]
pub(super) struct Held {
    touch: Touch,
    bytes: Bytes,
    lane: usize,
}

impl Full {
    pub(super) fn hold(&mut self, a: &Access<'_>) {
        let touch = match a.kind {
            Kind::Read => Touch::Read,
            Kind::Write => Touch::Write,
            Kind::Atomic => Touch::Atomic,
        };
        let region = if a.space == Space::Shared { Region::Shared } else { Region::Device };
        for lane in lanes(a.mask) {
            self.held.push(Held { touch, bytes: Bytes { region, start: a.address[lane], len: a.bytes }, lane });
        }
    }

    /// The held accesses in this region, or in both, are this worker's; returns the count of its event.
    fn settle(&mut self, at: At, worker: Worker, region: Option<Region>) -> u32 {
        let w = at.warp as usize;
        let agent = self.races.agent(w, worker);
        let count = self.races.issue(w, agent);
        let (own, rest) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|held| region.is_none_or(|region| held.bytes.region == region));
        self.held = rest;
        let own: Vec<Held> = own;
        for held in own {
            let by = By { agent, warp: w as u16, lane: held.lane as u8, at: at.pc };
            if let Some(found) = self.races.touch(by, held.touch, held.bytes, &|| false) {
                self.hazard(at, held.lane as u32, worker, held.touch, held.bytes.region, found);
            }
        }
        count
    }

    /// The shared reads of a `wgmma`, all under one event.
    pub(super) fn factor(&mut self, at: At, a: &Access<'_>) {
        let w = at.warp as usize;
        let agent = self.races.agent(w, Worker::Wgmma);
        if !std::mem::replace(&mut self.warps[w].product, true) {
            self.races.issue(w, agent);
        }
        let by = By { agent, warp: w as u16, lane: COLLECTIVE, at: at.pc };
        for lane in lanes(a.mask) {
            let bytes = Bytes { region: Region::Shared, start: a.address[lane], len: a.bytes };
            if let Some(found) = self.races.touch(by, Touch::Read, bytes, &|| false) {
                self.hazard(at, lane as u32, Worker::Wgmma, Touch::Read, Region::Shared, found);
            }
        }
    }

    /// Registers of a `wgmma` under way.
    #[cold]
    pub(super) fn registers(&mut self, at: At, wrong: Wrong) {
        let (rule, other, what, fix) = match wrong {
            Wrong::Busy(other) => (
                Rule::Unwaited,
                other,
                "touches a register that a wgmma still uses",
                "wgmma.wait_group before the register is touched",
            ),
            Wrong::Unfenced(other) => (
                Rule::MissingWgmmaFence,
                other,
                "uses a register touched since the last wgmma.fence",
                "wgmma.fence before the wgmma, after the last access to its registers",
            ),
        };
        self.note(rule, at, None, Some(other), |full, side| {
            let first = Side { at: At { pc: other, warp: at.warp }, block: full.index, lane: None };
            let other = Some((first, format!("warp {}", at.warp), true));
            Raw { side, what: what.to_owned(), other, fix, times: 1 }
        });
    }

    /// A thread leaves, and with it the shared memory that its bulk store may still read.
    #[cold]
    pub(super) fn left_behind(&mut self, at: At, store: u32, lane: u32) {
        self.note(Rule::Unwaited, at, Some(lane), Some(store), |full, side| {
            let first = Side { at: At { pc: store, warp: at.warp }, block: full.index, lane: Some(lane) };
            Raw {
                side,
                what: "leaves while its bulk store may still read shared memory".to_owned(),
                other: Some((first, full.name(Worker::Stores, at.warp as usize), false)),
                fix: "cp.async.bulk.commit_group and cp.async.bulk.wait_group.read 0 before the thread's end",
                times: 1,
            }
        });
    }

    pub(super) fn asynchronous(&mut self, at: At, mask: u32, sync: Sync) {
        let w = at.warp as usize;
        let (me, lane) = (self.races.agent(w, Worker::Warp), mask.trailing_zeros());
        let live = self.warps[w].live;
        match sync {
            Sync::MbarInit { address } => {
                let count = self.races.latest(me);
                self.mbars.init(address, Init { agent: me, lane: lane as u8, count, at: at.pc, fenced: false });
            }
            Sync::MbarArrive { address, phase, arrives } => {
                self.published(at, lane, address, false);
                if let Some(i) = self.mbars.index(address) {
                    self.mbars.arrived(i, at, lane);
                    if arrives && let Some(token) = self.mbars.token(i, phase) {
                        self.races.release(w, [mask, live], token);
                    }
                }
            }
            Sync::CopyArrive { address, phase } => {
                self.published(at, lane, address, false);
                let copies = self.races.agent(w, Worker::Copies);
                let latest = self.races.latest(copies);
                if let Some(i) = self.mbars.index(address) {
                    self.mbars.arrived(i, at, lane);
                    if let Some(token) = self.mbars.token(i, phase) {
                        token.learn_alone(copies, [mask, live], latest);
                    }
                }
            }
            Sync::MbarPass { address, phase } => {
                self.published(at, lane, address, false);
                let pass = (at.pc, mask, address, phase);
                if phase != u64::MAX
                    && self.warps[w].passed != Some(pass)
                    && let Some(i) = self.mbars.index(address)
                    && let Some(token) = self.mbars.ended(i, phase)
                {
                    self.races.acquire(w, [mask, live], token);
                    self.warps[w].passed = Some(pass);
                }
            }
            Sync::BulkToMbar { address, phase } => {
                self.published(at, lane, address, true);
                if let Some(i) = self.mbars.index(address) {
                    let count = self.settle(at, Worker::Loads(i), None);
                    let agent = self.races.agent(w, Worker::Loads(i));
                    if let Some(token) = self.mbars.token(i, phase) {
                        token.learn(agent, count);
                    }
                }
            }
            Sync::BulkToGroup => {
                let count = self.settle(at, Worker::Stores, Some(Region::Shared));
                self.settle(at, Worker::Writes, None);
                self.warps[w].stored = Some((at.pc, lane, count));
            }
            Sync::BulkCommit => {
                let counts = [Worker::Stores, Worker::Writes].map(|k| self.races.latest(self.races.agent(w, k)));
                self.warps[w].stores.push((mask, counts));
            }
            Sync::BulkWait { keep, read } => {
                for (of, [reads, writes]) in waited(&self.warps[w].stores, mask, keep) {
                    let [stores, written] = [Worker::Stores, Worker::Writes].map(|k| self.races.agent(w, k));
                    self.races.complete(w, stores, [of, live], reads);
                    if !read {
                        self.races.complete(w, written, [of, live], writes);
                    }
                    if self.warps[w].stored.is_some_and(|(_, lane, _)| of >> lane & 1 != 0) {
                        self.warps[w].stores_done = reads;
                    }
                }
            }
            Sync::WgmmaFence => self.warps[w].warpgroup.fence(),
            Sync::WgmmaIssue => self.warps[w].product = false,
            Sync::WgmmaCommit => {
                let latest = self.races.latest(self.races.agent(w, Worker::Wgmma));
                self.warps[w].warpgroup.commit(latest);
            }
            Sync::WgmmaWait { keep } => {
                let done = self.warps[w].warpgroup.wait(keep);
                let wgmma = self.races.agent(w, Worker::Wgmma);
                self.races.complete(w, wgmma, [live, live], done);
            }
            _ => {}
        }
    }

    /// The block ends, and a phase of an mbarrier has begun and not ended.
    #[cold]
    pub(super) fn unfinished(&mut self, mbar: &Mbar) {
        let Some(known) = self.mbars.index(mbar.address).and_then(|i| self.mbars.get(i)) else { return };
        let (_, owner) = self.races.describe(known.init.agent);
        let init = (At { pc: known.init.at, warp: owner as u32 }, u32::from(known.init.lane));
        let (at, lane) = known.last.unwrap_or(init);
        let (came, count, bytes) = (mbar.count - mbar.pending.min(mbar.count), mbar.count, mbar.bytes);
        let (address, phase) = (mbar.address, mbar.phase);
        self.note(Rule::UnfinishedPhase, at, Some(lane), None, |full, side| {
            let missing = if bytes == 0 { String::new() } else { format!(", {bytes} bytes announced and not come") };
            Raw {
                side,
                what: format!(
                    "the block ends with phase {phase} of the mbarrier at shared byte {} unfinished: {came} of {count} \
                     arrivals{missing}",
                    address - full.watch.shared_base
                ),
                other: None,
                fix: "a count that is the number of arrivals of a phase, and arrivals by every thread of it",
                times: 1,
            }
        });
    }

    /// An mbarrier is used: its initialisation must be known here, and to the copy engine through a fence.
    fn published(&mut self, at: At, lane: u32, address: u32, by_engine: bool) {
        let w = at.warp as usize;
        let Some(mbar) = self.mbars.index(address).and_then(|i| self.mbars.get(i)) else { return };
        let init = mbar.init;
        let (_, owner) = self.races.describe(init.agent);
        let (rule, fix) = if owner != w && !self.races.knows(w, init.agent, init.lane, init.count) {
            (Rule::SharedRace, "a barrier (__syncthreads) between the initialisation and the first use")
        } else if by_engine && !init.fenced {
            (Rule::MissingProxyFence, "fence.mbarrier_init or fence.proxy.async after the initialisation")
        } else {
            return;
        };
        self.note(rule, at, Some(lane), Some(init.at), |full, side| {
            let first = At { pc: init.at, warp: owner as u32 };
            let first = Side { at: first, block: full.index, lane: Some(u32::from(init.lane)) };
            let what = format!("uses the mbarrier at shared byte {}", address - full.watch.shared_base);
            Raw { side, what, other: Some((first, format!("warp {owner}"), true)), fix, times: 1 }
        });
    }
}
