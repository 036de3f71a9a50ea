//! Happens-before checking of one block's shared memory, FastTrack style: a race shows whatever order the warps
//! happened to run in. Knows nothing of instructions; the executor tells it what was touched and what was ordered.

mod clock;
mod shadow;

pub(crate) use clock::{Agent, Clock};
use shadow::{ATOMIC, COLLECTIVE, Mark, Shadow};
use std::ops::Range;

/// How memory is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    /// A load by one lane.
    Read,
    /// A store by one lane.
    Write,
    /// A read by all lanes of a `.sync.aligned` instruction at once, such as ldmatrix: no lane can run ahead of it.
    Gather,
    /// A read-modify-write that is atomic with respect to its like.
    Atomic,
}

/// Who touches, from which instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct By {
    pub(crate) agent: Agent,
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
    /// The copy that writes these bytes has not been waited for by this thread.
    Unwaited,
    /// Nothing has written these bytes.
    Uninitialised,
}

/// A hazard and both its parties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) hazard: Hazard,
    /// Byte offset in shared memory.
    pub(crate) offset: u32,
    /// The earlier party's agent and instruction; none for uninitialised bytes.
    pub(crate) other: Option<(Agent, u8, u32)>,
    /// The earlier party wrote (else it read).
    pub(crate) other_wrote: bool,
}

/// The checker of one block.
#[derive(Debug)]
pub(crate) struct Races {
    warps: usize,
    clocks: Vec<Clock>,
    shadow: Shadow,
    /// Per warp: its cp.async events that are waited for, and those a warp-wide sync has followed.
    waited: Vec<u32>,
    spread: Vec<u32>,
}

impl Races {
    pub(crate) fn new(warps: usize, shared_bytes: usize) -> Self {
        let agents = warps * 3;
        let mut clocks = vec![Clock::new(agents); agents];
        for (index, clock) in clocks.iter_mut().enumerate() {
            clock.tick(Agent(index as u8));
        }
        Self {
            warps,
            clocks,
            shadow: Shadow::new(shared_bytes, agents),
            waited: vec![0; warps],
            spread: vec![0; warps],
        }
    }

    pub(crate) fn warp(&self, warp: usize) -> Agent {
        Agent(warp as u8)
    }

    pub(crate) fn copies(&self, warp: usize) -> Agent {
        Agent((self.warps + warp) as u8)
    }

    pub(crate) fn proxy(&self, warp: usize) -> Agent {
        Agent((2 * self.warps + warp) as u8)
    }

    /// The warp an agent works for, and what it is called in a report.
    pub(crate) fn describe(&self, agent: Agent) -> (usize, &'static str) {
        let index = usize::from(agent.0);
        let kind = match index / self.warps.max(1) {
            0 => "warp",
            1 => "cp.async of warp",
            _ => "asynchronous proxy of warp",
        };
        (index % self.warps.max(1), kind)
    }

    fn is_async_proxy(&self, agent: Agent) -> bool {
        usize::from(agent.0) >= 2 * self.warps
    }

    fn clock(&mut self, agent: Agent) -> &mut Clock {
        &mut self.clocks[usize::from(agent.0)]
    }

    /// `__syncwarp`, or a barrier of which the warp is part: its lanes have met.
    pub(crate) fn warp_sync(&mut self, warp: usize) {
        let agent = self.warp(warp);
        self.clock(agent).tick(agent);
        self.spread[warp] = self.waited[warp];
    }

    /// Everything the agent has done becomes visible to whoever acquires `token`.
    pub(crate) fn release(&mut self, agent: Agent, token: &mut Clock) {
        token.join(&self.clocks[usize::from(agent.0)]);
        self.clock(agent).tick(agent);
    }

    /// The agent has synchronised with all that released into `token`.
    pub(crate) fn acquire(&mut self, agent: Agent, token: &Clock) {
        self.clock(agent).join(token);
    }

    /// `fence.proxy.async`.
    pub(crate) fn proxy_fence(&mut self, warp: usize) {
        let agent = self.warp(warp);
        self.clock(agent).fence();
    }

    /// The warp starts asynchronous work: what it knows, the worker knows. Returns the work's event count.
    pub(crate) fn issue(&mut self, warp: usize, worker: Agent) -> u32 {
        let known = self.clocks[warp].clone();
        let clock = self.clock(worker);
        clock.join(&known);
        clock.tick(worker)
    }

    /// The warp has waited for its worker's events up to `count`.
    pub(crate) fn complete(&mut self, warp: usize, worker: Agent, count: u32) {
        if worker == self.copies(warp) {
            self.waited[warp] = self.waited[warp].max(count);
        }
        self.clocks[warp].learn(worker, count);
    }

    /// Checks and remembers one access. At most one finding: the first word that is wrong.
    pub(crate) fn touch(&mut self, by: By, touch: Touch, bytes: Range<u32>) -> Option<Finding> {
        let mut found = None;
        let (first, last) = (bytes.start / 4, bytes.end.div_ceil(4));
        for index in first..last {
            let low = bytes.start.max(index * 4) - index * 4;
            let high = bytes.end.min(index * 4 + 4) - index * 4;
            let mask = ((0xfu8 << low) & !(0xffu8 << high)) & 0xf;
            let finding = self.touch_word(by, touch, index as usize, mask);
            found = found.or(finding);
        }
        found
    }

    fn touch_word(&mut self, by: By, touch: Touch, index: usize, mask: u8) -> Option<Finding> {
        let word = *self.shadow.word(index)?;
        let finding = |hazard, other: Option<Mark>, other_wrote| Finding {
            hazard,
            offset: index as u32 * 4,
            other: other.map(|m| (m.agent, m.lane, m.at)),
            other_wrote,
        };
        let mine = self.clocks[usize::from(by.agent.0)].seen(by.agent);
        let lane = if touch == Touch::Gather { COLLECTIVE } else { by.lane };
        let mark = Mark { agent: by.agent, lane, count: mine, at: by.at };
        let reads = touch != Touch::Write;
        let mut found = None;
        if reads && word.initialised & mask != mask {
            found = Some(finding(Hazard::Uninitialised, None, false));
        }
        let both_atomic = touch == Touch::Atomic && word.writer.lane == ATOMIC;
        // The writer of a word's other half is forgotten by this write, so it must be ordered as well, unless it is
        // the same warp filling the word lane by lane.
        let other_half = word.written & mask == 0 && (touch == Touch::Write && word.writer.agent == by.agent);
        if word.writer.exists() && !other_half && !both_atomic {
            found =
                found.or_else(|| self.conflict(by, touch, word.writer).map(|h| finding(h, Some(word.writer), true)));
        }
        if touch == Touch::Read || touch == Touch::Gather {
            let ordered = self.has_seen(by.agent, word.reader);
            self.shadow.note_read(index, mark, ordered);
        } else {
            if found.is_none() {
                let clash = self.shadow.readers(index).iter().copied().find_map(|reader| {
                    (reader.exists()).then(|| self.write_after_read(by, reader).map(|h| (h, reader))).flatten()
                });
                found = clash.map(|(h, reader)| finding(h, Some(reader), false));
            }
            let mark = if touch == Touch::Atomic { Mark { lane: ATOMIC, ..mark } } else { mark };
            self.shadow.note_write(index, mark, mask);
        }
        found
    }

    fn has_seen(&self, agent: Agent, mark: Mark) -> bool {
        self.clocks[usize::from(agent.0)].seen(mark.agent) >= mark.count
    }

    /// What stands between an earlier write and this access.
    fn conflict(&self, by: By, touch: Touch, writer: Mark) -> Option<Hazard> {
        let clock = &self.clocks[usize::from(by.agent.0)];
        let warp = usize::from(by.agent.0) % self.warps.max(1);
        if writer.agent == by.agent {
            let same_lane = writer.lane == by.lane && touch != Touch::Gather;
            let same_event = writer.count == clock.seen(by.agent);
            let same_instruction = writer.at == by.at && touch == Touch::Write;
            let own_thread = usize::from(by.agent.0) < self.warps;
            return (own_thread && same_event && !same_lane && !same_instruction).then_some(Hazard::Lanes);
        }
        if writer.agent == self.copies(warp) && usize::from(by.agent.0) < self.warps {
            let same_lane = writer.lane == by.lane && touch != Touch::Gather;
            return match () {
                () if writer.count > self.waited[warp] => Some(Hazard::Unwaited),
                () if writer.count > self.spread[warp] && !same_lane => Some(Hazard::Lanes),
                () => None,
            };
        }
        if clock.seen(writer.agent) < writer.count {
            return Some(Hazard::Unordered);
        }
        let crosses = self.is_async_proxy(by.agent) && !self.is_async_proxy(writer.agent);
        (crosses && clock.fenced(writer.agent) < writer.count).then_some(Hazard::Unfenced)
    }

    /// What stands between an earlier read and this write.
    fn write_after_read(&self, by: By, reader: Mark) -> Option<Hazard> {
        let clock = &self.clocks[usize::from(by.agent.0)];
        if reader.agent == by.agent {
            let same_event = reader.count == clock.seen(by.agent);
            let other_lane = reader.lane != by.lane && reader.lane != COLLECTIVE;
            let own_thread = usize::from(by.agent.0) < self.warps;
            return (own_thread && same_event && other_lane && reader.at != by.at).then_some(Hazard::Lanes);
        }
        (clock.seen(reader.agent) < reader.count).then_some(Hazard::Unordered)
    }
}

#[cfg(test)]
mod tests;
