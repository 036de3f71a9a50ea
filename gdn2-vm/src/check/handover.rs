//! What a block knows of others: blocks of one launch may hand device memory on through words they update atomically,
//! as locks and counters do. Fences are taken for granted; that something is handed on at all is what is looked at.

use super::tracks::Tracks;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

/// Words asked for again when a conflict shows: the access is told of before it happens, so what another block did in
/// between is seen late.
const RECENT: usize = 16;

/// What blocks knew at their last atomic update, for all blocks at once.
#[derive(Debug, Default)]
pub(crate) struct Published(Mutex<HashMap<u64, HashSet<u64>>>);

/// What one block knows.
#[derive(Debug, Default)]
pub(crate) struct Known {
    blocks: HashSet<u64>,
    recent: VecDeque<u64>,
    /// Of those known, how many the others have been told of; `None`: it has never updated a word.
    told: Option<usize>,
}

impl Known {
    /// `block` looks at a word, alone or with all its lanes: whoever last updated it atomically is known from here on.
    pub(crate) fn look(&mut self, tracks: &Tracks, published: &Published, block: u64, address: u64) {
        if self.recent.back() != Some(&address) {
            self.recent.push_back(address);
            if self.recent.len() > RECENT {
                self.recent.pop_front();
            }
        }
        self.learn(tracks, published, block, address);
    }

    fn learn(&mut self, tracks: &Tracks, published: &Published, block: u64, address: u64) {
        if let Some(other) = tracks.updated_by(address)
            && other != block
            && self.blocks.insert(other)
        {
            let all = published.0.lock().unwrap_or_else(PoisonError::into_inner);
            self.blocks.extend(all.get(&other).into_iter().flatten());
        }
    }

    /// `block` updates a word atomically: who sees it knows what it knows.
    pub(crate) fn tell(&mut self, published: &Published, block: u64) {
        if self.told != Some(self.blocks.len()) {
            self.told = Some(self.blocks.len());
            let mut all = published.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.insert(block, self.blocks.clone());
        }
    }

    /// Whether what `other` wrote has been handed on to `block`.
    pub(crate) fn has(&mut self, tracks: &Tracks, published: &Published, block: u64, other: u64) -> bool {
        if self.blocks.contains(&other) {
            return true;
        }
        for address in std::mem::take(&mut self.recent) {
            self.learn(tracks, published, block, address);
        }
        self.blocks.contains(&other)
    }
}
