//! Vector clocks over the agents of one block: who has seen what, through which proxy.
//!
//! The happens-before order is the PTX memory model's causality order, simplified to one block: barriers, mbarrier
//! phases and waits carry a releasing agent's clock to an acquiring one. PTX ISA 8.x, "Memory Consistency Model",
//! sections on causality order and on proxies.

use super::shadow::{COLLECTIVE, SEVERAL};

/// An agent of a block: something that touches memory in an order of its own.
///
/// For W warps: warp w is agent w, its `cp.async` copies W + w, its `wgmma` reads 2W + w, what its bulk stores read
/// 3W + w and what they write 4W + w. From 5W on, one agent for each mbarrier that bulk loads complete through.
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

/// Events known: of each agent as a whole, and of single lanes beyond that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    /// Per agent: events up to this count.
    all: Vec<u32>,
    alone: Vec<Alone>,
}

impl Known {
    #[inline]
    fn up_to(&self, agent: Agent) -> u32 {
        self.all.get(usize::from(agent.0)).copied().unwrap_or(0)
    }

    fn has(&self, agent: Agent, lane: u8, count: u32) -> bool {
        self.up_to(agent) >= count || alone_has(&self.alone, agent, lane, count)
    }

    fn learn(&mut self, agent: Agent, count: u32) {
        let index = usize::from(agent.0);
        if self.all.len() <= index {
            self.all.resize(index + 1, 0);
        }
        self.all[index] = self.all[index].max(count);
    }

    /// Learns what these of an agent's live lanes did, but nothing of the others.
    fn learn_alone(&mut self, agent: Agent, [lanes, live]: [u32; 2], count: u32) {
        if lanes == live {
            self.learn(agent, count);
            return;
        }
        if self.up_to(agent) >= count {
            return;
        }
        match self.alone.iter_mut().find(|a| (a.agent, a.count) == (agent, count)) {
            Some(a) => a.lanes |= lanes,
            None => {
                self.alone.retain(|a| a.agent != agent || a.count > count || a.lanes & !lanes != 0);
                self.alone.push(Alone { agent, lanes, live, count });
            }
        }
        if alone_has(&self.alone, agent, SEVERAL, count) {
            self.learn(agent, count);
            self.alone.retain(|a| a.agent != agent || a.count > count);
        }
    }

    fn join(&mut self, other: &Known) {
        if self.all.len() < other.all.len() {
            self.all.resize(other.all.len(), 0);
        }
        for (mine, theirs) in self.all.iter_mut().zip(&other.all) {
            *mine = (*mine).max(*theirs);
        }
        for a in &other.alone {
            self.learn_alone(a.agent, [a.lanes, a.live], a.count);
        }
    }

    /// Leaves of `agent` what these of its live lanes know: events up to `common`, and beyond that those of these lanes.
    fn keep_own(&mut self, agent: Agent, common: u32, [lanes, live]: [u32; 2]) {
        let own = self.up_to(agent);
        if own > common {
            self.all[usize::from(agent.0)] = common;
            self.learn_alone(agent, [lanes, live], own);
        }
        self.alone.iter_mut().filter(|a| a.agent == agent && a.count > common).for_each(|a| a.lanes &= lanes);
        self.alone.retain(|a| a.lanes != 0);
    }
}

/// Whether this lane's event is known although its agent as a whole is not.
fn alone_has(alone: &[Alone], agent: Agent, lane: u8, count: u32) -> bool {
    let mut known = 0;
    let mut live = u32::MAX;
    for a in alone.iter().filter(|a| a.agent == agent && a.count >= count) {
        known |= a.lanes;
        live = a.live;
    }
    match lane {
        // One lane past a collective proves it done.
        COLLECTIVE => known != 0,
        0..32 => known >> lane & 1 != 0,
        _ => known & live == live,
    }
}

/// What an agent, a barrier or an mbarrier phase knows to have happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Clock {
    seen: Known,
    /// The part of `seen` that a proxy fence stands behind: safe to touch through the async proxy.
    fenced: Known,
}

impl Clock {
    pub(crate) fn new(agents: usize) -> Self {
        let known = Known { all: vec![0; agents], alone: Vec::new() };
        Self { seen: known.clone(), fenced: known }
    }

    /// Events of the agent that are known, of all its lanes.
    #[inline]
    pub(crate) fn seen(&self, agent: Agent) -> u32 {
        self.seen.up_to(agent)
    }

    /// Whether a lane's event is known.
    #[inline]
    pub(crate) fn has_seen(&self, agent: Agent, lane: u8, count: u32) -> bool {
        self.seen.up_to(agent) >= count || alone_has(&self.seen.alone, agent, lane, count)
    }

    /// Whether a proxy fence stands behind a lane's event.
    pub(crate) fn has_fenced(&self, agent: Agent, lane: u8, count: u32) -> bool {
        self.fenced.has(agent, lane, count)
    }

    /// Learns everything `other` knows.
    pub(crate) fn join(&mut self, other: &Clock) {
        self.seen.join(&other.seen);
        self.fenced.join(&other.fenced);
    }

    /// Learns that `agent`'s events up to `count` happened. Completed asynchronous work needs no proxy fence after it.
    pub(crate) fn learn(&mut self, agent: Agent, count: u32) {
        self.seen.learn(agent, count);
    }

    /// Learns what these of an agent's live lanes did up to `count`, but nothing of the others.
    pub(crate) fn learn_alone(&mut self, agent: Agent, lanes: [u32; 2], count: u32) {
        self.seen.learn_alone(agent, lanes, count);
    }

    /// Leaves of `agent`, the owner of this clock, what these of its live lanes know: what all its lanes had done before
    /// they last met, at `since`, and what these lanes did.
    pub(crate) fn keep_lanes(&mut self, agent: Agent, since: u32, lanes: [u32; 2]) {
        let since = since.saturating_sub(1);
        self.seen.keep_own(agent, since, lanes);
        self.fenced.keep_own(agent, since, lanes);
    }

    /// Leaves of a worker of these lanes what all lanes know of it, and what it did for these lanes.
    pub(crate) fn keep_spread(&mut self, worker: Agent, spread: &Clock, lanes: [u32; 2]) {
        self.seen.keep_own(worker, spread.seen(worker), lanes);
        for a in spread.seen.alone.iter().filter(|a| a.agent == worker) {
            self.seen.learn_alone(a.agent, [a.lanes, a.live], a.count);
        }
    }

    /// A `fence.proxy.async` of the lanes whose knowledge `of` is: it may now be touched through the async proxy.
    /// Cumulative, as a fence anywhere along the causality path suffices.
    pub(crate) fn fence(&mut self, of: &Clock) {
        self.fenced.join(&of.seen);
    }

    /// A `fence.proxy.async` of all that is known.
    pub(crate) fn fence_all(&mut self) {
        self.fenced.clone_from(&self.seen);
    }

    /// Starts the next event of `agent`, the owner of this clock; returns its count.
    pub(crate) fn tick(&mut self, agent: Agent) -> u32 {
        let count = self.seen(agent) + 1;
        self.learn(agent, count);
        count
    }
}
