//! What is remembered of each piece of memory: its last writer and the readers since.
//!
//! A cell stands for a 16-byte line as long as every access takes whole lines, as matrix loads and copies do; a
//! smaller access splits the line into its four words until something overwrites it whole.

use super::clock::Agent;

/// The lane of a collective access: all lanes at once, none ahead of the others.
pub(crate) const COLLECTIVE: u8 = 0xff;
/// The lane of a mark that several lanes of one warp have left.
pub(crate) const SEVERAL: u8 = 0xfd;

/// Which accesses may touch a word at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Strength {
    /// A plain access.
    Weak,
    /// Atomic, or one that says an order: these do not race with one another.
    Strong,
    /// An atomic that compares first.
    Compare,
}

/// One access as a cell remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) agent: Agent,
    /// Lane, or [`COLLECTIVE`], [`SEVERAL`].
    pub(crate) lane: u8,
    pub(crate) strength: Strength,
    /// The agent's event count; 0 means no access yet.
    pub(crate) count: u32,
    /// Instruction index, for the report.
    pub(crate) at: u32,
}

impl Mark {
    pub(crate) const NONE: Mark = Mark { agent: Agent(0), lane: COLLECTIVE, strength: Strength::Weak, count: 0, at: 0 };

    pub(crate) fn exists(self) -> bool {
        self.count != 0
    }
}

/// A line or a word. Byte masks have four bits: of a word each is a byte, of a line all four go together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    pub(crate) writer: Mark,
    /// The only reader since the last write, when `many` is none.
    pub(crate) reader: Mark,
    /// Index + 1 into the crowds when more than one agent has read since the last write.
    many: u32,
    /// Bytes written since the cell last had one writer: several lanes may fill a word's halves.
    pub(crate) written: u8,
    /// Bytes ever written.
    pub(crate) initialised: u8,
}

/// Lines of a page of device memory.
pub(crate) const PAGE: usize = 64;

/// The cells of one block's shared memory, or of the device memory it touches.
#[derive(Debug)]
pub(crate) struct Shadow {
    /// What a cell is before anything touches it.
    fresh: Cell,
    lines: Vec<Cell>,
    /// By line: index + 1 of the first of its four words while it is split.
    words_of: Vec<u32>,
    words: Vec<Cell>,
    /// Words of lines that are whole again.
    free_words: Vec<u32>,
    /// Readers of one cell, one mark an agent.
    crowds: Vec<Vec<Mark>>,
    free: Vec<u32>,
}

/// A cell of the shadow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    Line(usize),
    Word(usize),
}

impl Shadow {
    /// Shared memory: nobody has written it.
    pub(crate) fn shared(bytes: usize) -> Self {
        let mut shadow = Self::device();
        shadow.fresh.initialised = 0;
        shadow.grow(bytes.div_ceil(16));
        shadow
    }

    /// Device memory, of which pages are added as they are touched: what the launch finds there was written before.
    pub(crate) fn device() -> Self {
        let fresh = Cell { writer: Mark::NONE, reader: Mark::NONE, many: 0, written: 0, initialised: 0xf };
        Self {
            fresh,
            lines: Vec::new(),
            words_of: Vec::new(),
            words: Vec::new(),
            free_words: Vec::new(),
            crowds: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Adds lines; returns the first.
    pub(crate) fn grow(&mut self, lines: usize) -> usize {
        let first = self.lines.len();
        self.lines.resize(first + lines, self.fresh);
        self.words_of.resize(first + lines, 0);
        first
    }

    pub(crate) fn lines(&self) -> usize {
        self.lines.len()
    }

    pub(crate) fn is_split(&self, line: usize) -> bool {
        self.words_of[line] != 0
    }

    /// The first word of a line; words get what the line knew if it was whole.
    pub(crate) fn split(&mut self, line: usize) -> usize {
        if self.words_of[line] != 0 {
            return self.words_of[line] as usize - 1;
        }
        let first = self.free_words.pop().map_or(self.words.len(), |free| free as usize);
        if first == self.words.len() {
            self.words.resize(first + 4, self.fresh);
        }
        self.words_of[line] = first as u32 + 1;
        let cell = self.lines[line];
        for word in first..first + 4 {
            let many = if cell.many == 0 { 0 } else { self.copy_crowd(cell.many) };
            self.words[word] = Cell { many, ..cell };
        }
        if cell.many != 0 {
            self.release(cell.many);
        }
        first
    }

    /// A write has taken the whole line: one cell stands for it again.
    pub(crate) fn join(&mut self, line: usize) {
        let first = self.words_of[line] as usize - 1;
        for word in first..first + 4 {
            if self.words[word].many != 0 {
                self.release(self.words[word].many);
            }
        }
        self.words_of[line] = 0;
        self.free_words.push(first as u32);
        self.lines[line] = self.fresh;
    }

    #[inline]
    pub(crate) fn cell(&self, at: At) -> &Cell {
        match at {
            At::Line(i) => &self.lines[i],
            At::Word(i) => &self.words[i],
        }
    }

    #[inline]
    fn cell_mut(&mut self, at: At) -> &mut Cell {
        match at {
            At::Line(i) => &mut self.lines[i],
            At::Word(i) => &mut self.words[i],
        }
    }

    /// The first reader since the last write for which `f` holds.
    #[inline]
    pub(crate) fn find_reader(&self, at: At, f: impl Fn(Mark) -> bool) -> Option<Mark> {
        let cell = self.cell(at);
        if cell.many == 0 {
            return (cell.reader.exists() && f(cell.reader)).then_some(cell.reader);
        }
        self.crowds[cell.many as usize - 1].iter().copied().find(|mark| f(*mark))
    }

    /// Remembers a read. A read that is ordered after the only reader so far replaces it. The lanes of the reading
    /// warp met last at count `since`.
    #[inline]
    pub(crate) fn note_read(&mut self, at: At, mark: Mark, since: u32, ordered_after_reader: bool) {
        let cell = self.cell_mut(at);
        if cell.many == 0 {
            let earlier = cell.reader;
            if !earlier.exists() || (earlier.agent != mark.agent && ordered_after_reader) {
                cell.reader = mark;
                return;
            }
            if earlier.agent == mark.agent {
                cell.reader = merged(earlier, mark, since);
                return;
            }
            let many = self.new_crowd();
            self.crowds[many as usize - 1].extend([earlier, mark]);
            let cell = self.cell_mut(at);
            cell.many = many;
            cell.reader = Mark::NONE;
        } else {
            let many = cell.many;
            self.enter(many, mark, since);
        }
    }

    /// Remembers a write to `bytes` (a 4-bit mask) of the cell and forgets its readers.
    #[inline]
    pub(crate) fn note_write(&mut self, at: At, mark: Mark, since: u32, bytes: u8) {
        let cell = self.cell_mut(at);
        let same_event = cell.writer.agent == mark.agent && cell.writer.count >= since;
        let together = same_event && cell.writer.strength != Strength::Weak && mark.strength != Strength::Weak;
        if same_event && cell.written & bytes == 0 || together {
            cell.written |= bytes;
            if cell.writer.lane != mark.lane {
                cell.writer.lane = SEVERAL;
            }
            cell.writer.count = mark.count;
            cell.writer.strength = cell.writer.strength.min(mark.strength);
        } else {
            cell.writer = mark;
            cell.written = bytes;
        }
        cell.initialised |= bytes;
        cell.reader = Mark::NONE;
        let many = std::mem::take(&mut cell.many);
        if many != 0 {
            self.release(many);
        }
    }

    fn new_crowd(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.crowds.push(Vec::new());
            self.crowds.len() as u32
        })
    }

    fn copy_crowd(&mut self, many: u32) -> u32 {
        let to = self.new_crowd();
        self.crowds[to as usize - 1] = self.crowds[many as usize - 1].clone();
        to
    }

    #[inline]
    fn enter(&mut self, many: u32, mark: Mark, since: u32) {
        let crowd = &mut self.crowds[many as usize - 1];
        match crowd.iter_mut().find(|m| m.agent == mark.agent) {
            Some(slot) => *slot = merged(*slot, mark, since),
            None => crowd.push(mark),
        }
    }

    fn release(&mut self, many: u32) {
        self.crowds[many as usize - 1].clear();
        self.free.push(many);
    }
}

/// Two reads of one agent: the later one stands for both.
fn merged(earlier: Mark, later: Mark, since: u32) -> Mark {
    let lane = match (earlier.lane, later.lane) {
        _ if earlier.count < since => later.lane,
        (a, b) if a == b => a,
        // A collective is never in a lane's way.
        (COLLECTIVE, lane) | (lane, COLLECTIVE) => lane,
        _ => SEVERAL,
    };
    Mark { lane, strength: earlier.strength.min(later.strength), ..later }
}
