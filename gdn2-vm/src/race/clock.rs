//! Vector clocks over the agents of one block: who has seen what, through which proxy.
//!
//! The happens-before order is the PTX memory model's causality order, simplified to one block: barriers, mbarrier
//! phases and waits carry a releasing agent's clock to an acquiring one. PTX ISA 8.x, "Memory Consistency Model",
//! sections on causality order and on proxies.

/// An agent of a block: something that touches shared memory in an order of its own.
///
/// Warp w is agent w. Its `cp.async` copies run as agent W + w (generic proxy, after their issue), its bulk copies,
/// tensor copies and wgmma reads as agent 2W + w (async proxy).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Agent(pub(crate) u8);

/// What an agent, a barrier or an mbarrier phase knows to have happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Clock {
    /// Per agent: events up to this count happened before.
    seen: Vec<u32>,
    /// The part of `seen` that a proxy fence stands behind: safe to touch through the async proxy.
    fenced: Vec<u32>,
}

impl Clock {
    pub(crate) fn new(agents: usize) -> Self {
        Self { seen: vec![0; agents], fenced: vec![0; agents] }
    }

    pub(crate) fn seen(&self, agent: Agent) -> u32 {
        self.seen.get(usize::from(agent.0)).copied().unwrap_or(0)
    }

    pub(crate) fn fenced(&self, agent: Agent) -> u32 {
        self.fenced.get(usize::from(agent.0)).copied().unwrap_or(0)
    }

    /// Learns everything `other` knows.
    pub(crate) fn join(&mut self, other: &Clock) {
        if self.seen.len() < other.seen.len() {
            self.seen.resize(other.seen.len(), 0);
            self.fenced.resize(other.fenced.len(), 0);
        }
        for (mine, theirs) in self.seen.iter_mut().zip(&other.seen) {
            *mine = (*mine).max(*theirs);
        }
        for (mine, theirs) in self.fenced.iter_mut().zip(&other.fenced) {
            *mine = (*mine).max(*theirs);
        }
    }

    /// Learns that `agent`'s events up to `count` happened. Completed asynchronous work needs no proxy fence after it.
    pub(crate) fn learn(&mut self, agent: Agent, count: u32) {
        if let Some(slot) = self.seen.get_mut(usize::from(agent.0)) {
            *slot = (*slot).max(count);
        }
    }

    /// A `fence.proxy.async`: all that is known so far may now be touched through the async proxy. Cumulative, as a
    /// fence anywhere along the causality path suffices.
    pub(crate) fn fence(&mut self) {
        self.fenced.copy_from_slice(&self.seen);
    }

    /// Starts the next event of `agent`, the owner of this clock; returns its count.
    pub(crate) fn tick(&mut self, agent: Agent) -> u32 {
        match self.seen.get_mut(usize::from(agent.0)) {
            Some(slot) => {
                *slot += 1;
                *slot
            }
            None => 0,
        }
    }
}
