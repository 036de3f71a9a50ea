//! mbarriers: what each phase's arrivals and copies hand to those who see it end.

use crate::exec::observe::At;
use crate::race::{Agent, Clock, Races};
use std::collections::VecDeque;

/// Phases whose clocks are kept, the current one included.
const KEPT: usize = 4;

/// One mbarrier.
#[derive(Debug)]
pub(crate) struct Mbar {
    address: u32,
    /// Phase number and what was released into it, oldest first.
    phases: VecDeque<(u64, Clock)>,
    pub(crate) init: Init,
    /// The last arrival, or the last announcement of bytes.
    pub(crate) last: Option<(At, u32)>,
}

/// Who initialised it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Init {
    pub(crate) agent: Agent,
    pub(crate) lane: u8,
    pub(crate) count: u32,
    pub(crate) at: u32,
    /// A fence has followed, of the initialising lane or of one that knew.
    pub(crate) fenced: bool,
}

/// The mbarriers of one block; an index stays with an address.
#[derive(Debug, Default)]
pub(crate) struct Mbars {
    all: Vec<Mbar>,
}

impl Mbars {
    pub(crate) fn init(&mut self, address: u32, init: Init) {
        match self.index(address) {
            Some(i) => self.all[i] = Mbar { address, phases: VecDeque::new(), init, last: None },
            None => self.all.push(Mbar { address, phases: VecDeque::new(), init, last: None }),
        }
    }

    pub(crate) fn index(&self, address: u32) -> Option<usize> {
        self.all.iter().position(|m| m.address == address)
    }

    pub(crate) fn get(&self, index: usize) -> Option<&Mbar> {
        self.all.get(index)
    }

    /// Somebody arrives, or announces bytes.
    pub(crate) fn arrived(&mut self, index: usize, at: At, lane: u32) {
        if let Some(mbar) = self.all.get_mut(index) {
            mbar.last = Some((at, lane));
        }
    }

    /// A fence of these lanes of a warp publishes what they initialised, or know to be.
    pub(crate) fn fence(&mut self, races: &Races, warp: usize, mask: u32) {
        for m in self.all.iter_mut().filter(|m| !m.init.fenced) {
            let Init { agent, lane, count, .. } = m.init;
            m.init.fenced = if races.describe(agent).1 == warp {
                mask >> lane & 1 != 0 || races.met_since(warp, count)
            } else {
                races.knows(warp, agent, lane, count)
            };
        }
    }
}

impl Mbars {
    /// What is released into a phase. Phases follow one another, so each starts with all before it.
    pub(crate) fn token(&mut self, index: usize, phase: u64) -> Option<&mut Clock> {
        let phases = &mut self.all.get_mut(index)?.phases;
        if phases.back().is_none_or(|(p, _)| *p < phase) {
            let known = phases.back().map(|(_, c)| c.clone()).unwrap_or_default();
            phases.push_back((phase, known));
            if phases.len() > KEPT {
                phases.pop_front();
            }
        }
        phases.iter_mut().find(|(p, _)| *p == phase).map(|(_, c)| c)
    }

    /// What those who see this phase end learn.
    pub(crate) fn ended(&self, index: usize, phase: u64) -> Option<&Clock> {
        self.all.get(index)?.phases.iter().rev().find(|(p, _)| *p <= phase).map(|(_, c)| c)
    }
}
