//! One block: its warps, shared memory and barriers, and the order in which the warps run.

use crate::exec::async_state::Flight;
use crate::exec::async_state::Mbar;
use crate::exec::level::Level;
use crate::exec::observe::{At, Observer};
use crate::exec::warp::{Wait, Warp};
use crate::isa::entry::{Entry, Fixed, Special};
use crate::memory::Bytes;
use crate::memory::global::Global;
use crate::report::place::{Place, Sources};
use crate::report::trap::{Exec, Fail, Fault, Trap};

/// Storage that blocks reuse.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    warps: Vec<Warp>,
    shared: Bytes,
}

/// What all blocks of a launch share.
#[derive(Debug)]
pub(crate) struct Grid<'a> {
    pub(crate) entry: &'a Entry,
    pub(crate) sources: &'a Sources,
    pub(crate) global: &'a Global,
    pub(crate) params: &'a Bytes,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) dynamic_shared: u32,
    /// Asynchronous copies land at the wait.
    pub(crate) late: bool,
    pub(crate) level: Level,
    /// Compute capability of the GPU that is stood in for, times ten.
    pub(crate) sm: u32,
    /// Warp instructions after which a block counts as never ending.
    pub(crate) instructions: u64,
}

/// A block barrier.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bar {
    pub(crate) generation: u64,
    /// Threads that end the phase: given by the arrivals, or 0 for all that live.
    pub(crate) expected: u32,
    pub(crate) arrived: u32,
    /// Predicates counted by `bar.red` this phase.
    pub(crate) trues: u32,
    pub(crate) voters: u32,
    /// The same of the phase before.
    pub(crate) result: (u32, u32),
}

/// A block in execution.
#[derive(Debug)]
pub(crate) struct Block<'a, O> {
    pub(crate) grid: &'a Grid<'a>,
    pub(crate) index: [u32; 3],
    pub(crate) shared: Bytes,
    /// Barriers 0 to 15, and the cluster's.
    pub(crate) bars: [Bar; 17],
    pub(crate) mbars: Vec<Mbar>,
    /// Bulk copies issued and not landed.
    pub(crate) flights: Vec<Flight>,
    /// Something changed that a waiting warp could see.
    pub(crate) progress: bool,
    pub(crate) live_warps: u32,
    /// What the kernel has printed.
    pub(crate) printed: String,
    pub(crate) observer: O,
    pub(crate) at: At,
}

/// Why a warp stopped running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Done,
    Blocked,
    /// It let the others run.
    Yielded,
}

/// Runs one block to its end, or until it traps; returns its warp instructions, its observer and what it printed.
pub(crate) fn run<O: Observer>(
    grid: &Grid<'_>,
    launch: &O::Launch,
    index: [u32; 3],
    scratch: &mut Scratch,
) -> (Result<u64, Trap>, O, String) {
    let threads: u32 = grid.block.iter().product();
    let n = threads.div_ceil(32);
    let mut warps = std::mem::take(&mut scratch.warps);
    let mut shared = std::mem::take(&mut scratch.shared);
    let bytes = grid.entry.shared_base + grid.entry.shared_static + grid.dynamic_shared;
    shared.refill(bytes as usize, 0xff);
    warps.resize_with(n as usize, Warp::default);
    for (w, warp) in warps.iter_mut().enumerate() {
        start_warp(grid, index, w as u32, threads, warp);
    }
    let mut block = Block {
        grid,
        index,
        shared,
        bars: [Bar::default(); 17],
        mbars: Vec::new(),
        flights: Vec::new(),
        progress: false,
        live_warps: n,
        printed: String::new(),
        observer: O::start(launch, index, n),
        at: At { pc: 0, warp: 0 },
    };
    let result = block.schedule(&mut warps);
    if result.is_ok() {
        block.observer.end(&block.mbars);
    }
    block.observer.leave();
    let steps = warps.iter().map(|w| w.clock).sum();
    scratch.warps = warps;
    scratch.shared = block.shared;
    (result.map(|()| steps), block.observer, block.printed)
}

/// Fills the fixed slots and everything else with a NaN pattern.
fn start_warp(grid: &Grid<'_>, index: [u32; 3], id: u32, threads: u32, w: &mut Warp) {
    let e = grid.entry;
    let lanes = (threads - id * 32).min(32);
    w.start(id, u32::MAX >> (32 - lanes), e.local_bytes as usize);
    let fresh = w.regs.r.len() != e.slots[1] as usize;
    w.regs.p.clear();
    w.regs.p.resize(e.slots[0] as usize, 0);
    w.regs.p[crate::isa::entry::TRUE as usize] = u32::MAX;
    if fresh {
        w.regs.r.resize(e.slots[1] as usize, [0; 32]);
        w.regs.x.resize(e.slots[2] as usize, [0; 32]);
    }
    w.regs.r.fill([u32::MAX; 32]);
    w.regs.x.fill([u64::MAX; 32]);
    let value = |f: Fixed, lane: u32| -> u64 {
        match f {
            Fixed::Bits(b) => b,
            Fixed::Special(s) => u64::from(special(grid, index, id, threads, s, lane)),
        }
    };
    for &(f, slot) in &e.fixed[0] {
        w.regs.r[slot as usize] = std::array::from_fn(|lane| value(f, lane as u32) as u32);
    }
    for &(f, slot) in &e.fixed[1] {
        w.regs.x[slot as usize] = std::array::from_fn(|lane| value(f, lane as u32));
    }
}

fn special(grid: &Grid<'_>, index: [u32; 3], warp: u32, threads: u32, s: Special, lane: u32) -> u32 {
    let t = warp * 32 + lane;
    let [x, y, _] = grid.block;
    match s {
        Special::Tid(0) => t % x,
        Special::Tid(1) => t / x % y,
        Special::Tid(_) => t / x / y,
        Special::Ntid(a) => grid.block[a as usize],
        Special::Ctaid(a) => index[a as usize],
        Special::Nctaid(a) => grid.grid[a as usize],
        Special::LaneId => lane,
        Special::WarpId => warp,
        Special::NWarpId => threads.div_ceil(32),
        Special::LaneMaskEq => 1 << lane,
        Special::LaneMaskLe => u32::MAX >> (31 - lane),
        Special::LaneMaskLt => (1 << lane) - 1,
        Special::LaneMaskGe => u32::MAX << lane,
        Special::LaneMaskGt => (u32::MAX << lane) << 1,
        Special::Zero => 0,
        Special::One => 1,
        Special::DynamicShared => grid.dynamic_shared,
        Special::TotalShared => grid.dynamic_shared + grid.entry.shared_static,
    }
}

impl<O: Observer> Block<'_, O> {
    fn schedule(&mut self, warps: &mut [Warp]) -> Result<(), Trap> {
        let (mut steps, mut idle) = (0, 0);
        loop {
            let mut done = true;
            self.progress = false;
            for w in warps.iter_mut() {
                if w.live == 0 {
                    continue;
                }
                let before = w.clock;
                self.at.warp = w.id;
                let stop = self.run_warp(w).map_err(|f| self.trap(*f))?;
                done &= stop == Stop::Done;
                steps += w.clock - before;
            }
            if done {
                // What was issued lands, waited for or not.
                return self.land_all().map_err(|f| self.trap(*f));
            }
            idle = if self.progress { 0 } else { idle + 1 };
            // The second round that changed nothing: every warp waits for what none will do.
            if idle > 1 {
                if self.flights.is_empty() {
                    return Err(self.deadlock(warps));
                }
                self.land_all().map_err(|f| self.trap(*f))?;
                idle = 0;
            }
            if steps > self.grid.instructions {
                let fault = Fault::Runaway { instructions: steps };
                return Err(self.trap(Fail { fault, lane: None }));
            }
        }
    }

    fn place(&self, at: At, lane: Option<u32>) -> Place {
        let e = self.grid.entry;
        let site = &e.sites[at.pc as usize];
        Place {
            entry: e.name.clone(),
            ptx_line: site.ptx_line,
            instruction: site.text.clone(),
            source: site.loc.map(|loc| self.grid.sources.line(loc)),
            called_from: site.loc.and_then(|loc| self.grid.sources.calls(loc).next()),
            block: self.index,
            warp: at.warp,
            lane,
        }
    }

    fn trap(&self, f: Fail) -> Trap {
        Trap::new(f.fault, Some(self.place(self.at, f.lane)))
    }

    fn deadlock(&mut self, warps: &[Warp]) -> Trap {
        let mut waiting = Vec::new();
        let mut first = None;
        for w in warps {
            for g in &w.groups {
                let pc = g.spin.map_or(g.pc, |s| s.pc);
                first.get_or_insert(At { pc, warp: w.id });
                let site = &self.grid.entry.sites[pc as usize];
                let what = match g.wait {
                    _ if let Some(s) = g.spin => self.describe(s.address),
                    Wait::Barrier { id, .. } => {
                        let b = &self.bars[id as usize];
                        let expected = if b.expected == 0 { self.live_warps * 32 } else { b.expected };
                        format!(" ({} of {expected} threads have arrived at barrier {id})", b.arrived)
                    }
                    Wait::Sync(members) | Wait::Collective(members) => {
                        format!(" (lanes {:#010x} of {members:#010x} are here)", g.mask)
                    }
                    Wait::No | Wait::Yielded => String::new(),
                };
                waiting.push(format!("warp {} at PTX line {} `{}`{what}", w.id, site.ptx_line, site.text));
            }
        }
        let waiting = waiting.join("; ");
        Trap::new(Fault::Deadlock { waiting }, first.map(|at| self.place(at, None)))
    }

    /// A warp arrives at a barrier (0 to 16); returns the phase it arrived in.
    pub(crate) fn arrive(&mut self, id: u32, threads: Option<u32>, vote: Option<u32>) -> Exec<u64> {
        let wrong = |what: String| crate::report::trap::fail(Fault::Barrier { id, what });
        let live = self.live_warps * 32;
        let block: u32 = self.grid.block.iter().product::<u32>().div_ceil(32) * 32;
        let b = &mut self.bars[id as usize];
        if let Some(n) = threads {
            if n == 0 || n % 32 != 0 {
                return wrong(format!("{n} threads: the count must be a positive multiple of 32"));
            }
            if n > block {
                return wrong(format!("{n} threads are awaited, the block has {block}"));
            }
        }
        let expected = threads.unwrap_or(0);
        if b.arrived > 0 && b.expected != expected {
            let name = |n: u32| if n == 0 { "all".to_owned() } else { n.to_string() };
            return wrong(format!(
                "arrivals disagree: {} threads awaited before, {} now",
                name(b.expected),
                name(expected)
            ));
        }
        b.expected = expected;
        b.arrived += 32;
        if let Some(v) = vote {
            b.trues += v.count_ones();
            b.voters += 32;
        }
        let generation = b.generation;
        b.finish(live);
        self.progress = true;
        Ok(generation)
    }

    /// A warp has left: barriers that wait for all may be complete now.
    pub(crate) fn leave(&mut self) {
        self.live_warps -= 1;
        self.progress = true;
        for b in &mut self.bars {
            if b.arrived > 0 && b.expected == 0 {
                b.finish(self.live_warps * 32);
            }
        }
    }
}

impl Bar {
    fn finish(&mut self, live: u32) {
        if self.arrived >= if self.expected == 0 { live } else { self.expected } {
            let result = (self.trues, self.voters);
            *self = Self { generation: self.generation + 1, result, ..Self::default() };
        }
    }
}
