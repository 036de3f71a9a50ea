//! Vector clocks over the agents of one block: who has seen what, through which proxy.
//!
//! The happens-before order is the PTX memory model's causality order, simplified to one block: barriers, mbarrier
//! phases and waits carry a releasing agent's clock to an acquiring one. PTX ISA 8.x, "Memory Consistency Model",
//! sections on causality order and on proxies.

use super::shadow::{COLLECTIVE, SEVERAL};

/// An agent of a block: something that touches shared memory in an order of its own.
///
/// For W warps: warp w is agent w, its `cp.async` copies W + w, its `wgmma` reads 2W + w, the reads of its bulk
/// stores 3W + w. From 4W on, one agent for each mbarrier that bulk loads complete through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Agent(pub(crate) u16);

/// Lanes that have spoken for themselves: what they did up to this count of their warp is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Alone {
    agent: Agent,
    lanes: u32,
    /// Lanes the warp has.
    live: u32,
    count: u32,
}

/// What an agent, a barrier or an mbarrier phase knows to have happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Clock {
    /// Per agent: events up to this count happened before.
    seen: Vec<u32>,
    /// The part of `seen` that a proxy fence stands behind: safe to touch through the async proxy.
    fenced: Vec<u32>,
    alone: Vec<Alone>,
}

fn raise(to: &mut Vec<u32>, from: &[u32]) {
    if to.len() < from.len() {
        to.resize(from.len(), 0);
    }
    for (mine, theirs) in to.iter_mut().zip(from) {
        *mine = (*mine).max(*theirs);
    }
}

impl Clock {
    pub(crate) fn new(agents: usize) -> Self {
        Self { seen: vec![0; agents], fenced: vec![0; agents], alone: Vec::new() }
    }

    #[inline]
    pub(crate) fn seen(&self, agent: Agent) -> u32 {
        self.seen.get(usize::from(agent.0)).copied().unwrap_or(0)
    }

    pub(crate) fn fenced(&self, agent: Agent) -> u32 {
        self.fenced.get(usize::from(agent.0)).copied().unwrap_or(0)
    }

    /// Whether this lane's event is known although its warp as a whole is not.
    pub(crate) fn seen_alone(&self, agent: Agent, lane: u8, count: u32) -> bool {
        let mut known = 0;
        let mut live = u32::MAX;
        for a in self.alone.iter().filter(|a| a.agent == agent && a.count >= count) {
            known |= a.lanes;
            live = a.live;
        }
        match lane {
            // One lane past a collective proves it done.
            COLLECTIVE => known != 0,
            0..32 => known >> lane & 1 != 0,
            _ => known == live,
        }
    }

    /// Learns everything `other` knows.
    pub(crate) fn join(&mut self, other: &Clock) {
        raise(&mut self.seen, &other.seen);
        raise(&mut self.fenced, &other.fenced);
        for a in &other.alone {
            self.learn_alone(a.agent, [a.lanes, a.live], a.count);
        }
    }

    /// Learns that `agent`'s events up to `count` happened. Completed asynchronous work needs no proxy fence after it.
    pub(crate) fn learn(&mut self, agent: Agent, count: u32) {
        let index = usize::from(agent.0);
        if self.seen.len() <= index {
            self.seen.resize(index + 1, 0);
            self.fenced.resize(index + 1, 0);
        }
        self.seen[index] = self.seen[index].max(count);
    }

    /// Learns what these lanes of a warp's live ones did, but nothing of the others.
    pub(crate) fn learn_alone(&mut self, agent: Agent, [lanes, live]: [u32; 2], count: u32) {
        if self.seen(agent) >= count {
            return;
        }
        match self.alone.iter_mut().find(|a| (a.agent, a.count) == (agent, count)) {
            Some(a) => a.lanes |= lanes,
            None => {
                self.alone.retain(|a| a.agent != agent || a.count > count || a.lanes & !lanes != 0);
                self.alone.push(Alone { agent, lanes, live, count });
            }
        }
        if self.seen_alone(agent, SEVERAL, count) {
            self.learn(agent, count);
            self.alone.retain(|a| a.agent != agent || a.count > count);
        }
    }

    /// Everything but the events of `agent` from `since` on.
    pub(crate) fn before(&self, agent: Agent, since: u32) -> Self {
        let mut clock = self.clone();
        let index = usize::from(agent.0);
        if let Some(slot) = clock.seen.get_mut(index) {
            *slot = (*slot).min(since.saturating_sub(1));
        }
        if let Some(slot) = clock.fenced.get_mut(index) {
            *slot = (*slot).min(since.saturating_sub(1));
        }
        clock
    }

    /// A `fence.proxy.async`: all that is known so far may now be touched through the async proxy. Cumulative, as a
    /// fence anywhere along the causality path suffices.
    pub(crate) fn fence(&mut self) {
        self.fenced.clone_from(&self.seen);
    }

    /// Starts the next event of `agent`, the owner of this clock; returns its count.
    pub(crate) fn tick(&mut self, agent: Agent) -> u32 {
        let count = self.seen(agent) + 1;
        self.learn(agent, count);
        count
    }
}
