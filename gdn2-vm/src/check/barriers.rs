//! Block barriers: what each phase hands on, and whether the threads that end it are the only ones that could.

use super::{Full, Raw, Side};
use crate::exec::observe::At;
use crate::race::{Agent, COLLECTIVE, Clock};
use crate::report::finding::Rule;
use std::collections::VecDeque;

/// Phases whose clocks are kept: a warp may pass late, but not by more than this.
const KEPT: usize = 8;

/// One arrival: who, its event and its instruction.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    agent: Agent,
    count: u32,
    at: At,
}

#[derive(Clone, Debug)]
struct Phase {
    generation: u64,
    token: Clock,
    /// Where the arrivals say how many threads they await.
    arrivals: Vec<Arrival>,
}

/// The last phases of one barrier.
#[derive(Clone, Debug, Default)]
pub(super) struct Phases(VecDeque<Phase>);

impl Phases {
    /// What those who pass this phase learn.
    pub(super) fn ended(&self, generation: u64) -> Option<&Clock> {
        self.0.iter().find(|phase| phase.generation == generation).map(|phase| &phase.token)
    }
}

impl Full {
    /// A warp arrives. Of a barrier that awaits a number of threads, whichever come first end the phase: an arrival that
    /// is not ordered after all those of the phase before could have been among them.
    pub(super) fn arrives(&mut self, at: At, mask: u32, id: u8, generation: u64, counted: bool) {
        let w = at.warp as usize;
        let (agent, count) = self.races.arrival(w);
        let phases = &mut self.bars[usize::from(id)].0;
        if phases.back().is_none_or(|phase| phase.generation != generation) {
            phases.push_back(Phase { generation, token: Clock::default(), arrivals: Vec::new() });
            if phases.len() > KEPT {
                phases.pop_front();
            }
        }
        let mut rival = None;
        if counted {
            let twice = phases.back().and_then(|phase| phase.arrivals.iter().find(|a| a.agent == agent));
            let before = phases.len().checked_sub(2).map(|i| &phases[i]).filter(|p| p.generation + 1 == generation);
            let unknown = |a: &&Arrival| !self.races.knows(w, a.agent, COLLECTIVE, a.count);
            rival = twice.copied().or_else(|| before?.arrivals.iter().find(unknown).copied());
        }
        if let Some(phase) = phases.back_mut() {
            self.races.release(w, [mask, self.warps[w].live], &mut phase.token);
            if counted {
                phase.arrivals.push(Arrival { agent, count, at });
            }
        }
        if let Some(rival) = rival {
            self.note(Rule::BarrierGroups, at, None, Some(rival.at.pc), |full, side| Raw {
                side,
                what: format!(
                    "arrives at barrier {id}, which awaits a number of threads, though nothing orders it after an arrival \
                     of the phase before: the hardware may release either first"
                ),
                other: Some((
                    Side { at: rival.at, block: full.index, lane: None },
                    format!("warp {}", rival.at.warp),
                    true,
                )),
                fix: "a barrier of its own for each group of warps, or a count that takes in every warp that arrives",
                times: 1,
            });
        }
    }
}
