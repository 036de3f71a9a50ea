//! Counts what a run does, per PTX instruction: executions, sectors and bytes of global memory, shared wavefronts.

use crate::exec::footprint::{Footprint, SECTOR_BITS};
use crate::exec::lanes::{Regs, lanes};
use crate::exec::observe::{Access, Agent, At, Kind, Observer, Sync};
use crate::isa::class::class;
use crate::isa::entry::Entry;
use crate::isa::hopper::Async;
use crate::isa::inst::{Inst, Matrix, Op, Space};
use crate::report::place::Sources;
use crate::report::{Counters, InstructionCount};
use std::collections::HashMap;
use std::sync::Arc;

/// Counts of one instruction.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    executed: u64,
    partial: u64,
    lanes: u64,
    read_sectors: u64,
    write_sectors: u64,
    read_bytes: u64,
    write_bytes: u64,
    wavefronts: u64,
    ideal: u64,
    longest: u64,
}

/// What all blocks of a counted launch share.
#[derive(Debug)]
pub(crate) struct Counted {
    /// Instructions of the kernel.
    pub(crate) instructions: usize,
    pub(crate) footprint: Footprint,
}

/// Counts of a block, or of several.
#[derive(Debug)]
pub(crate) struct Count {
    launch: Arc<Counted>,
    rows: Vec<Row>,
    /// Of the block under way, the longest path that ends in each warp.
    paths: Vec<Path>,
    /// Of each warp, whether it waits at an mbarrier: how often it asks is the scheduler's doing, not the kernel's.
    waiting: Vec<bool>,
    /// By barrier, its last two generations and the longest path that arrived: nobody is further behind.
    arrived: HashMap<Meeting, [(u64, Path); 2]>,
}

/// Where one warp hands its path on to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Meeting {
    /// A block barrier by its number.
    Bar(u8),
    /// An mbarrier by its address.
    Mbar(u32),
}

/// A chain of instructions through one warp after another, handed on at barriers of both kinds.
#[derive(Clone, Debug, Default)]
struct Path {
    length: u64,
    executed: Vec<u32>,
}

impl Observer for Count {
    const ON: bool = true;

    type Launch = Arc<Counted>;

    fn start(launch: &Arc<Counted>, _: [u32; 3], warps: u32) -> Self {
        let path = Path { length: 0, executed: vec![0; launch.instructions] };
        let warps = warps as usize;
        Self {
            launch: Arc::clone(launch),
            rows: vec![Row::default(); launch.instructions],
            paths: vec![path; warps],
            waiting: vec![false; warps],
            arrived: HashMap::new(),
        }
    }

    fn step(&mut self, at: At, mask: u32, _: u32, inst: &Inst, _: &Regs) {
        let row = &mut self.rows[at.pc as usize];
        row.executed += 1;
        row.partial += u64::from(mask != u32::MAX);
        row.lanes += u64::from(mask.count_ones());
        let waiting = &mut self.waiting[at.warp as usize];
        if *waiting {
            return;
        }
        *waiting = matches!(inst.op, Op::Async(Async::MbarWait { .. }));
        let path = &mut self.paths[at.warp as usize];
        path.length += steps(&inst.op);
        path.executed[at.pc as usize] += 1;
    }

    fn sync(&mut self, at: At, _: u32, sync: Sync) {
        match sync {
            Sync::BarArrive { id, generation, .. } => self.arrive(at, Meeting::Bar(id), generation),
            Sync::BarPass { id, generation } => self.pass(at, Meeting::Bar(id), generation),
            Sync::MbarArrive { address, phase, arrives: true } | Sync::CopyArrive { address, phase } => {
                self.arrive(at, Meeting::Mbar(address), phase);
            }
            Sync::MbarPass { address, phase } => {
                self.waiting[at.warp as usize] = false;
                self.pass(at, Meeting::Mbar(address), phase);
            }
            _ => {}
        }
    }

    fn access(&mut self, at: At, a: &Access<'_>) {
        let row = &mut self.rows[at.pc as usize];
        let bytes = u64::from(a.mask.count_ones()) * u64::from(a.bytes);
        match a.space {
            Space::Global => {
                let sectors = sectors(a, &self.launch.footprint);
                if a.kind != Kind::Write {
                    row.read_sectors += sectors;
                    row.read_bytes += bytes;
                }
                if a.kind != Kind::Read {
                    row.write_sectors += sectors;
                    row.write_bytes += bytes;
                }
            }
            Space::Shared => {
                let ideal = bytes.div_ceil(128);
                let (n, ideal) = match a.agent {
                    // The engines move 128 bytes at a time; B is read once for the four warps that report it.
                    Agent::Bulk | Agent::WgmmaA => (ideal, ideal),
                    Agent::WgmmaB if at.warp.is_multiple_of(4) => (ideal, ideal),
                    Agent::WgmmaB => (0, 0),
                    Agent::Warp | Agent::CpAsync => (wavefronts(a), ideal),
                };
                row.wavefronts += n;
                row.ideal += ideal;
            }
            _ => {}
        }
    }

    fn merge(&mut self, mut other: Self) {
        self.end_block();
        other.end_block();
        for (a, b) in self.rows.iter_mut().zip(other.rows) {
            a.executed += b.executed;
            a.partial += b.partial;
            a.lanes += b.lanes;
            a.read_sectors += b.read_sectors;
            a.write_sectors += b.write_sectors;
            a.read_bytes += b.read_bytes;
            a.write_bytes += b.write_bytes;
            a.wavefronts += b.wavefronts;
            a.ideal += b.ideal;
            a.longest += b.longest;
        }
    }
}

/// Distinct 32-byte sectors of one request; the launch's footprint takes note of them.
fn sectors(a: &Access<'_>, footprint: &Footprint) -> u64 {
    let (read, written) = (a.kind != Kind::Write, a.kind != Kind::Read);
    let of = |i: usize| (a.address[i] >> SECTOR_BITS, (a.address[i] + u64::from(a.bytes) - 1) >> SECTOR_BITS);
    if a.agent == Agent::Bulk {
        // Ranges of any length: each is a request of its own.
        let request = |i: usize| {
            let (first, last) = of(i);
            footprint.touch(first..=last, read, written);
            last - first + 1
        };
        return lanes(a.mask).map(request).sum();
    }
    let mut seen = [0u64; 64];
    let mut n = 0;
    for i in lanes(a.mask) {
        let (first, last) = of(i);
        for s in first..=last {
            // Lanes mostly ascend, so a repeat is mostly the last one seen.
            if !seen[..n].iter().rev().any(|&x| x == s) && n < seen.len() {
                seen[n] = s;
                n += 1;
                footprint.touch(s..=s, read, written);
            }
        }
    }
    n as u64
}

/// Passes over the banks: lanes go by 32, 16 or 8 at a time for up to 4, 8 or 16 bytes each, and each pass serves
/// one 4-byte word of every bank. Parts of a warp that need one pass each share it where no bank has to serve two words:
/// those that read the same words do.
fn wavefronts(a: &Access<'_>) -> u64 {
    let lanes_at_once = match a.bytes {
        0..=4 => 32,
        5..=8 => 16,
        _ => 8,
    };
    let mut total = 0;
    // The word of each bank in the passes that one part alone would have filled.
    let mut shared: [[Option<u64>; 32]; 4] = [[None; 32]; 4];
    let mut passes = 0;
    for first in (0..32).step_by(lanes_at_once) {
        let mut words: [[u64; 32]; 32] = [[0; 32]; 32];
        let mut n = [0usize; 32];
        let part = a.mask & (((1u64 << lanes_at_once) - 1) << first) as u32;
        for i in lanes(part) {
            let (lo, hi) = (a.address[i] >> 2, (a.address[i] + u64::from(a.bytes) - 1) >> 2);
            for w in lo..=hi {
                let bank = (w & 31) as usize;
                if !words[bank][..n[bank]].contains(&w) {
                    words[bank][n[bank]] = w;
                    n[bank] += 1;
                }
            }
        }
        let most = n.iter().copied().max().unwrap_or(0) as u64;
        if most != 1 || a.kind != Kind::Read || lanes_at_once == 32 {
            total += most;
            continue;
        }
        let own: [Option<u64>; 32] = std::array::from_fn(|bank| (n[bank] > 0).then_some(words[bank][0]));
        let agree = |pass: &[Option<u64>; 32]| pass.iter().zip(&own).all(|(a, b)| a.is_none() || b.is_none() || a == b);
        let at = shared[..passes].iter().position(agree).unwrap_or(passes);
        passes = passes.max(at + 1);
        for (word, own) in shared[at].iter_mut().zip(own) {
            *word = word.or(own);
        }
    }
    total + passes as u64
}

impl Count {
    fn arrive(&mut self, at: At, meeting: Meeting, generation: u64) {
        let path = &self.paths[at.warp as usize];
        let last = self.arrived.entry(meeting).or_default();
        if last[0].0 != generation || last[0].1.executed.is_empty() {
            last.swap(0, 1);
            last[0] = (generation, path.clone());
        } else if path.length > last[0].1.length {
            last[0].1.clone_from(path);
        }
    }

    fn pass(&mut self, at: At, meeting: Meeting, generation: u64) {
        let path = &mut self.paths[at.warp as usize];
        let last = self.arrived.get(&meeting).into_iter().flatten();
        let longest = last.filter(|(of, _)| *of == generation).map(|(_, longest)| longest);
        if let Some(longest) = longest.max_by_key(|longest| longest.length).filter(|p| p.length > path.length) {
            path.clone_from(longest);
        }
    }

    /// The block's longest path joins the totals.
    fn end_block(&mut self) {
        if let Some(longest) = self.paths.drain(..).max_by_key(|path| path.length) {
            for (row, executed) in self.rows.iter_mut().zip(longest.executed) {
                row.longest += u64::from(executed);
            }
        }
    }

    /// The totals, and a row for every instruction.
    pub(crate) fn report(mut self, entry: &Entry, sources: &Sources) -> Counters {
        self.end_block();
        let [read, written] = self.launch.footprint.count();
        let mut out = Counters { distinct_read_sectors: read, distinct_write_sectors: written, ..Counters::default() };
        for ((row, site), inst) in self.rows.iter().zip(&entry.sites).zip(&entry.insts) {
            out.global_read_sectors += row.read_sectors;
            out.global_write_sectors += row.write_sectors;
            out.global_read_bytes += row.read_bytes;
            out.global_write_bytes += row.write_bytes;
            out.shared_wavefronts += row.wavefronts;
            out.shared_ideal_wavefronts += row.ideal;
            if row.executed > 0 {
                out.instructions.push(InstructionCount {
                    ptx_line: site.ptx_line,
                    instruction: site.text.clone(),
                    source: site.loc.map(|loc| sources.line(loc)),
                    called_from: site.loc.map_or_else(Vec::new, |loc| sources.calls(loc).collect()),
                    class: class(&inst.op),
                    executed: row.executed,
                    partial: row.partial,
                    matrix_fmas: row.executed * fmas(&inst.op),
                    longest: row.longest,
                    lanes: row.lanes,
                    global_read_sectors: row.read_sectors,
                    global_write_sectors: row.write_sectors,
                    global_read_bytes: row.read_bytes,
                    global_write_bytes: row.write_bytes,
                    shared_wavefronts: row.wavefronts,
                    shared_ideal_wavefronts: row.ideal,
                });
            }
        }
        out
    }
}

/// How long an instruction makes a path: 1, and for each eight columns of a warpgroup's product as much again, for the
/// products of one group follow one another and whoever needs them waits.
fn steps(op: &Op) -> u64 {
    match op {
        Op::Async(Async::Wgmma(m)) => 1 + u64::from(m.n / 8),
        _ => 1,
    }
}

/// Multiply-adds of one execution by one warp: 16 rows of a warpgroup's 64.
fn fmas(op: &Op) -> u64 {
    match op {
        Op::Matrix(Matrix::Mma { k, .. } | Matrix::MmaF16 { k, .. }) => 16 * 8 * u64::from(*k),
        Op::Matrix(Matrix::Tiled(t)) => u64::from(t.m) * u64::from(t.n) * u64::from(t.k),
        Op::Async(Async::Wgmma(m)) => 16 * u64::from(m.n) * u64::from(m.k),
        _ => 0,
    }
}
