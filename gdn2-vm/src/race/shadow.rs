//! Shadow of a block's shared memory: for each 4-byte word, who wrote it last and who has read it since.

use super::clock::Agent;

/// The lane of a collective access: all lanes at once, none ahead of the others.
pub(crate) const COLLECTIVE: u8 = 0xff;
/// The lane of an atomic access, which no other atomic conflicts with.
pub(crate) const ATOMIC: u8 = 0xfe;
/// The lane of a mark that several lanes of one warp have left.
pub(crate) const SEVERAL: u8 = 0xfd;

/// One access as a word remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) agent: Agent,
    /// Lane, or [`COLLECTIVE`], [`ATOMIC`], [`SEVERAL`].
    pub(crate) lane: u8,
    /// The agent's event count; 0 means no access yet.
    pub(crate) count: u32,
    /// Instruction index, for the report.
    pub(crate) at: u32,
}

impl Mark {
    pub(crate) const NONE: Mark = Mark { agent: Agent(0), lane: COLLECTIVE, count: 0, at: 0 };

    pub(crate) fn exists(self) -> bool {
        self.count != 0
    }
}

/// One word.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word {
    pub(crate) writer: Mark,
    /// Bytes of the word written since it last had one writer: several lanes may fill a word's halves.
    pub(crate) written: u8,
    /// Bytes ever written.
    pub(crate) initialised: u8,
    /// The only reader since the last write, when `many` is none.
    pub(crate) reader: Mark,
    /// Index + 1 into the readers' table when more than one agent has read since the last write.
    many: u32,
}

/// The words of one block, and the readers of words that several agents read.
#[derive(Debug)]
pub(crate) struct Shadow {
    words: Vec<Word>,
    crowds: Vec<Mark>,
    free: Vec<u32>,
    agents: usize,
}

impl Shadow {
    pub(crate) fn new(bytes: usize, agents: usize) -> Self {
        let word = Word { writer: Mark::NONE, written: 0, initialised: 0, reader: Mark::NONE, many: 0 };
        Self { words: vec![word; bytes.div_ceil(4)], crowds: Vec::new(), free: Vec::new(), agents }
    }

    pub(crate) fn word(&mut self, index: usize) -> Option<&mut Word> {
        self.words.get_mut(index)
    }

    /// Marks of all agents that have read the word since its last write.
    pub(crate) fn readers(&self, index: usize) -> &[Mark] {
        match self.words.get(index) {
            Some(word) if word.many != 0 => self.crowd(word.many),
            Some(word) if word.reader.exists() => std::slice::from_ref(&word.reader),
            _ => &[],
        }
    }

    /// Remembers a read. A read that is ordered after the only reader so far replaces it.
    pub(crate) fn note_read(&mut self, index: usize, mark: Mark, ordered_after_reader: bool) {
        let agents = self.agents;
        let Some(word) = self.words.get_mut(index) else { return };
        if word.many != 0 {
            let base = (word.many as usize - 1) * agents;
            if let Some(slot) = self.crowds.get_mut(base + usize::from(mark.agent.0)) {
                *slot = merged(*slot, mark);
            }
            return;
        }
        let earlier = word.reader;
        if !earlier.exists() || (earlier.agent != mark.agent && ordered_after_reader) {
            word.reader = mark;
            return;
        }
        if earlier.agent == mark.agent {
            word.reader = merged(earlier, mark);
            return;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.crowds.resize(self.crowds.len() + agents, Mark::NONE);
            (self.crowds.len() / agents) as u32
        });
        word.many = slot;
        word.reader = Mark::NONE;
        let base = (slot as usize - 1) * agents;
        for reader in [earlier, mark] {
            if let Some(place) = self.crowds.get_mut(base + usize::from(reader.agent.0)) {
                *place = reader;
            }
        }
    }

    /// Remembers a write to `bytes` (a 4-bit mask) of the word and forgets its readers.
    pub(crate) fn note_write(&mut self, index: usize, mark: Mark, bytes: u8) {
        let agents = self.agents;
        let Some(word) = self.words.get_mut(index) else { return };
        let same_event = word.writer.agent == mark.agent && word.writer.count == mark.count;
        if same_event && word.written & bytes == 0 {
            word.written |= bytes;
            if word.writer.lane != mark.lane {
                word.writer.lane = SEVERAL;
            }
        } else {
            word.writer = mark;
            word.written = bytes;
        }
        word.initialised |= bytes;
        word.reader = Mark::NONE;
        if word.many != 0 {
            let base = (word.many as usize - 1) * agents;
            if let Some(crowd) = self.crowds.get_mut(base..base + agents) {
                crowd.fill(Mark::NONE);
            }
            self.free.push(word.many);
            word.many = 0;
        }
    }

    fn crowd(&self, many: u32) -> &[Mark] {
        let base = (many as usize - 1) * self.agents;
        self.crowds.get(base..base + self.agents).unwrap_or(&[])
    }
}

/// Two reads of one agent: the later one stands for both.
fn merged(earlier: Mark, later: Mark) -> Mark {
    let lane = if earlier.count == later.count && earlier.lane != later.lane { SEVERAL } else { later.lane };
    Mark { lane, ..later }
}
