//! Happens-before checking of one block's shared memory, and of the device memory it touches, FastTrack style: a race shows whatever order the warps
//! happened to run in. Knows nothing of instructions; the executor tells it what was touched and what was ordered.

mod clock;
mod shadow;

pub(crate) use clock::{Agent, Clock};
pub(crate) use shadow::COLLECTIVE;
use shadow::{At, Mark, PAGE, SEVERAL, Shadow, Strength};
use std::collections::HashMap;

/// How memory is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    Read,
    Write,
    /// A read-modify-write that is atomic with respect to its like.
    Atomic,
    /// One that compares first: a plain read may look at what only these change, as loops around them do.
    Compare,
    /// A read or a write that says an order or is volatile: it races with no access of its kind, nor with an atomic.
    StrongRead,
    StrongWrite,
}

impl Touch {
    pub(crate) fn reads(self) -> bool {
        matches!(self, Touch::Read | Touch::Atomic | Touch::Compare | Touch::StrongRead)
    }

    pub(crate) fn writes(self) -> bool {
        matches!(self, Touch::Write | Touch::Atomic | Touch::Compare | Touch::StrongWrite)
    }

    fn strength(self) -> Strength {
        match self {
            Touch::Read | Touch::Write => Strength::Weak,
            Touch::Atomic | Touch::StrongRead | Touch::StrongWrite => Strength::Strong,
            Touch::Compare => Strength::Compare,
        }
    }

    /// Whether this may touch a word at one time with a write, or a read, of that strength.
    fn agrees(self, with: Strength, wrote: bool) -> bool {
        match (self.strength(), with) {
            (Strength::Weak, Strength::Weak) => false,
            (Strength::Weak, _) => wrote && self == Touch::Read && with == Strength::Compare,
            (own, Strength::Weak) => !wrote && own == Strength::Compare,
            _ => true,
        }
    }
}

/// Which memory is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Region {
    Shared,
    Device,
}

/// Bytes that are touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bytes {
    pub(crate) region: Region,
    pub(crate) start: u64,
    pub(crate) len: u32,
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
    /// First address of the cell that is wrong.
    pub(crate) address: u64,
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
    /// Bulk stores reading shared memory.
    Stores,
    /// Bulk stores writing device memory.
    Writes,
    /// Bulk loads through the mbarrier of this index.
    Loads(usize),
}

/// The checker of one block.
#[derive(Debug)]
pub(crate) struct Races {
    warps: usize,
    clocks: Vec<Clock>,
    shared: Shadow,
    device: Shadow,
    /// First line of each page of device memory that was touched, and the page found last.
    pages: HashMap<u64, usize>,
    last_page: (u64, usize),
    /// Per warp: the count at which its lanes met last.
    since: Vec<u32>,
    /// Per warp: what all its lanes know, by a meeting of them or because all were told.
    spread: Vec<Clock>,
    /// Per warp: meetings of some of its lanes since.
    met: Vec<Vec<Met>>,
    /// Per warp: what some lanes alone have been told since.
    told: Vec<Vec<(u32, Clock)>>,
    /// Per warp: it has released since its last access, so the next one is a new event.
    released: Vec<bool>,
}

/// Some lanes of a warp met at a count, knowing this.
#[derive(Clone, Debug)]
struct Met {
    lanes: u32,
    count: u32,
    knew: Clock,
}

impl Met {
    fn joins(&self, a: u8, b: u8) -> bool {
        a < 32 && b < 32 && self.lanes >> a & self.lanes >> b & 1 != 0
    }
}

/// Kinds of workers of a warp.
const WORKERS: usize = 5;

impl Races {
    pub(crate) fn new(warps: usize, shared_bytes: usize) -> Self {
        let agents = warps * WORKERS;
        let mut clocks = vec![Clock::new(agents); agents];
        for (index, clock) in clocks.iter_mut().enumerate() {
            clock.tick(Agent(index as u16));
        }
        Self {
            warps,
            clocks,
            shared: Shadow::shared(shared_bytes),
            device: Shadow::device(),
            pages: HashMap::new(),
            last_page: (u64::MAX, 0),
            since: vec![1; warps],
            spread: vec![Clock::default(); warps],
            met: vec![Vec::new(); warps],
            told: vec![Vec::new(); warps],
            released: vec![false; warps],
        }
    }

    /// The agent of a worker of this warp.
    pub(crate) fn agent(&self, warp: usize, worker: Worker) -> Agent {
        let index = match worker {
            Worker::Warp => warp,
            Worker::Copies => self.warps + warp,
            Worker::Wgmma => 2 * self.warps + warp,
            Worker::Stores => 3 * self.warps + warp,
            Worker::Writes => 4 * self.warps + warp,
            Worker::Loads(mbarrier) => WORKERS * self.warps + mbarrier,
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
            4 => Worker::Writes,
            _ => Worker::Loads(index - WORKERS * self.warps),
        };
        (worker, index % self.warps.max(1))
    }

    fn is_warp(&self, agent: Agent) -> bool {
        usize::from(agent.0) < self.warps
    }

    fn is_async_proxy(&self, agent: Agent) -> bool {
        usize::from(agent.0) >= 2 * self.warps
    }

    /// `__syncwarp` of these of the warp's live lanes, or a barrier of which all are part: they have met.
    pub(crate) fn warp_sync(&mut self, warp: usize, [lanes, live]: [u32; 2]) {
        let count = self.clocks[warp].tick(Agent(warp as u16));
        self.released[warp] = false;
        if lanes & live != live {
            let mut knew = self.clocks[warp].clone();
            for (of, clock) in self.told[warp].iter_mut().filter(|(of, _)| of & lanes != 0) {
                *of |= lanes & live;
                knew.join(clock);
            }
            self.met[warp].push(Met { lanes, count, knew });
            return;
        }
        for (_, clock) in self.told[warp].drain(..) {
            self.clocks[warp].join(&clock);
        }
        self.met[warp].clear();
        self.since[warp] = count;
        self.spread[warp].join(&self.clocks[warp]);
    }

    /// What these of the warp's live lanes know.
    fn known_to(&self, warp: usize, [lanes, live]: [u32; 2]) -> Clock {
        let agent = Agent(warp as u16);
        let mut clock = self.clocks[warp].clone();
        if lanes & live != live {
            clock.keep_lanes(agent, self.since[warp], [lanes, live]);
            for worker in [Worker::Copies, Worker::Stores, Worker::Writes] {
                clock.keep_spread(self.agent(warp, worker), &self.spread[warp], [lanes, live]);
            }
            for met in self.met[warp].iter().filter(|met| met.lanes & lanes != 0) {
                let both = [met.lanes & live, live];
                let mut knew = met.knew.clone();
                knew.keep_lanes(agent, self.since[warp], both);
                clock.join(&knew);
            }
        }
        for (_, told) in self.told[warp].iter().filter(|(of, _)| of & lanes != 0) {
            clock.join(told);
        }
        clock
    }

    /// What these of the warp's live lanes have done becomes visible to whoever acquires `token`.
    pub(crate) fn release(&mut self, warp: usize, lanes: [u32; 2], token: &mut Clock) {
        if lanes[0] & lanes[1] == lanes[1] && self.told[warp].is_empty() {
            token.join(&self.clocks[warp]);
        } else {
            token.join(&self.known_to(warp, lanes));
        }
        self.released[warp] = true;
    }

    /// What these lanes would release now.
    pub(crate) fn snapshot(&mut self, warp: usize, lanes: [u32; 2]) -> Clock {
        self.released[warp] = true;
        self.known_to(warp, lanes)
    }

    /// These of the warp's live lanes have synchronised with all that released into `token`.
    pub(crate) fn acquire(&mut self, warp: usize, [lanes, live]: [u32; 2], token: &Clock) {
        if lanes & live == live {
            self.clocks[warp].join(token);
            self.spread[warp].join(token);
            return;
        }
        match self.told[warp].iter_mut().find(|(of, _)| *of == lanes) {
            Some((_, known)) => known.join(token),
            None => self.told[warp].push((lanes, token.clone())),
        }
    }

    /// Whether the warp knows of a lane's event.
    pub(crate) fn knows(&self, warp: usize, agent: Agent, lane: u8, count: u32) -> bool {
        self.clocks[warp].has_seen(agent, lane, count)
            || self.told[warp].iter().any(|(_, told)| told.has_seen(agent, lane, count))
    }

    /// Whether the lanes of a warp have met since one of them did something at this count.
    pub(crate) fn met_since(&self, warp: usize, count: u32) -> bool {
        count < self.since[warp]
    }

    /// `fence.proxy.async` of these of the warp's live lanes. What they write behind it is an event that it is not for.
    pub(crate) fn proxy_fence(&mut self, warp: usize, [lanes, live]: [u32; 2]) {
        if lanes & live == live {
            self.clocks[warp].fence_all();
        } else {
            let known = self.known_to(warp, [lanes, live]);
            self.clocks[warp].fence(&known);
        }
        self.told[warp].iter_mut().filter(|(of, _)| of & !lanes == 0).for_each(|(_, told)| told.fence_all());
        self.released[warp] = true;
    }

    /// The warp arrives at a barrier: an event of its own.
    pub(crate) fn arrival(&mut self, warp: usize) -> (Agent, u32) {
        let agent = Agent(warp as u16);
        self.released[warp] = false;
        (agent, self.clocks[warp].tick(agent))
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

    /// These of the warp's live lanes have waited for what their worker did for them up to `count`.
    pub(crate) fn complete(&mut self, warp: usize, worker: Agent, lanes: [u32; 2], count: u32) {
        self.clocks[warp].learn_alone(worker, lanes, count);
    }

    /// The line of the shadow that stands for 16 bytes.
    #[inline]
    fn line(&mut self, region: Region, line: u64) -> Option<usize> {
        if region == Region::Shared {
            return usize::try_from(line).ok().filter(|line| *line < self.shared.lines());
        }
        let (page, within) = (line / PAGE as u64, (line % PAGE as u64) as usize);
        if self.last_page.0 != page {
            let first = match self.pages.get(&page) {
                Some(first) => *first,
                None => {
                    let first = self.device.grow(PAGE);
                    self.pages.insert(page, first);
                    first
                }
            };
            self.last_page = (page, first);
        }
        Some(self.last_page.1 + within)
    }

    #[inline]
    fn shadow(&self, region: Region) -> &Shadow {
        match region {
            Region::Shared => &self.shared,
            Region::Device => &self.device,
        }
    }

    #[inline]
    fn shadow_mut(&mut self, region: Region) -> &mut Shadow {
        match region {
            Region::Shared => &mut self.shared,
            Region::Device => &mut self.device,
        }
    }

    /// Checks and remembers one access; `same` tells whether a write leaves its bytes as they are. At most one finding:
    /// the first bytes that are wrong.
    pub(crate) fn touch(&mut self, by: By, touch: Touch, bytes: Bytes, same: &dyn Fn() -> bool) -> Option<Found> {
        let warp = usize::from(by.warp);
        if self.released[warp] && self.is_warp(by.agent) {
            self.clocks[warp].tick(by.agent);
            self.released[warp] = false;
        }
        let count = self.clocks[usize::from(by.agent.0)].seen(by.agent);
        let mark = Mark { agent: by.agent, lane: by.lane, strength: touch.strength(), count, at: by.at };
        let mut found = None;
        let (region, end) = (bytes.region, bytes.start + u64::from(bytes.len));
        for line in bytes.start / 16..end.div_ceil(16) {
            let Some(own) = self.line(region, line) else { break };
            let start = line * 16;
            let (low, high) = (bytes.start.max(start) - start, end.min(start + 16) - start);
            let whole = high - low == 16;
            let mut cell = |races: &mut Self, at, address, mask| {
                let wrong = races.touch_cell(by, mark, touch, (region, at), mask, same);
                let other = |m: Mark, wrote| Other { agent: m.agent, lane: m.lane, at: m.at, wrote };
                found = found.or(wrong.map(|(hazard, earlier)| Found {
                    hazard,
                    address,
                    other: earlier.map(|(m, wrote)| other(m, wrote)),
                }));
            };
            if whole && !self.shadow(region).is_split(own) {
                cell(self, At::Line(own), start, 0xf);
                continue;
            }
            let words = self.shadow_mut(region).split(own);
            for word in low / 4..high.div_ceil(4) {
                let (first, end) = (low.max(word * 4) - word * 4, high.min(word * 4 + 4) - word * 4);
                let mask = (0xf << first) & ((1 << end) - 1);
                cell(self, At::Word(words + word as usize), start + word * 4, mask);
            }
            if whole && touch == Touch::Write {
                let since = self.since[warp];
                let shadow = self.shadow_mut(region);
                shadow.join(own);
                shadow.note_write(At::Line(own), mark, since, 0xf);
            }
        }
        found
    }

    #[inline]
    fn touch_cell(
        &mut self,
        by: By,
        mark: Mark,
        touch: Touch,
        (region, at): (Region, At),
        mask: u8,
        same: &dyn Fn() -> bool,
    ) -> Option<(Hazard, Option<(Mark, bool)>)> {
        let cell = *self.shadow(region).cell(at);
        let since = if self.is_warp(by.agent) { self.since[usize::from(by.warp)] } else { mark.count };
        let mut wrong = None;
        if touch.reads() && cell.initialised & mask != mask {
            wrong = Some((Hazard::Uninitialised, None));
        }
        let agrees = touch.agrees(cell.writer.strength, true);
        // The rest of a word may have been written by others.
        if wrong.is_none() && cell.writer.exists() && cell.written & mask != 0 && !agrees {
            let partial = mask != 0xf;
            // Who writes the same bytes at the same time changes nothing.
            let harmless =
                |h: &Hazard| touch == Touch::Write && matches!(h, Hazard::Unordered | Hazard::Lanes) && same();
            let hazard = self.after_write(by, cell.writer, partial).filter(|h| !harmless(h));
            wrong = hazard.map(|h| (h, Some((cell.writer, true))));
        }
        if touch.writes() {
            if wrong.is_none() {
                let partial = mask != 0xf;
                let clash = |reader: Mark| {
                    if touch.agrees(reader.strength, false) { None } else { self.after_read(by, reader, partial) }
                };
                let reader = self.shadow(region).find_reader(at, |reader| clash(reader).is_some());
                wrong = reader.and_then(|r| Some((clash(r)?, Some((r, false)))));
            }
            self.shadow_mut(region).note_write(at, mark, since, mask);
        } else {
            let ordered = cell.reader.exists() && self.has_seen(by, cell.reader);
            self.shadow_mut(region).note_read(at, mark, since, ordered);
        }
        wrong
    }

    /// What was told to this lane alone.
    fn told(&self, by: By) -> impl Iterator<Item = &Clock> {
        let of = self.told[usize::from(by.warp)].iter();
        of.filter(move |(lanes, _)| by.lane < 32 && lanes >> by.lane & 1 != 0).map(|(_, told)| told)
    }

    #[inline]
    fn has_seen(&self, by: By, mark: Mark) -> bool {
        self.clocks[usize::from(by.agent.0)].has_seen(mark.agent, mark.lane, mark.count)
            || self.told(by).any(|told| told.has_seen(mark.agent, mark.lane, mark.count))
    }

    /// Whether a mark of the same warp's lanes is in this lane's way: no sync of the warp since. Lanes that share a
    /// word without sharing its bytes cannot be told from ones that do; they are let pass.
    fn lanes_clash(&self, by: By, mark: Mark, partial: bool) -> bool {
        let warp = usize::from(by.warp);
        mark.count >= self.since[warp]
            && mark.lane != by.lane
            && mark.at != by.at
            && !(partial && mark.lane == SEVERAL)
            && !self.met[warp].iter().any(|met| met.joins(by.lane, mark.lane) && mark.count < met.count)
    }

    /// Whether asynchronous work that one lane of this warp waited for is news to another lane of it.
    fn not_spread(&self, by: By, mark: Mark) -> bool {
        let warp = usize::from(by.warp);
        let knew = |clock: &Clock| clock.has_seen(mark.agent, mark.lane, mark.count);
        mark.lane != by.lane
            && mark.lane != COLLECTIVE
            && !knew(&self.spread[warp])
            && !self.told(by).any(knew)
            && !self.met[warp].iter().any(|met| met.joins(by.lane, mark.lane) && knew(&met.knew))
    }

    /// What stands between an earlier write and this access.
    fn after_write(&self, by: By, writer: Mark, partial: bool) -> Option<Hazard> {
        let (generic, own) = (self.is_warp(by.agent), Agent(by.warp));
        if writer.agent == by.agent {
            return (generic && self.lanes_clash(by, writer, partial)).then_some(Hazard::Lanes);
        }
        let (worker, of) = self.describe(writer.agent);
        if generic && matches!(worker, Worker::Copies | Worker::Writes) && of == usize::from(by.warp) {
            return match () {
                () if !self.has_seen(by, writer) => Some(Hazard::Unwaited),
                () if self.not_spread(by, writer) => Some(Hazard::Lanes),
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
        (crosses && !self.has_fenced(by, writer)).then_some(Hazard::Unfenced)
    }

    fn has_fenced(&self, by: By, mark: Mark) -> bool {
        self.clocks[usize::from(by.agent.0)].has_fenced(mark.agent, mark.lane, mark.count)
            || self.told(by).any(|told| told.has_fenced(mark.agent, mark.lane, mark.count))
    }

    /// What stands between an earlier read and this write.
    fn after_read(&self, by: By, reader: Mark, partial: bool) -> Option<Hazard> {
        let own = Agent(by.warp);
        if reader.agent == own && (by.agent == own || by.lane != COLLECTIVE) {
            let clash = reader.lane != COLLECTIVE && self.lanes_clash(by, reader, partial);
            return clash.then_some(Hazard::Lanes);
        }
        if reader.agent == by.agent {
            return None;
        }
        let (worker, of) = self.describe(reader.agent);
        let mine = !matches!(worker, Worker::Warp | Worker::Loads(_)) && of == usize::from(by.warp);
        let generic = self.is_warp(by.agent);
        if self.has_seen(by, reader) {
            return (mine && generic && self.not_spread(by, reader)).then_some(Hazard::Lanes);
        }
        Some(if mine && generic { Hazard::Unwaited } else { Hazard::Unordered })
    }
}

#[cfg(test)]
mod tests;
