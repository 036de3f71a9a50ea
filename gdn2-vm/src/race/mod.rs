//! Happens-before checking of one block's shared memory, FastTrack style: a race shows whatever order the warps
//! happened to run in. Knows nothing of instructions; the executor tells it what was touched and what was ordered.

mod clock;
mod shadow;

pub(crate) use clock::{Agent, Clock};
pub(crate) use shadow::COLLECTIVE;
use shadow::{ATOMIC, At, Mark, SEVERAL, Shadow};
use std::ops::Range;

/// How memory is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    Read,
    Write,
    /// A read-modify-write that is atomic with respect to its like.
    Atomic,
}

/// Who touches, from which instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct By {
    pub(crate) agent: Agent,
    /// The warp it works for.
    pub(crate) warp: u16,
    /// [`COLLECTIVE`] for a read by all lanes of a `.sync.aligned` instruction at once, such as ldmatrix: no lane can
    /// run ahead of it.
    pub(crate) lane: u8,
    /// Instruction index.
    pub(crate) at: u32,
}

/// What was wrong with an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hazard {
    /// Two agents, one of them writing, and nothing orders them.
    Unordered,
    /// Two lanes of a warp, one of them writing, with no `__syncwarp` between.
    Lanes,
    /// Ordered, but the generic write has no `fence.proxy.async` before the asynchronous access.
    Unfenced,
    /// The asynchronous work of this warp that writes or reads these bytes has not been waited for.
    Unwaited,
    /// Nothing has written these bytes.
    Uninitialised,
}

/// A hazard and both its parties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) hazard: Hazard,
    /// Byte offset in shared memory.
    pub(crate) offset: u32,
    /// The earlier party; none for uninitialised bytes.
    pub(crate) other: Option<Other>,
}

/// The party that came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Other {
    pub(crate) agent: Agent,
    pub(crate) lane: u8,
    pub(crate) at: u32,
    /// It wrote (else it read).
    pub(crate) wrote: bool,
}

/// What kind of agent an agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Worker {
    Warp,
    Copies,
    Wgmma,
    Stores,
    /// Bulk loads through the mbarrier of this index.
    Loads(usize),
}

/// The checker of one block.
#[derive(Debug)]
pub(crate) struct Races {
    warps: usize,
    clocks: Vec<Clock>,
    shadow: Shadow,
    /// Per warp: the count at which its lanes met last.
    since: Vec<u32>,
    /// Per warp: it has released since its last access, so the next one is a new event.
    released: Vec<bool>,
    /// Per warp: its cp.async events that are waited for, and those a warp-wide sync has followed.
    waited: Vec<u32>,
    spread: Vec<u32>,
}

impl Races {
    pub(crate) fn new(warps: usize, shared_bytes: usize) -> Self {
        let agents = warps * 4;
        let mut clocks = vec![Clock::new(agents); agents];
        for (index, clock) in clocks.iter_mut().enumerate() {
            clock.tick(Agent(index as u16));
        }
        Self {
            warps,
            clocks,
            shadow: Shadow::new(shared_bytes, agents),
            since: vec![1; warps],
            released: vec![false; warps],
            waited: vec![0; warps],
            spread: vec![0; warps],
        }
    }

    /// The agent of a worker of this warp.
    pub(crate) fn agent(&self, warp: usize, worker: Worker) -> Agent {
        let index = match worker {
            Worker::Warp => warp,
            Worker::Copies => self.warps + warp,
            Worker::Wgmma => 2 * self.warps + warp,
            Worker::Stores => 3 * self.warps + warp,
            Worker::Loads(mbarrier) => 4 * self.warps + mbarrier,
        };
        Agent(index as u16)
    }

    /// What kind of agent this is, and the warp it works for (meaningless for loads).
    pub(crate) fn describe(&self, agent: Agent) -> (Worker, usize) {
        let index = usize::from(agent.0);
        let worker = match index / self.warps.max(1) {
            0 => Worker::Warp,
            1 => Worker::Copies,
            2 => Worker::Wgmma,
            3 => Worker::Stores,
            _ => Worker::Loads(index - 4 * self.warps),
        };
        (worker, index % self.warps.max(1))
    }

    fn is_warp(&self, agent: Agent) -> bool {
        usize::from(agent.0) < self.warps
    }

    fn is_async_proxy(&self, agent: Agent) -> bool {
        usize::from(agent.0) >= 2 * self.warps
    }

    /// `__syncwarp`, or a barrier of which the warp is part: its lanes have met.
    pub(crate) fn warp_sync(&mut self, warp: usize) {
        self.since[warp] = self.clocks[warp].tick(Agent(warp as u16));
        self.released[warp] = false;
        self.spread[warp] = self.waited[warp];
    }

    /// What these of the warp's live lanes have done becomes visible to whoever acquires `token`.
    pub(crate) fn release(&mut self, warp: usize, [lanes, live]: [u32; 2], token: &mut Clock) {
        let (agent, clock) = (Agent(warp as u16), &self.clocks[warp]);
        if lanes == live {
            token.join(clock);
        } else {
            token.join(&clock.before(agent, self.since[warp]));
            token.learn_alone(agent, [lanes, live], clock.seen(agent));
        }
        self.released[warp] = true;
    }

    /// The warp has synchronised with all that released into `token`.
    pub(crate) fn acquire(&mut self, warp: usize, token: &Clock) {
        self.clocks[warp].join(token);
        // Its own copies may have completed through an mbarrier, which tells all lanes.
        let copies = token.seen(self.agent(warp, Worker::Copies));
        self.waited[warp] = self.waited[warp].max(copies);
        self.spread[warp] = self.spread[warp].max(copies);
    }

    /// Whether the warp knows of a lane's event.
    pub(crate) fn knows(&self, warp: usize, agent: Agent, lane: u8, count: u32) -> bool {
        self.clocks[warp].seen(agent) >= count || self.clocks[warp].seen_alone(agent, lane, count)
    }

    /// `fence.proxy.async`.
    pub(crate) fn proxy_fence(&mut self, warp: usize) {
        self.clocks[warp].fence();
    }

    /// The warp starts asynchronous work: what it knows, the worker knows. Returns the work's event count.
    pub(crate) fn issue(&mut self, warp: usize, worker: Agent) -> u32 {
        let index = usize::from(worker.0);
        if index >= self.clocks.len() {
            self.clocks.resize(index + 1, Clock::default());
        }
        let (warps, workers) = self.clocks.split_at_mut(self.warps);
        let clock = &mut workers[index - self.warps];
        clock.join(&warps[warp]);
        clock.tick(worker)
    }

    /// Count of a worker's latest event.
    pub(crate) fn latest(&self, worker: Agent) -> u32 {
        self.clocks.get(usize::from(worker.0)).map_or(0, |clock| clock.seen(worker))
    }

    /// The warp has waited for its worker's events up to `count`.
    pub(crate) fn complete(&mut self, warp: usize, worker: Agent, count: u32) {
        if worker == self.agent(warp, Worker::Copies) {
            self.waited[warp] = self.waited[warp].max(count);
        }
        self.clocks[warp].learn(worker, count);
    }

    /// Checks and remembers one access. At most one finding: the first bytes that are wrong.
    pub(crate) fn touch(&mut self, by: By, touch: Touch, bytes: Range<u32>) -> Option<Found> {
        let warp = usize::from(by.warp);
        if self.released[warp] && self.is_warp(by.agent) {
            self.clocks[warp].tick(by.agent);
            self.released[warp] = false;
        }
        let count = self.clocks[usize::from(by.agent.0)].seen(by.agent);
        let mut mark = Mark { agent: by.agent, lane: by.lane, count, at: by.at };
        if touch == Touch::Atomic {
            mark.lane = ATOMIC;
        }
        let mut found = None;
        let last = (bytes.end.div_ceil(16) as usize).min(self.shadow.lines());
        for line in bytes.start as usize / 16..last {
            let start = line as u32 * 16;
            let (low, high) = (bytes.start.max(start) - start, bytes.end.min(start + 16) - start);
            let whole = high - low == 16;
            if whole && !self.shadow.is_split(line) {
                found = found.or(self.touch_cell(by, mark, touch, At::Line(line), 0xf));
                continue;
            }
            if !self.shadow.is_split(line) {
                self.shadow.split(line);
            }
            for word in low / 4..high.div_ceil(4) {
                let (first, end) = (low.max(word * 4) - word * 4, high.min(word * 4 + 4) - word * 4);
                let mask = (0xf << first) & ((1 << end) - 1);
                found = found.or(self.touch_cell(by, mark, touch, At::Word(line * 4 + word as usize), mask));
            }
            if whole && touch == Touch::Write {
                self.shadow.join(line);
                self.shadow.note_write(At::Line(line), mark, self.since[warp], 0xf);
            }
        }
        found
    }

    #[inline]
    fn touch_cell(&mut self, by: By, mark: Mark, touch: Touch, at: At, mask: u8) -> Option<Found> {
        let cell = *self.shadow.cell(at);
        let since = if self.is_warp(by.agent) { self.since[usize::from(by.warp)] } else { mark.count };
        let found = |hazard, other: Option<(Mark, bool)>| Found {
            hazard,
            offset: at.offset(),
            other: other.map(|(m, wrote)| Other { agent: m.agent, lane: m.lane, at: m.at, wrote }),
        };
        let mut wrong = None;
        if touch != Touch::Write && cell.initialised & mask != mask {
            wrong = Some(found(Hazard::Uninitialised, None));
        }
        let both_atomic = touch == Touch::Atomic && cell.writer.lane == ATOMIC;
        // The rest of a word may have been written by others.
        if wrong.is_none() && cell.writer.exists() && cell.written & mask != 0 && !both_atomic {
            let partial = mask != 0xf;
            wrong = self.after_write(by, touch, cell.writer, partial).map(|h| found(h, Some((cell.writer, true))));
        }
        if touch == Touch::Read {
            let ordered = cell.reader.exists() && self.has_seen(by, cell.reader);
            self.shadow.note_read(at, mark, since, ordered);
        } else {
            if wrong.is_none() {
                let partial = mask != 0xf;
                let clash = self.shadow.find_reader(at, |reader| self.after_read(by, reader, partial).is_some());
                wrong = clash.and_then(|r| Some(found(self.after_read(by, r, partial)?, Some((r, false)))));
            }
            self.shadow.note_write(at, mark, since, mask);
        }
        wrong
    }

    #[inline]
    fn has_seen(&self, by: By, mark: Mark) -> bool {
        let clock = &self.clocks[usize::from(by.agent.0)];
        clock.seen(mark.agent) >= mark.count || clock.seen_alone(mark.agent, mark.lane, mark.count)
    }

    /// Whether a mark of the same warp's lanes is in this lane's way: no sync of the warp since. Lanes that share a
    /// word without sharing its bytes cannot be told from ones that do; they are let pass.
    fn lanes_clash(&self, by: By, mark: Mark, partial: bool) -> bool {
        mark.count >= self.since[usize::from(by.warp)]
            && mark.lane != by.lane
            && mark.at != by.at
            && !(partial && mark.lane == SEVERAL)
    }

    /// What stands between an earlier write and this access.
    fn after_write(&self, by: By, touch: Touch, writer: Mark, partial: bool) -> Option<Hazard> {
        let warp = usize::from(by.warp);
        let (generic, own) = (self.is_warp(by.agent), Agent(by.warp));
        if writer.agent == by.agent {
            let clash = self.lanes_clash(by, writer, partial) && !(touch == Touch::Atomic && by.lane == writer.lane);
            return (generic && clash).then_some(Hazard::Lanes);
        }
        if generic && writer.agent == self.agent(warp, Worker::Copies) {
            return match () {
                () if writer.count > self.waited[warp] => Some(Hazard::Unwaited),
                () if writer.count > self.spread[warp] && writer.lane != by.lane => Some(Hazard::Lanes),
                () => None,
            };
        }
        if writer.agent == own && by.lane != COLLECTIVE && self.lanes_clash(by, writer, partial) {
            return Some(Hazard::Lanes);
        }
        if !self.has_seen(by, writer) {
            return Some(Hazard::Unordered);
        }
        let crosses = self.is_async_proxy(by.agent) && !self.is_async_proxy(writer.agent);
        let fenced = self.clocks[usize::from(by.agent.0)].fenced(writer.agent);
        (crosses && fenced < writer.count).then_some(Hazard::Unfenced)
    }

    /// What stands between an earlier read and this write.
    fn after_read(&self, by: By, reader: Mark, partial: bool) -> Option<Hazard> {
        let own = Agent(by.warp);
        if reader.agent == own && (by.agent == own || by.lane != COLLECTIVE) {
            let clash = reader.lane != COLLECTIVE && self.lanes_clash(by, reader, partial);
            return clash.then_some(Hazard::Lanes);
        }
        if reader.agent == by.agent || self.has_seen(by, reader) {
            return None;
        }
        let (worker, of) = self.describe(reader.agent);
        let mine = worker != Worker::Warp && of == usize::from(by.warp);
        Some(if mine && self.is_warp(by.agent) { Hazard::Unwaited } else { Hazard::Unordered })
    }
}

#[cfg(test)]
mod tests;
