//! The multiprocessor's clock: issues and events in order of time.

use super::barriers::Barriers;
use super::cost::{Cost, Kind, PIPES, WAITS, Wait};
use super::warp::{Warp, close};
use crate::gpu::{Explanation, Gpu};
use crate::walk::{Block, Effect};
use std::cmp::Ordering;
use std::collections::BinaryHeap;

const SCHEDULERS: usize = 4;
/// Bytes of a sector, and of a pass over shared memory.
const SECTOR: f64 = 32.0;
const PASS: f64 = 128.0;
/// Clocks after which the operands of an instruction have been read.
const OPERANDS_READ: f64 = 12.0;
/// A warp matrix instruction enters its queue that much before the unit is free.
const MMA_EARLY: f64 = 2.0;
/// Matrix operands are read from shared memory that much ahead of the product.
const READ_AHEAD: f64 = 32.0;

/// What a warp of the first block did.
#[derive(Clone, Debug, PartialEq)]
pub struct Role {
    /// Its number in the block.
    pub warp: usize,
    /// Instructions it issued.
    pub issued: usize,
    /// From its start to its end, clocks.
    pub clocks: f64,
    /// What it waited for, clocks by kind, in the order of [`Wait::ALL`].
    pub waits: [f64; WAITS],
}

/// A simulated multiprocessor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Clocks until the last block has ended.
    pub clocks: f64,
    /// Instructions issued.
    pub issued: u64,
    /// Clocks that matrix pipes were busy, all four together.
    pub matrix: f64,
    /// Passes over shared memory.
    pub passes: f64,
    /// Bytes to and from the level-two cache.
    pub bytes: f64,
    /// The warps of the first block.
    pub roles: Vec<Role>,
}

/// A simulation that stands still.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimulationError {
    /// Warps wait for what never comes.
    #[error("the simulation stands still: {0}")]
    Deadlock(String),
}

#[derive(Debug)]
enum Happens {
    Arrive { block: usize, at: u32, count: u16, bytes: i64 },
    Start,
}

struct Event {
    at: f64,
    order: u64,
    what: Happens,
}

impl PartialEq for Event {
    fn eq(&self, other: &Event) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Event) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    /// The earliest is the greatest, so that a heap gives it first.
    fn cmp(&self, other: &Event) -> Ordering {
        other.at.total_cmp(&self.at).then(other.order.cmp(&self.order))
    }
}

#[derive(Clone, Copy, Default)]
struct Scheduler {
    port: f64,
    pipes: [f64; PIPES],
    matrix: f64,
    /// The warp that issues next, and when.
    best: Option<(f64, usize)>,
}

struct Machine<'a> {
    costs: &'a [Cost],
    gpu: &'a Gpu,
    explanation: Explanation,
    queue: &'a [&'a Block],
    started: usize,
    warps: Vec<Warp<'a>>,
    /// Warps of each scheduler that still run.
    running: [Vec<usize>; SCHEDULERS],
    schedulers: [Scheduler; SCHEDULERS],
    barriers: Barriers,
    events: BinaryHeap<Event>,
    order: u64,
    shared: f64,
    memory: f64,
    bytes_a_clock: f64,
    /// Sectors that each block's cache holds, and warps it still runs.
    seen: Vec<Vec<u64>>,
    live: Vec<usize>,
    outcome: Outcome,
}

/// Runs blocks on one multiprocessor, `resident` of them at once, in the order given. `busy`: multiprocessors that share
/// the level-two cache.
///
/// # Errors
/// Warps that wait for what never comes.
pub(crate) fn run(
    costs: &[Cost],
    blocks: &[&Block],
    resident: u32,
    gpu: &Gpu,
    explanation: Explanation,
    busy: u64,
) -> Result<Outcome, SimulationError> {
    let mut machine = Machine {
        costs,
        gpu,
        explanation,
        queue: blocks,
        started: 0,
        warps: Vec::new(),
        running: Default::default(),
        schedulers: [Scheduler::default(); SCHEDULERS],
        barriers: Barriers::default(),
        events: BinaryHeap::new(),
        order: 0,
        shared: 0.0,
        memory: 0.0,
        bytes_a_clock: gpu.share(busy),
        seen: Vec::new(),
        live: Vec::new(),
        outcome: Outcome::default(),
    };
    for _ in 0..resident.max(1) {
        machine.start(0.0);
    }
    machine.go()
}

/// Runs blocks of a program on one multiprocessor.
///
/// # Errors
/// Warps that wait for what never comes.
pub fn simulate(
    program: &crate::sass::Program,
    blocks: &[&Block],
    resident: u32,
    gpu: &Gpu,
    explanation: Explanation,
    busy: u64,
) -> Result<Outcome, SimulationError> {
    run(&super::costs(program, gpu), blocks, resident, gpu, explanation, busy)
}

impl<'a> Machine<'a> {
    fn start(&mut self, now: f64) {
        let Some(block) = self.queue.get(self.started).copied() else { return };
        let index = self.started;
        self.started += 1;
        self.live.push(block.warps.iter().filter(|steps| !steps.is_empty()).count());
        self.seen.push(vec![0; (block.distinct as usize).div_ceil(64)]);
        for (number, steps) in block.warps.iter().enumerate().filter(|(_, steps)| !steps.is_empty()) {
            let scheduler = (number + index * block.warps.len()) % SCHEDULERS;
            let mut warp = Warp::new(index, number, scheduler, steps, now);
            warp.look(self.costs);
            self.running[scheduler].push(self.warps.len());
            self.warps.push(warp);
        }
        for scheduler in 0..SCHEDULERS {
            self.choose(scheduler);
        }
    }

    fn go(mut self) -> Result<Outcome, SimulationError> {
        loop {
            let next = (0..SCHEDULERS)
                .filter_map(|scheduler| self.schedulers[scheduler].best.map(|(at, warp)| (at, warp, scheduler)))
                .min_by(|a, b| a.0.total_cmp(&b.0));
            let due = self.events.peek().map(|event| event.at);
            match (next, due) {
                (None, None) => break,
                (Some((at, ..)), Some(due)) if due <= at => self.happen(),
                (None, Some(_)) => self.happen(),
                (Some((at, warp, scheduler)), _) => {
                    // Others may have taken what it needs since it was chosen.
                    if self.when(warp, scheduler).0 > at {
                        self.choose(scheduler);
                    } else {
                        self.issue(warp, scheduler, at);
                    }
                }
            }
        }
        let stuck: Vec<String> = self.running.iter().flatten().take(8).map(|warp| self.describe(*warp)).collect();
        if !stuck.is_empty() {
            return Err(SimulationError::Deadlock(stuck.join("; ")));
        }
        let ends = self.warps.iter().map(|warp| warp.ended);
        self.outcome.clocks = ends.fold(0.0, f64::max);
        self.outcome.roles = self
            .warps
            .iter()
            .filter(|warp| warp.block == 0)
            .map(|warp| Role {
                warp: warp.number,
                issued: warp.steps.len(),
                clocks: warp.ended - warp.began,
                waits: warp.waits,
            })
            .collect();
        Ok(self.outcome)
    }

    fn describe(&self, warp: usize) -> String {
        let warp = &self.warps[warp];
        let at = warp.next.checked_sub(1).and_then(|at| warp.steps.get(at));
        let what = match at.map(|step| step.effect) {
            Some(Effect::Wait { at, parity }) => {
                let state = self.barriers.phased.get(&(warp.block, at)).map(|barrier| barrier.describe());
                format!("mbarrier {at:#x} of parity {}: {}", u8::from(parity), state.unwrap_or_default())
            }
            other => format!("{other:?}"),
        };
        format!("warp {} of block {} at {what}", warp.number, warp.block)
    }

    fn happen(&mut self) {
        let Some(Event { at: now, what, .. }) = self.events.pop() else { return };
        match what {
            Happens::Start => self.start(now),
            Happens::Arrive { block, at, count, bytes } => {
                let free = self.barriers.phased.entry((block, at)).or_default().arrive(count, bytes);
                for (warp, since) in free {
                    self.wake(warp, now, since);
                }
            }
        }
    }

    /// A warp's phase has ended.
    fn wake(&mut self, index: usize, now: f64, since: f64) {
        let (costs, latency) = (self.costs, &self.gpu.latency);
        let warp = &mut self.warps[index];
        let done = (now + latency.wake).max(since + latency.mbarrier);
        warp.waits[Wait::Mbarrier as usize] += (now - warp.ready).max(0.0);
        warp.ready = warp.ready.max(now);
        warp.blocked = false;
        let board = warp.next.checked_sub(1).and_then(|at| costs[warp.steps[at].instruction as usize].write);
        match board {
            Some(board) => {
                warp.boards[usize::from(board)] = (warp.boards[usize::from(board)].0.max(done), Wait::Mbarrier)
            }
            None => warp.ready = done,
        }
        warp.look(costs);
        let scheduler = warp.scheduler;
        self.choose(scheduler);
    }

    fn event(&mut self, at: f64, what: Happens) {
        self.order += 1;
        self.events.push(Event { at, order: self.order, what });
    }

    /// When a warp can issue, given pipes and queues, and what holds it.
    fn when(&self, index: usize, scheduler: usize) -> (f64, Wait) {
        let warp = &self.warps[index];
        let own = &self.schedulers[scheduler];
        let Some(step) = warp.step() else { return (f64::INFINITY, Wait::Own) };
        let cost = &self.costs[step.instruction as usize];
        let (mut at, mut why) = (warp.earliest, Wait::Own);
        let mut later = |when: f64, wait: Wait| {
            if when > at {
                (at, why) = (when, wait);
            }
        };
        later(own.port, Wait::Slot);
        if let Some((pipe, _)) = cost.pipe {
            later(own.pipes[pipe as usize], pipe.wait());
        }
        if step.effect != Effect::Off {
            let latency = &self.gpu.latency;
            match cost.kind {
                Kind::Mma { .. } => later(own.matrix - MMA_EARLY, Wait::Mma),
                Kind::Wgmma(product) => {
                    later(own.matrix - latency.wgmma_queue, Wait::Wgmma);
                    if product.adds {
                        later(warp.accumulator(product.accumulator) - latency.wgmma_lead, Wait::Wgmma);
                    }
                }
                Kind::Shared | Kind::Copy => later(self.shared - latency.shared_queue, Wait::Queue),
                _ => {}
            }
        }
        (at, why)
    }

    fn choose(&mut self, scheduler: usize) {
        let mut best: Option<(f64, usize)> = None;
        for warp in &self.running[scheduler] {
            if self.warps[*warp].earliest == f64::INFINITY {
                continue;
            }
            let (at, _) = self.when(*warp, scheduler);
            let better = best.is_none_or(|(least, other)| {
                at < least || at == least && self.warps[*warp].last < self.warps[other].last
            });
            if better {
                best = Some((at, *warp));
            }
        }
        self.schedulers[scheduler].best = best;
    }

    fn issue(&mut self, index: usize, scheduler: usize, now: f64) {
        let Some(step) = self.warps[index].step() else { return };
        let cost = self.costs[step.instruction as usize];
        let (_, held) = self.when(index, scheduler);
        self.outcome.issued += 1;
        let own = &mut self.schedulers[scheduler];
        own.port = now + 1.0;
        if let Some((pipe, rate)) = cost.pipe {
            let pipe = &mut own.pipes[pipe as usize];
            *pipe = pipe.max(now) + rate;
        }
        let warp = &mut self.warps[index];
        if warp.earliest > warp.ready {
            warp.waits[warp.reason as usize] += warp.earliest - warp.ready;
        }
        if now > warp.earliest {
            warp.waits[held as usize] += now - warp.earliest;
        }
        warp.waits[Wait::Own as usize] += cost.stall;
        warp.next += 1;
        warp.last = now;
        warp.ready = now + cost.stall;
        let done = match step.effect {
            Effect::Off => now + cost.latency,
            Effect::Taken => {
                warp.ready += self.gpu.latency.branch;
                warp.waits[Wait::Own as usize] += self.gpu.latency.branch;
                now + cost.latency
            }
            effect => self.perform(index, scheduler, &cost, effect, now),
        };
        let warp = &mut self.warps[index];
        if let Some(board) = cost.write.filter(|_| !warp.blocked) {
            let slot = &mut warp.boards[usize::from(board)];
            *slot = (slot.0.max(done), cost.result);
        }
        if let Some(board) = cost.read {
            let slot = &mut warp.boards[usize::from(board)];
            if now + OPERANDS_READ > slot.0 {
                *slot = (now + OPERANDS_READ, cost.pipe.map_or(Wait::Other, |(pipe, _)| pipe.wait()));
            }
        }
        if warp.next >= warp.steps.len() {
            self.finish(index, scheduler, now);
        } else {
            warp.look(self.costs);
        }
        self.choose(scheduler);
    }

    fn finish(&mut self, index: usize, scheduler: usize, now: f64) {
        let block = self.warps[index].block;
        self.warps[index].ended = now;
        self.running[scheduler].retain(|warp| *warp != index);
        self.live[block] -= 1;
        if self.live[block] == 0 {
            self.barriers.forget(block);
            self.seen[block] = Vec::new();
            self.event(now + self.gpu.latency.block_start, Happens::Start);
        }
    }

    /// Bytes through the multiprocessor's share of the level-two cache; when the last has passed.
    fn transfer(&mut self, bytes: f64, now: f64) -> f64 {
        self.memory = self.memory.max(now) + bytes / self.bytes_a_clock;
        self.outcome.bytes += bytes;
        self.memory
    }

    fn pass(&mut self, passes: f64, from: f64) -> f64 {
        self.shared = self.shared.max(from) + passes / self.gpu.shared_passes;
        self.outcome.passes += passes;
        self.shared
    }

    /// The sectors of an access that the block's cache does not hold; reads leave them there.
    fn misses(&mut self, block: usize, first: u32, count: u16, reads: bool) -> f64 {
        if !reads {
            return f64::from(count);
        }
        let Some(list) = self.queue.get(block).map(|block| &block.sectors) else { return f64::from(count) };
        let seen = &mut self.seen[block];
        let mut missed = 0;
        for sector in list.iter().skip(first as usize).take(usize::from(count)) {
            let (word, bit) = (*sector as usize / 64, 1u64 << (sector % 64));
            if seen[word] & bit == 0 {
                seen[word] |= bit;
                missed += 1;
            }
        }
        f64::from(missed)
    }

    /// What an instruction does beyond issuing; when its result is there.
    fn perform(&mut self, index: usize, scheduler: usize, cost: &Cost, effect: Effect, now: f64) -> f64 {
        let gpu = self.gpu;
        let latency = &gpu.latency;
        let block = self.warps[index].block;
        let plain = now + cost.latency;
        match (cost.kind, effect) {
            (Kind::Shared, Effect::Passes(passes)) => self.pass(f64::from(passes), now + 1.0) + cost.latency - 1.0,
            (Kind::Exchange, _) => {
                let from = self.shared.max(now + 1.0);
                self.pass(1.0, now + 1.0);
                from + cost.latency
            }
            (Kind::Mma { clocks }, _) => {
                let own = &mut self.schedulers[scheduler];
                own.matrix = own.matrix.max(now) + clocks;
                self.outcome.matrix += clocks;
                plain
            }
            (Kind::Wgmma(product), _) => {
                let mut from = (now + latency.wgmma_lead).max(self.schedulers[scheduler].matrix);
                let (slower, chain) = match self.explanation {
                    Explanation::DataSheet => (1.0, 0.0),
                    Explanation::Pipe(times) => (times, 0.0),
                    Explanation::Chain(times) => (1.0, times - 1.0),
                };
                let clocks = product.clocks * slower;
                from = from.max(self.shared - READ_AHEAD);
                self.pass(product.passes, from - READ_AHEAD);
                let end = from + clocks;
                self.schedulers[scheduler].matrix = end;
                self.outcome.matrix += clocks;
                let (tail, issue) = match product.from_shared {
                    true => (latency.wgmma_tail_shared, latency.wgmma_issue_shared),
                    false => (latency.wgmma_tail_registers, latency.wgmma_issue_registers),
                };
                let warp = &mut self.warps[index];
                warp.set_accumulator(product.accumulator, if chain > 0.0 { end + chain * clocks } else { 0.0 });
                if product.ends_group {
                    warp.products.push_back(end + chain * clocks + tail);
                }
                warp.ready = warp.ready.max(now + issue);
                plain
            }
            (Kind::WaitProducts(may), _) => {
                close(&mut self.warps[index].products, may);
                plain
            }
            (Kind::CommitCopies, _) => {
                let warp = &mut self.warps[index];
                warp.copies.push_back(warp.landed);
                plain
            }
            (Kind::WaitCopies(may), _) => {
                close(&mut self.warps[index].copies, may);
                plain
            }
            (Kind::Load | Kind::Store | Kind::Copy, Effect::Sectors { .. } | Effect::Unseen(_)) => {
                let reads = cost.kind != Kind::Store;
                let (count, missed) = match effect {
                    Effect::Sectors { first, count } => (f64::from(count), self.misses(block, first, count, reads)),
                    Effect::Unseen(count) => (f64::from(count), f64::from(count)),
                    _ => (0.0, 0.0),
                };
                if cost.kind == Kind::Copy {
                    self.pass((count * SECTOR / PASS).max(1.0), now + 1.0);
                }
                let mut done = now + latency.l1 + count * SECTOR / PASS;
                if missed > 0.0 {
                    let passed = self.transfer(missed * SECTOR, now);
                    done = if reads { passed + latency.dram } else { plain };
                }
                if cost.kind == Kind::Copy {
                    let warp = &mut self.warps[index];
                    warp.landed = warp.landed.max(done);
                    // The registers of the addresses are free long before.
                    return now + latency.shared;
                }
                done
            }
            (Kind::Mbarrier, Effect::Make { at, count }) => {
                self.barriers.phased.entry((block, at)).or_default().make(count);
                plain
            }
            (Kind::Mbarrier, Effect::Wait { at, parity }) => {
                let barrier = self.barriers.phased.entry((block, at)).or_default();
                if !barrier.over(parity) {
                    barrier.wait(index, parity, now);
                    self.warps[index].blocked = true;
                }
                now + latency.mbarrier
            }
            (Kind::Mbarrier, Effect::Arrive { at, count, bytes }) => {
                self.event(now + latency.arrive, Happens::Arrive { block, at, count, bytes: i64::from(bytes) });
                plain
            }
            (Kind::ArriveLater, Effect::ArriveLater { at, count }) => {
                let when = self.warps[index].landed.max(now + latency.arrive);
                self.event(when, Happens::Arrive { block, at, count, bytes: 0 });
                plain
            }
            (Kind::Bulk, Effect::Fetch { at, bytes }) => {
                let passed = self.transfer(f64::from(bytes), now);
                self.pass(f64::from(bytes) / PASS, passed);
                let bytes = -i64::from(bytes);
                self.event(passed + latency.bulk, Happens::Arrive { block, at, count: 0, bytes });
                plain
            }
            (Kind::Bulk, Effect::Store { bytes }) => {
                self.transfer(f64::from(bytes), now);
                plain
            }
            (Kind::Barrier, Effect::Barrier { id, threads, waits }) => {
                self.meet(index, scheduler, id, threads, waits, now);
                plain
            }
            _ => plain,
        }
    }

    fn meet(&mut self, index: usize, scheduler: usize, id: u16, threads: u16, waits: bool, now: f64) {
        let block = self.warps[index].block;
        let barrier = self.gpu.latency.barrier;
        self.warps[index].blocked = waits;
        let Some(free) = self.barriers.come(block, id, threads, waits.then_some(index)) else { return };
        for other in free {
            let costs = self.costs;
            let warp = &mut self.warps[other];
            warp.blocked = false;
            let since = if other == index { now } else { warp.ready };
            warp.waits[Wait::Barrier as usize] += (now + barrier - since).max(0.0);
            warp.ready = now + barrier;
            if other != index {
                warp.look(costs);
                let theirs = warp.scheduler;
                if theirs != scheduler {
                    self.choose(theirs);
                }
            }
        }
    }
}
