//! The full checks of one block: an observer that knows what each access and each wait means for the others.

mod access;
mod barriers;
mod defined;
mod defined_bytes;
mod handover;
mod operands;
mod phases;
mod proxy;
mod remedy;
mod tracks;
mod warpgroup;

use crate::api::Launch;
use crate::exec::async_state::Mbar;
use crate::exec::lanes::{Regs, lanes};
use crate::exec::observe::{Access, At, Observer, Sync};
use crate::isa::entry::Entry;
use crate::isa::inst::{AtomOp, Flow, Inst, Mem, Op, Site, Space};
use crate::memory::Memory;
use crate::race::{Clock, Races, Region, Worker};
use crate::report::finding::{MOST_PAIRS, Rule};
use access::Stored;
use barriers::Phases;
use defined::{Defined, Table};
use handover::{Known, Published};
use phases::Mbars;
use proxy::Held;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tracks::Tracks;
use warpgroup::{Tracked, Warpgroup};

/// The first instruction of the same source line, for each; without lines, each is its own.
fn lines(entry: &Entry) -> Vec<u32> {
    let mut first = HashMap::new();
    let of = |(pc, site): (u32, &Site)| site.loc.map_or(pc, |loc| *first.entry((loc.file, loc.line)).or_insert(pc));
    (0..).zip(&entry.sites).map(of).collect()
}

/// What all blocks of a checked launch share.
#[derive(Debug)]
pub(crate) struct Watch {
    table: Table,
    products: Tracked,
    /// Instructions whose reads no lane can run ahead of.
    collective: Vec<bool>,
    /// Instructions that compare and swap.
    compares: Vec<bool>,
    /// The first instruction of each one's line.
    lines: Vec<u32>,
    /// What each instruction stores.
    stored: Vec<Option<Stored>>,
    tracks: Tracks,
    published: Published,
    shared_base: u32,
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
            compares: entry.insts.iter().map(|i| matches!(i.op, Op::Mem(Mem::Atom { op: AtomOp::Cas, .. }))).collect(),
            lines: lines(entry),
            stored: entry.insts.iter().map(|i| Stored::of(&i.op)).collect(),
            tracks: Tracks::new(memory),
            published: Published::default(),
            shared_base: entry.shared_base,
            shared_bytes: (entry.shared_base + entry.shared_static + launch.shared_bytes) as usize,
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

/// The same rule broken by the same two lines is one finding; a line is known by its first instruction.
type Key = (u32, Rule, Option<u32>);

/// Per warp: what is under way.
#[derive(Debug)]
struct Watched {
    registers: Defined,
    /// Committed cp.async groups: the lanes that committed, and the count of their copies then.
    groups: Vec<(u32, u32)>,
    /// The same of bulk stores: counts of what they read and of what they write.
    stores: Vec<(u32, [u32; 2])>,
    /// What lanes knew at their last fence.
    fences: Vec<(u32, Clock)>,
    /// The last bulk store: its instruction, lane and event count.
    stored: Option<(u32, u32, u32)>,
    /// Bulk stores up to this event have been waited for.
    stores_done: u32,
    warpgroup: Warpgroup,
    /// A `wgmma` is being told of.
    product: bool,
    /// Instruction, lanes, mbarrier and phase of the last wait that succeeded.
    passed: Option<(u32, u32, u32, u64)>,
    /// Lanes that have not exited.
    live: u32,
}

/// Of lanes that wait for all but `keep` of the groups they committed: the last group that is done, by its lanes.
fn waited<T: Copy + PartialEq>(groups: &[(u32, T)], mask: u32, keep: u32) -> Vec<(u32, T)> {
    let mut done: Vec<(u32, T)> = Vec::new();
    for lane in lanes(mask) {
        let mut own = groups.iter().rev().filter(|(of, _)| of >> lane & 1 != 0);
        let Some((_, last)) = own.nth(keep as usize) else { continue };
        match done.iter_mut().find(|(_, count)| count == last) {
            Some((of, _)) => *of |= 1 << lane,
            None => done.push((1 << lane, *last)),
        }
    }
    done
}

/// Everything known about one block, and the findings so far.
#[derive(Debug)]
pub(crate) struct Full {
    watch: Arc<Watch>,
    index: [u32; 3],
    linear: u64,
    races: Races,
    warps: Vec<Watched>,
    /// The block barriers.
    bars: Vec<Phases>,
    /// What was published through words that several threads may touch at once.
    flags: HashMap<(Region, u64), Clock>,
    mbars: Mbars,
    held: Vec<Held>,
    known: Known,
    found: BTreeMap<Key, Raw>,
    /// Times a pair was met that is not among them for want of room.
    left_out: u64,
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
            fences: Vec::new(),
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
            bars: vec![Phases::default(); 17],
            flags: HashMap::new(),
            mbars: Mbars::default(),
            held: Vec::new(),
            known: Known::default(),
            found: BTreeMap::new(),
            left_out: 0,
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
            Space::Shared => self.shared(at, a),
            Space::Global => self.global(at, a),
            _ => {}
        }
    }

    fn sync(&mut self, at: At, mask: u32, sync: Sync) {
        let w = at.warp as usize;
        match sync {
            Sync::BarArrive { id, generation, counted, .. } => self.arrives(at, mask, id, generation, counted),
            Sync::BarPass { id, generation } => {
                let all = [mask, self.warps[w].live];
                self.races.warp_sync(w, all);
                if let Some(token) = self.bars[usize::from(id)].ended(generation) {
                    self.races.acquire(w, all, token);
                }
            }
            Sync::WarpSync { members } => self.races.warp_sync(w, [members, self.warps[w].live]),
            Sync::Fence => {
                self.mbars.fence(&self.races, w, mask);
                let known = self.races.snapshot(w, [mask, self.warps[w].live]);
                let fences = &mut self.warps[w].fences;
                fences.iter_mut().for_each(|(of, _)| *of &= !mask);
                fences.retain(|(of, _)| *of != 0);
                fences.push((mask, known));
            }
            Sync::FenceProxyAsync => {
                self.races.proxy_fence(w, [mask, self.warps[w].live]);
                self.mbars.fence(&self.races, w, mask);
            }
            Sync::CopyCommit => {
                let copies = self.races.agent(w, Worker::Copies);
                self.warps[w].groups.push((mask, self.races.latest(copies)));
            }
            Sync::CopyWait { keep } => {
                for (of, done) in waited(&self.warps[w].groups, mask, keep) {
                    let copies = self.races.agent(w, Worker::Copies);
                    self.races.complete(w, copies, [of, self.warps[w].live], done);
                }
            }
            Sync::CopyWaitAll => {
                let copies = self.races.agent(w, Worker::Copies);
                self.races.complete(w, copies, [mask, self.warps[w].live], self.races.latest(copies));
            }
            other => self.asynchronous(at, mask, other),
        }
    }

    fn end(&mut self, mbars: &[Mbar]) {
        for mbar in mbars.iter().filter(|mbar| mbar.pending != mbar.count || mbar.bytes != 0) {
            self.unfinished(mbar);
        }
    }

    fn leave(&mut self) {
        self.races = Races::new(0, 0);
        self.warps = Vec::new();
        self.bars = Vec::new();
        self.flags = HashMap::new();
        self.mbars = Mbars::default();
        self.held = Vec::new();
        self.known = Known::default();
    }

    fn merge(&mut self, other: Self) {
        self.left_out += other.left_out;
        for (key, raw) in other.found {
            let full = self.found.len() >= MOST_PAIRS;
            match self.found.get_mut(&key) {
                Some(known) => known.times += raw.times,
                None if full => self.left_out += raw.times,
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
        let line = |pc: u32| self.watch.lines.get(pc as usize).copied().unwrap_or(pc);
        let key = (line(at.pc), rule, other.map(line));
        if let Some(known) = self.found.get_mut(&key) {
            known.times += 1;
        } else if self.found.len() < MOST_PAIRS {
            let raw = raw(self, Side { at, block: self.index, lane });
            self.found.insert(key, raw);
        } else {
            self.left_out += 1;
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
}
