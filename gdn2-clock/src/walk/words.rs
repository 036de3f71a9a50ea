//! Words of shared memory that one thread writes for its whole block, such as how many tokens of a chunk exist: all that
//! is known of shared memory.
//!
//! Warps are walked one after another, so what a warp reads is known where an earlier one, or itself, wrote it, and where
//! nothing else was ever written there; a word that is written anew is known to its own warp alone.

use super::compile::Action;
use super::effect::{access_width, memory};
use super::exchange::words;
use super::lanes::Lanes;
use crate::sass::{Instruction, Register};
use std::collections::BTreeMap;

#[derive(Debug)]
struct Word {
    /// None: other things were written there.
    value: Option<u32>,
    warp: u32,
    /// Written more than once: what others read depends on when.
    changed: bool,
}

/// What is known of a block's shared memory, by byte address.
#[derive(Debug, Default)]
pub(crate) struct Words(BTreeMap<u32, Word>);

impl Words {
    fn write(&mut self, at: u32, value: u32, warp: u32) {
        let new = Word { value: Some(value), warp, changed: false };
        let word = self.0.entry(at).or_insert(new);
        if word.value != Some(value) {
            word.changed = true;
            word.value = Some(value).filter(|_| word.warp == warp);
        }
    }

    fn lose(&mut self, at: u32, bytes: u32) {
        self.0.range_mut(at.saturating_sub(3)..at.saturating_add(bytes)).for_each(|(_, word)| word.value = None);
    }

    fn read(&self, at: u32, warp: u32) -> Option<u32> {
        self.0.get(&at).filter(|word| !word.changed || word.warp == warp)?.value
    }

    /// Each lane stores so many bytes, of which nothing is known.
    pub(crate) fn overwrite(&mut self, at: &Lanes, mask: u32, bytes: u32) {
        if self.0.is_empty() {
            return;
        }
        if !at.knows(mask) {
            self.0.clear();
            return;
        }
        let lanes = (0..32).filter(|lane| mask >> lane & 1 == 1);
        lanes.filter_map(|lane| at.lane(lane)).for_each(|at| self.lose(at, bytes));
    }
}

/// `LDS d, [address]`, of whole words.
pub(crate) fn load(instruction: &Instruction) -> Option<Action> {
    let (d, address) = (instruction.operands.first()?.register()?, memory(instruction)?);
    let count = whole(instruction)?;
    Some(Box::new(move |state, mask| {
        let at = state.shared_address(&address);
        for by in 0..count {
            let word = |lane| state.words.read(at.lane(lane)?.wrapping_add(4 * u32::from(by)), state.warp);
            let value = if state.words.0.is_empty() { Lanes::UNKNOWN } else { Lanes::maybe(word) };
            state.set(d.next(by), value, mask);
        }
    }))
}

/// `STS [address], a`.
pub(crate) fn store(instruction: &Instruction) -> Option<Action> {
    let address = memory(instruction)?;
    let from: Option<(Register, u8)> = instruction.operands.last()?.register().zip(whole(instruction));
    let bytes = access_width(instruction);
    Some(Box::new(move |state, mask| {
        let at = state.shared_address(&address);
        // One thread, and it surely stores.
        let alone = (mask.count_ones() == 1 && state.unsure == 0).then(|| at.first(mask)).flatten();
        let (Some(at), Some((from, count))) = (alone, from) else {
            state.words.overwrite(&at, mask, bytes);
            return;
        };
        for by in 0..count {
            let place = at.wrapping_add(4 * u32::from(by));
            match state.get(from.next(by)).first(mask) {
                Some(value) => state.words.write(place, value, state.warp),
                None => state.words.lose(place, 4),
            }
        }
    }))
}

/// What stores numbers that are not known, 16 bytes to a lane at most: `STSM`, `LDGSTS`.
pub(crate) fn overwrite(instruction: &Instruction) -> Option<Action> {
    let address = memory(instruction)?;
    Some(Box::new(move |state, mask| {
        let at = state.shared_address(&address);
        state.words.overwrite(&at, mask, 16);
    }))
}

/// How many words, where none is written in part.
fn whole(instruction: &Instruction) -> Option<u8> {
    let part = ["U8", "S8", "U16", "S16"].iter().any(|narrow| instruction.has(narrow));
    (!part).then(|| words(instruction))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::walk::lanes::ALL;

    #[test]
    fn a_word_is_known_to_others_while_nothing_else_was_written_there() {
        let mut words = Words::default();
        words.write(16, 7, 0);
        words.write(20, 8, 0);
        assert_eq!([words.read(16, 0), words.read(16, 3), words.read(24, 0)], [Some(7), Some(7), None]);
        words.write(16, 9, 0);
        assert_eq!([words.read(16, 0), words.read(16, 3)], [Some(9), None]);
        words.write(20, 5, 1);
        assert_eq!([words.read(20, 0), words.read(20, 1)], [None, None]);
    }

    #[test]
    fn what_tiles_are_stored_over_is_lost() {
        let mut words = Words::default();
        [4, 68, 512].into_iter().for_each(|at| words.write(at, 1, 0));
        words.overwrite(&Lanes::each(|lane| 64 + 8 * lane as u32), ALL, 8);
        assert_eq!([4, 68, 512].map(|at| words.read(at, 1)), [Some(1), None, Some(1)]);
        words.overwrite(&Lanes::UNKNOWN, ALL, 4);
        assert_eq!(words.read(4, 0), None);
    }
}
