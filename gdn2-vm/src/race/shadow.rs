//! Shadow of a block's shared memory: who wrote last, and who has read since.
//!
//! One cell stands for a 16-byte line as long as every access takes whole lines, as matrix loads and copies do; a
//! smaller access splits the line into its four words until something overwrites it whole.

use super::clock::Agent;

/// The lane of a collective access: all lanes at once, none ahead of the others.
pub(crate) const COLLECTIVE: u8 = 0xff;
/// The lane of an atomic access, which no other atomic conflicts with.
pub(crate) const ATOMIC: u8 = 0xfe;
/// The lane of a mark that several lanes of one warp have left.
pub(crate) const SEVERAL: u8 = 0xfd;

/// One access as a cell remembers it.
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

const EMPTY: Cell = Cell { writer: Mark::NONE, reader: Mark::NONE, many: 0, written: 0, initialised: 0 };

/// Readers of one cell, by agent.
#[derive(Clone, Debug)]
struct Crowd {
    present: u128,
    marks: Vec<Mark>,
}

/// The cells of one block.
#[derive(Debug)]
pub(crate) struct Shadow {
    lines: Vec<Cell>,
    words: Vec<Cell>,
    split: Vec<bool>,
    crowds: Vec<Crowd>,
    free: Vec<u32>,
    agents: usize,
}

/// A cell of the shadow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    Line(usize),
    Word(usize),
}

impl At {
    /// Byte offset of the cell.
    pub(crate) fn offset(self) -> u32 {
        match self {
            At::Line(i) => i as u32 * 16,
            At::Word(i) => i as u32 * 4,
        }
    }
}

impl Shadow {
    /// `agents`: those that can read.
    pub(crate) fn new(bytes: usize, agents: usize) -> Self {
        let lines = bytes.div_ceil(16);
        Self {
            lines: vec![EMPTY; lines],
            words: vec![EMPTY; lines * 4],
            split: vec![false; lines],
            crowds: Vec::new(),
            free: Vec::new(),
            agents,
        }
    }

    pub(crate) fn lines(&self) -> usize {
        self.lines.len()
    }

    pub(crate) fn is_split(&self, line: usize) -> bool {
        self.split[line]
    }

    /// The line's words get what the line knew.
    pub(crate) fn split(&mut self, line: usize) {
        let cell = self.lines[line];
        self.split[line] = true;
        for word in line * 4..line * 4 + 4 {
            let many = if cell.many == 0 { 0 } else { self.copy_crowd(cell.many) };
            self.words[word] = Cell { many, ..cell };
        }
        if cell.many != 0 {
            self.release(cell.many);
        }
    }

    /// A write has taken the whole line: one cell stands for it again.
    pub(crate) fn join(&mut self, line: usize) {
        self.split[line] = false;
        for word in line * 4..line * 4 + 4 {
            if self.words[word].many != 0 {
                self.release(self.words[word].many);
            }
        }
        self.lines[line] = EMPTY;
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
        let crowd = &self.crowds[cell.many as usize - 1];
        let mut rest = crowd.present;
        while rest != 0 {
            let mark = crowd.marks[rest.trailing_zeros() as usize];
            if f(mark) {
                return Some(mark);
            }
            rest &= rest - 1;
        }
        None
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
            let cell = self.cell_mut(at);
            cell.many = many;
            cell.reader = Mark::NONE;
            self.enter(many, earlier, 0);
            self.enter(many, mark, since);
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
        if same_event && cell.written & bytes == 0 {
            cell.written |= bytes;
            if cell.writer.lane != mark.lane {
                cell.writer.lane = SEVERAL;
            }
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
            self.crowds.push(Crowd { present: 0, marks: vec![Mark::NONE; self.agents] });
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
        let index = usize::from(mark.agent.0);
        let bit = 1u128 << index;
        let slot = &mut crowd.marks[index];
        *slot = if crowd.present & bit != 0 { merged(*slot, mark, since) } else { mark };
        crowd.present |= bit;
    }

    fn release(&mut self, many: u32) {
        self.crowds[many as usize - 1].present = 0;
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
    Mark { lane, ..later }
}
