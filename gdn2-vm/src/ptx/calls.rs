//! Functions that the compiler wrote out in their callers, as `.loc` lines tell it: each names the place of its call, and
//! the place's own `.loc`, which came before, says where that function was written out in turn.

use std::collections::HashMap;

/// A line of the source, by the number of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Loc {
    pub(crate) file: u32,
    pub(crate) line: u32,
    /// Of a function that was written out in its caller: the call, an index into [`Calls`].
    pub(crate) call: Option<u32>,
}

/// File, line and column.
pub(super) type Spot = (u32, u32, u64);

/// Calls of a module, callers before what they call.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    all: Vec<Loc>,
    index: HashMap<Loc, u32>,
    /// The call that a spot's function was last written out at.
    spots: HashMap<Spot, Option<u32>>,
}

impl Calls {
    /// A `.loc` that was read.
    pub(super) fn loc(&mut self, (file, line, column): Spot, inlined_at: Option<Spot>) -> Loc {
        let call = inlined_at.map(|spot| {
            let loc = Loc { file: spot.0, line: spot.1, call: self.spots.get(&spot).copied().flatten() };
            *self.index.entry(loc).or_insert_with(|| {
                self.all.push(loc);
                (self.all.len() - 1) as u32
            })
        });
        self.spots.insert((file, line, column), call);
        Loc { file, line, call }
    }

    /// All of them, by index.
    pub(crate) fn into_list(self) -> Vec<Loc> {
        self.all
    }

    /// The highest number of a file.
    pub(crate) fn highest_file(&self) -> u32 {
        self.all.iter().map(|loc| loc.file).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::{Calls, Loc};

    #[test]
    fn a_call_knows_where_its_own_function_was_called() {
        let mut calls = Calls::default();
        let body = calls.loc((1, 50, 3), None);
        calls.loc((1, 20, 5), Some((1, 50, 3)));
        let inner = calls.loc((1, 7, 9), Some((1, 20, 5)));
        // The same lines, called from elsewhere.
        calls.loc((1, 60, 3), None);
        calls.loc((1, 20, 5), Some((1, 60, 3)));
        let other = calls.loc((1, 7, 9), Some((1, 20, 5)));
        let all = calls.into_list();
        let lines = |loc: Loc| {
            let calls = std::iter::successors(Some(loc), |loc| loc.call.map(|call| all[call as usize]));
            calls.map(|loc| loc.line).collect::<Vec<_>>()
        };
        assert_eq!((lines(body), lines(inner), lines(other)), (vec![50], vec![7, 20, 50], vec![7, 20, 60]));
    }
}
