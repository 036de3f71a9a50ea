//! A warp of the simulation: where it is, what its scoreboards wait for, and what it has waited for.

use super::cost::{Cost, Kind, WAITS, Wait};
use crate::walk::{Effect, Step};
use std::collections::VecDeque;

pub(crate) struct Warp<'a> {
    pub(crate) block: usize,
    pub(crate) number: usize,
    pub(crate) scheduler: usize,
    pub(crate) steps: &'a [Step],
    pub(crate) next: usize,
    /// When its stall count has passed.
    pub(crate) ready: f64,
    pub(crate) boards: [(f64, Wait); 6],
    /// Ends of groups of products and of copies that are open.
    pub(crate) products: VecDeque<f64>,
    pub(crate) copies: VecDeque<f64>,
    /// When the last of its copies lands.
    pub(crate) landed: f64,
    /// When each accumulator can be added to.
    pub(crate) accumulators: Vec<(u8, f64)>,
    /// When its next instruction's operands are there, and what they were waited for.
    pub(crate) earliest: f64,
    pub(crate) reason: Wait,
    pub(crate) last: f64,
    pub(crate) blocked: bool,
    pub(crate) waits: [f64; WAITS],
    pub(crate) began: f64,
    pub(crate) ended: f64,
}

impl<'a> Warp<'a> {
    pub(crate) fn new(block: usize, number: usize, scheduler: usize, steps: &'a [Step], now: f64) -> Warp<'a> {
        Warp {
            block,
            number,
            scheduler,
            steps,
            next: 0,
            ready: now,
            boards: [(0.0, Wait::Own); 6],
            products: VecDeque::new(),
            copies: VecDeque::new(),
            landed: 0.0,
            accumulators: Vec::new(),
            earliest: now,
            reason: Wait::Own,
            last: 0.0,
            blocked: false,
            waits: [0.0; WAITS],
            began: now,
            ended: now,
        }
    }

    pub(crate) fn step(&self) -> Option<Step> {
        self.steps.get(self.next).copied()
    }

    /// Finds out when the next instruction's operands are there.
    pub(crate) fn look(&mut self, costs: &[Cost]) {
        self.earliest = f64::INFINITY;
        if self.blocked {
            return;
        }
        let Some(step) = self.step() else { return };
        let cost = &costs[step.instruction as usize];
        let (mut at, mut reason) = (self.ready, Wait::Own);
        let mut later = |when: f64, why: Wait| {
            if when > at {
                (at, reason) = (when, why);
            }
        };
        let mut boards = cost.wait;
        while boards != 0 {
            let (when, why) = self.boards[boards.trailing_zeros() as usize % 6];
            later(when, why);
            boards &= boards - 1;
        }
        if step.effect != Effect::Off {
            let due = |open: &VecDeque<f64>, may: u32| {
                let count = open.len().saturating_sub(may as usize);
                open.iter().take(count).copied().fold(0.0, f64::max)
            };
            match cost.kind {
                Kind::WaitProducts(may) => later(due(&self.products, may), Wait::Wgmma),
                Kind::WaitCopies(may) => later(due(&self.copies, may), Wait::Copies),
                _ => {}
            }
        }
        (self.earliest, self.reason) = (at, reason);
    }

    pub(crate) fn accumulator(&self, register: u8) -> f64 {
        self.accumulators.iter().find(|(own, _)| *own == register).map_or(0.0, |(_, at)| *at)
    }

    pub(crate) fn set_accumulator(&mut self, register: u8, at: f64) {
        match self.accumulators.iter_mut().find(|(own, _)| *own == register) {
            Some(slot) => slot.1 = at,
            None => self.accumulators.push((register, at)),
        }
    }
}

/// Leaves the newest groups open.
pub(crate) fn close(open: &mut VecDeque<f64>, may: u32) {
    while open.len() > may as usize {
        open.pop_front();
    }
}
