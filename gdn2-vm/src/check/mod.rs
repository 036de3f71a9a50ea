//! The full checks of one block: an observer that knows what each access and each wait means for the others.

mod defined;
mod handover;
mod operands;
mod phases;
mod proxy;
mod tracks;
mod warpgroup;

use crate::api::Launch;
use crate::exec::lanes::{Regs, lanes};
use crate::exec::observe::{Access, Agent, At, Kind, Observer, Sync};
use crate::isa::entry::{Entry, SHARED_BASE};
use crate::isa::inst::{Flow, Inst, Mem, Op, Space};
use crate::memory::{Memory, WINDOW_BITS};
use crate::race::{By, COLLECTIVE, Clock, Found, Hazard, Other, Races, Touch, Worker};
use crate::report::finding::{Finding, MOST, Party, Rule};
use crate::report::place::{Place, SourceLine};
use defined::{Defined, Table};
use handover::{Known, Published};
use phases::Mbars;
use proxy::Held;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tracks::{Rival, Tracks};
use warpgroup::{Tracked, Warpgroup};

/// Phases of a block barrier whose clocks are kept: a warp may pass late, but not by more than this.
const PHASES: usize = 8;

/// What all blocks of a checked launch share.
#[derive(Debug)]
pub(crate) struct Watch {
    table: Table,
    products: Tracked,
    /// Instructions whose reads no lane can run ahead of.
    collective: Vec<bool>,
    tracks: Tracks,
    published: Published,
    shared_bytes: usize,
    grid: [u32; 3],
    threads: u32,
    /// Names of the buffers, for what is said of them.
    names: Vec<String>,
}

impl Watch {
    pub(crate) fn new(entry: &Entry, memory: &Memory, launch: &Launch<'_>) -> Self {
        Self {
            table: Table::new(entry),
            products: Tracked::new(entry),
            collective: entry
                .insts
                .iter()
                .map(|i| match &i.op {
                    Op::Mem(Mem::LdMatrix { .. }) => true,
                    Op::Mem(Mem::Fragment(f)) => !f.store,
                    _ => false,
                })
                .collect(),
            tracks: Tracks::new(memory),
            published: Published::default(),
            shared_bytes: (SHARED_BASE + entry.shared_static + launch.shared_bytes) as usize,
            grid: launch.grid,
            threads: launch.block.iter().product(),
            names: memory.buffers.iter().map(|b| b.name.clone()).collect(),
        }
    }

    /// What each buffer has had written by now.
    pub(crate) fn written(&self, buffer: usize) -> Option<Vec<u8>> {
        self.tracks.written(buffer)
    }

    fn block(&self, linear: u64) -> [u32; 3] {
        let [x, y, _] = self.grid.map(u64::from);
        [linear % x, linear / x % y, linear / x / y].map(|n| n as u32)
    }
}

/// One side of a finding, before its place is looked up.
#[derive(Clone, Debug)]
struct Side {
    at: At,
    block: [u32; 3],
    lane: Option<u32>,
}

#[derive(Clone, Debug)]
struct Raw {
    side: Side,
    what: String,
    other: Option<(Side, String, bool)>,
    fix: &'static str,
    times: u64,
}

/// The same rule broken by the same two instructions is one finding.
type Key = (u32, Rule, Option<u32>);

/// Per warp: what is under way.
#[derive(Debug)]
struct Watched {
    registers: Defined,
    /// Event counts of the committed cp.async groups.
    groups: Vec<u32>,
    /// The same of bulk stores.
    stores: Vec<u32>,
    /// The last bulk store: its instruction, lane and event count.
    stored: Option<(u32, u32, u32)>,
    /// Bulk stores up to this event have been waited for.
    stores_done: u32,
    warpgroup: Warpgroup,
    /// A `wgmma` is being told of.
    product: bool,
    /// Instruction, mbarrier and phase of the last wait that succeeded.
    passed: Option<(u32, u32, u64)>,
    /// Lanes that have not exited.
    live: u32,
}

/// Everything known about one block, and the findings so far.
#[derive(Debug)]
pub(crate) struct Full {
    watch: Arc<Watch>,
    index: [u32; 3],
    linear: u64,
    races: Races,
    warps: Vec<Watched>,
    /// Per block barrier: clocks of its last phases.
    bars: Vec<VecDeque<(u64, Clock)>>,
    mbars: Mbars,
    held: Vec<Held>,
    known: Known,
    found: BTreeMap<Key, Raw>,
}

impl Observer for Full {
    const ON: bool = true;
    type Launch = Arc<Watch>;

    fn start(watch: &Arc<Watch>, index: [u32; 3], warps: u32) -> Self {
        let [x, y, _] = watch.grid.map(u64::from);
        let [i, j, k] = index.map(u64::from);
        let live = |w: u32| u32::MAX >> (32 - (watch.threads - w * 32).min(32));
        let watched = |w| Watched {
            registers: Defined::new(&watch.table),
            groups: Vec::new(),
            stores: Vec::new(),
            stored: None,
            stores_done: 0,
            warpgroup: Warpgroup::default(),
            product: false,
            passed: None,
            live: live(w),
        };
        Self {
            index,
            linear: i + x * (j + y * k),
            races: Races::new(warps as usize, watch.shared_bytes),
            warps: (0..warps).map(watched).collect(),
            bars: vec![VecDeque::new(); 17],
            mbars: Mbars::default(),
            held: Vec::new(),
            known: Known::default(),
            found: BTreeMap::new(),
            watch: Arc::clone(watch),
        }
    }

    #[inline]
    fn step(&mut self, at: At, mask: u32, active: u32, inst: &Inst, regs: &Regs) {
        let warp = &mut self.warps[at.warp as usize];
        let guard = warp.registers.guard(inst.guard, active);
        let decides = warp.registers.step(&self.watch.table, at.pc as usize, &inst.op, mask, regs);
        if matches!(inst.op, Op::Flow(Flow::Exit)) {
            warp.live &= !mask;
            if let Some((pc, lane, count)) = warp.stored
                && mask >> lane & 1 != 0
                && count > warp.stores_done
            {
                warp.stored = None;
                self.left_behind(at, pc, lane);
            }
        }
        let warp = &mut self.warps[at.warp as usize];
        let next = self.races.latest(self.races.agent(at.warp as usize, Worker::Wgmma)) + 1;
        let wrong = warp.warpgroup.step(&self.watch.products, at.pc, &inst.op, next);
        if guard | decides != 0 {
            self.undefined(at, guard, decides);
        }
        if let Some(wrong) = wrong {
            self.registers(at, wrong);
        }
    }

    fn access(&mut self, at: At, a: &Access<'_>) {
        match a.space {
            Space::Shared => match a.agent {
                Agent::Warp => self.shared(at, a, Worker::Warp),
                Agent::CpAsync => self.shared(at, a, Worker::Copies),
                Agent::Bulk => self.hold(a),
                Agent::WgmmaA | Agent::WgmmaB => self.factor(at, a),
            },
            Space::Global => self.global(at, a),
            _ => {}
        }
    }

    fn sync(&mut self, at: At, mask: u32, sync: Sync) {
        let w = at.warp as usize;
        match sync {
            Sync::BarArrive { id, generation, .. } => {
                let phases = &mut self.bars[usize::from(id)];
                if phases.back().is_none_or(|(g, _)| *g != generation) {
                    phases.push_back((generation, Clock::default()));
                    if phases.len() > PHASES {
                        phases.pop_front();
                    }
                }
                if let Some((_, token)) = phases.back_mut() {
                    self.races.release(w, [mask, mask], token);
                }
            }
            Sync::BarPass { id, generation } => {
                self.races.warp_sync(w);
                if let Some((_, token)) = self.bars[usize::from(id)].iter().find(|(g, _)| *g == generation) {
                    self.races.acquire(w, token);
                }
            }
            Sync::WarpSync { .. } => self.races.warp_sync(w),
            Sync::Fence => self.mbars.fence(self.races.agent(w, Worker::Warp)),
            Sync::FenceProxyAsync => {
                self.races.proxy_fence(w);
                self.mbars.fence(self.races.agent(w, Worker::Warp));
            }
            Sync::CopyCommit => {
                let copies = self.races.agent(w, Worker::Copies);
                self.warps[w].groups.push(self.races.latest(copies));
            }
            Sync::CopyWait { keep } => {
                let groups = &self.warps[w].groups;
                if let Some(done) = groups.len().checked_sub(keep as usize + 1) {
                    let copies = self.races.agent(w, Worker::Copies);
                    self.races.complete(w, copies, groups[done]);
                }
            }
            Sync::CopyWaitAll => {
                let copies = self.races.agent(w, Worker::Copies);
                self.races.complete(w, copies, self.races.latest(copies));
            }
            other => self.asynchronous(at, mask, other),
        }
    }

    fn merge(&mut self, other: Self) {
        for (key, raw) in other.found {
            match self.found.get_mut(&key) {
                Some(known) => known.times += raw.times,
                None => {
                    self.found.insert(key, raw);
                }
            }
        }
    }
}

impl Full {
    fn note(
        &mut self,
        rule: Rule,
        at: At,
        lane: Option<u32>,
        other: Option<u32>,
        raw: impl FnOnce(&Self, Side) -> Raw,
    ) {
        let key = (at.pc, rule, other);
        if let Some(known) = self.found.get_mut(&key) {
            known.times += 1;
        } else if self.found.len() < MOST {
            let raw = raw(self, Side { at, block: self.index, lane });
            self.found.insert(key, raw);
        }
    }

    fn undefined(&mut self, at: At, guard: u32, decides: u32) {
        let (what, mask) = if guard == 0 { ("an operand", decides) } else { ("the guard", guard) };
        let lane = mask.trailing_zeros();
        self.note(Rule::UndefinedRegister, at, Some(lane), None, |_, side| Raw {
            side,
            what: format!("{what} was never set in lanes {mask:#010x}"),
            other: None,
            fix: "set the variable on every path that reaches this use",
            times: 1,
        });
    }

    fn shared(&mut self, at: At, a: &Access<'_>, worker: Worker) {
        let w = at.warp as usize;
        let agent = self.races.agent(w, worker);
        if worker == Worker::Copies {
            self.races.issue(w, agent);
        }
        let touch = match a.kind {
            Kind::Read => Touch::Read,
            Kind::Write => Touch::Write,
            Kind::Atomic => Touch::Atomic,
        };
        let collective = self.watch.collective[at.pc as usize];
        for lane in lanes(a.mask) {
            let lane_mark = if collective { COLLECTIVE } else { lane as u8 };
            let by = By { agent, warp: w as u16, lane: lane_mark, at: at.pc };
            let start = a.address[lane] as u32;
            if let Some(found) = self.races.touch(by, touch, start..start + a.bytes) {
                self.hazard(at, lane as u32, worker, touch, found);
            }
        }
    }

    fn hazard(&mut self, at: At, lane: u32, worker: Worker, touch: Touch, found: Found) {
        let (rule, fix) = match found.hazard {
            Hazard::Unordered => (Rule::SharedRace, self.what_orders(found.other)),
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
                Touch::Read => "reads",
                Touch::Write => "writes",
                Touch::Atomic => "updates",
            };
            let (who, offset) = (full.name(worker, at.warp as usize), found.offset - SHARED_BASE);
            let other = found.other.map(|o| {
                let (worker, warp) = full.races.describe(o.agent);
                let at = At { pc: o.at, warp: warp as u32 };
                let lane = (o.lane < 32).then_some(u32::from(o.lane));
                (Side { at, block: full.index, lane }, full.name(worker, warp), o.wrote)
            });
            Raw { side, what: format!("{who} {did} shared byte {offset}"), other, fix, times: 1 }
        });
    }

    fn what_orders(&self, other: Option<Other>) -> &'static str {
        match other.map(|o| self.races.describe(o.agent).0) {
            Some(Worker::Copies) => {
                "cp.async.wait_group by the warp that copied, then a barrier (__syncthreads) both warps pass"
            }
            Some(Worker::Wgmma) => "wgmma.wait_group by the reading warps, then a barrier or mbarrier arrival",
            Some(Worker::Stores) => "cp.async.bulk.wait_group.read by the storing thread, then a barrier",
            Some(Worker::Loads(_)) => "a wait on the mbarrier phase the copy completes",
            _ => "a barrier (__syncthreads, or a named one) that both warps pass between the two",
        }
    }

    fn name(&self, worker: Worker, warp: usize) -> String {
        match worker {
            Worker::Warp => format!("warp {warp}"),
            Worker::Copies => format!("cp.async of warp {warp}"),
            Worker::Wgmma => format!("wgmma of warp {warp}"),
            Worker::Stores => format!("bulk store of warp {warp}"),
            Worker::Loads(_) => "a bulk load".to_owned(),
        }
    }

    fn global(&mut self, at: At, a: &Access<'_>) {
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

    fn buffer(&self, address: u64) -> &str {
        let index = (address >> WINDOW_BITS).checked_sub(1).and_then(|i| usize::try_from(i).ok());
        index.and_then(|i| self.watch.names.get(i)).map_or("a module variable", String::as_str)
    }

    /// The findings with their places.
    pub(crate) fn report(self, entry: &Entry, files: &[String]) -> Vec<Finding> {
        let place = |side: &Side| {
            let site = &entry.sites[side.at.pc as usize];
            Place {
                entry: entry.name.clone(),
                ptx_line: site.ptx_line,
                instruction: site.text.clone(),
                source: site.loc.map(|(file, line)| SourceLine { file: files[file as usize].clone(), line }),
                block: side.block,
                warp: side.at.warp,
                lane: side.lane,
            }
        };
        let finding = |((_, rule, _), raw): (Key, Raw)| Finding {
            rule,
            what: raw.what,
            place: Some(place(&raw.side)),
            other: raw.other.map(|(side, who, wrote)| Party { who, wrote, place: place(&side) }),
            fix: raw.fix.to_owned(),
            times: raw.times,
        };
        self.found.into_iter().map(finding).take(MOST).collect()
    }
}
