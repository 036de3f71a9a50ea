//! Runs one launch: checks it against the kernel and the GPU, then runs its blocks in parallel.

use crate::api::{Check, Landing, Launch, Value};
use crate::check::{Full, Watch};
use crate::exec::block::{self, Grid, Scratch};
use crate::exec::count::{Count, Counted};
use crate::exec::footprint::Footprint;
use crate::exec::level::Level;
use crate::exec::observe::{Observer, Silent};
use crate::isa::entry::Entry;
use crate::isa::hopper::Async;
use crate::isa::inst::{Mem, Op, Space};
use crate::memory::global::Global;
use crate::memory::{Bytes, Memory};
use crate::module::Module;
use crate::report::Report;
use crate::report::finding::{Finding, Rule};
use crate::report::trap::{Fault, Trap};
use rayon::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Blocks of one launch: far more than a processor gets through.
const MOST_BLOCKS: u64 = 1 << 24;

fn refuse<T>(why: String) -> Result<T, Trap> {
    Err(Trap::new(Fault::Launch(why), None))
}

/// Runs a launch to its end.
///
/// # Errors
/// A [`Trap`] says what the kernel or the launch did wrong, and where. Of several blocks that trap, the first
/// in launch order is reported.
pub fn run(module: &Module, launch: &Launch<'_>, memory: &mut Memory) -> Result<Report, Trap> {
    let Some(entry) = module.entries.iter().find(|e| e.name == launch.entry) else {
        let known: Vec<_> = module.entries().collect();
        return refuse(format!("no entry `{}`; the module has {}", launch.entry, known.join(", ")));
    };
    check(module, entry, launch)?;
    let ready = Ready { module, entry, launch, params: parameters(entry, launch.args)? };
    if launch.check == Check::Full {
        return ready.checked(memory);
    }
    let report = ready.plain(memory, launch.landing, launch.order)?;
    for buffer in &mut memory.buffers {
        buffer.written = None;
    }
    Ok(report)
}

/// A launch that fits its kernel and the GPU.
struct Ready<'a> {
    module: &'a Module,
    entry: &'a Entry,
    launch: &'a Launch<'a>,
    params: Bytes,
}

impl Ready<'_> {
    fn pass<O: Observer>(
        &self,
        memory: &mut Memory,
        shared: &O::Launch,
        landing: Landing,
        order: Option<u64>,
    ) -> Pass<O> {
        let mut variables = self.module.variables();
        let global = Global::new(memory, &mut variables);
        let grid = Grid {
            entry: self.entry,
            sources: &self.module.sources,
            global: &global,
            params: &self.params,
            grid: self.launch.grid,
            block: self.launch.block,
            dynamic_shared: self.launch.shared_bytes,
            late: landing == Landing::Late,
            level: Level::detect(),
            sm: self.launch.limits.sm,
            instructions: self.launch.instructions,
        };
        blocks::<O>(&grid, shared, &shuffled(self.launch.grid, order))
    }

    fn plain(&self, memory: &mut Memory, landing: Landing, order: Option<u64>) -> Result<Report, Trap> {
        if self.launch.count {
            let instructions = self.entry.insts.len();
            let counted = Arc::new(Counted { instructions, footprint: Footprint::new(memory) });
            let Pass { ended, observer, printed } = self.pass::<Count>(memory, &counted, landing, order);
            let instructions = ended?;
            let counters = Some(observer.map(|c| c.report(self.entry, &self.module.sources)).unwrap_or_default());
            Ok(Report { instructions, counters, printed, ..Report::default() })
        } else {
            let Pass { ended, printed, .. } = self.pass::<Silent>(memory, &(), landing, order);
            Ok(Report { instructions: ended?, printed, ..Report::default() })
        }
    }

    /// A run under the full checks, and another with all that may vary varied.
    fn checked(&self, memory: &mut Memory) -> Result<Report, Trap> {
        let Launch { landing, order, count, .. } = *self.launch;
        let watch = Arc::new(Watch::new(self.entry, memory, self.launch));
        let copies = self.entry.insts.iter().any(|i| matches!(i.op, Op::Mem(Mem::CpAsync { .. }) | Op::Async(_)));
        let several = self.launch.grid != [1, 1, 1];
        // Blocks that meet in atomics may rightly give other bits each time: nothing to compare.
        let comparable = !several || !self.entry.insts.iter().any(|i| meets_others(&i.op));
        let before = ((copies || several) && comparable || count).then(|| memory.clone());
        let Pass { ended, observer, printed } = self.pass::<Full>(memory, &watch, landing, order);
        let (mut findings, left_out) = observer.map(|f| f.report(self.entry, &self.module.sources)).unwrap_or_default();
        let instructions = match ended {
            Ok(instructions) => instructions,
            Err(trap) => return Err(Trap { findings, ..trap }),
        };
        for (i, buffer) in memory.buffers.iter_mut().enumerate() {
            buffer.written = watch.written(i);
        }
        findings.extend(self.launch.outputs.iter().filter_map(|o| memory.unwritten(*o)));
        let mut report = Report { instructions, findings, left_out, counters: None, printed };
        // What is already known to be wrong would only show again.
        let Some(before) = before.filter(|_| report.findings.is_empty() || count) else { return Ok(report) };
        let other = match landing {
            Landing::Early => Landing::Late,
            Landing::Late => Landing::Early,
        };
        // Blocks that wait for one another come in the order they were given.
        let seed = if comparable { Some(order.map_or(1, |seed| seed.wrapping_add(1))) } else { order };
        let mut varied = before.clone();
        let again = self.plain(&mut varied, other, seed);
        if comparable && let Some(what) = difference(memory, &varied, &again) {
            // Which of the two it was, one more run tells.
            let by_order = several && {
                let mut reordered = before;
                let again = self.plain(&mut reordered, landing, seed);
                difference(memory, &reordered, &again).is_some()
            };
            let (rule, fix) = if by_order || !copies {
                (Rule::OrderDependent, "blocks of one launch must not exchange data except through atomics")
            } else {
                (Rule::LandingDependent, "wait for each asynchronous copy before its bytes are touched")
            };
            let (what, fix) = (what.clone(), fix.to_owned());
            report.findings.push(Finding { rule, what, place: None, other: None, also: Vec::new(), fix, times: 1 });
        }
        report.counters = again.ok().and_then(|r| r.counters);
        Ok(report)
    }
}

/// An operation through which blocks of one launch may exchange data.
fn meets_others(op: &Op) -> bool {
    match op {
        Op::Mem(Mem::Atom { space, .. } | Mem::Atom128 { space, .. } | Mem::AtomVector { space, .. }) => {
            *space != Space::Shared
        }
        Op::Async(Async::BulkOut { reduce, .. }) => reduce.is_some(),
        Op::Async(Async::TileOut { reduce, .. }) => reduce.is_some(),
        _ => false,
    }
}

/// How a second run differs from the first.
fn difference(first: &Memory, second: &Memory, again: &Result<Report, Trap>) -> Option<String> {
    if let Err(trap) = again {
        return Some(format!("a second run trapped: {trap}"));
    }
    let differs = first.buffers.iter().zip(&second.buffers).find(|(a, b)| a.bytes.as_slice() != b.bytes.as_slice());
    let (a, b) = differs?;
    let byte = a.bytes.as_slice().iter().zip(b.bytes.as_slice()).position(|(x, y)| x != y)?;
    Some(format!("byte {byte} of buffer `{}` came out differently", a.name))
}

/// What a run of blocks gives.
struct Pass<O> {
    /// Warp instructions.
    ended: Result<u64, Trap>,
    observer: Option<O>,
    printed: String,
}

impl<O: Observer> Pass<O> {
    const NOTHING: Self = Pass { ended: Ok(0), observer: None, printed: String::new() };

    /// The blocks after those that are in, unless one of these trapped.
    fn join(&mut self, next: Self) {
        let Ok(all) = self.ended else { return };
        match (&mut self.observer, next.observer) {
            (Some(all), Some(more)) => all.merge(more),
            (all, more) => *all = more.or(all.take()),
        }
        self.printed.push_str(&next.printed);
        self.ended = next.ended.map(|more| all + more);
    }
}

/// Parts of a grid that each thread takes, one after another: what is known of a part's blocks is one observer's, so
/// memory does not grow with the grid.
const PARTS: usize = 16;

/// Runs all blocks; the observers are merged in launch order, up to the first that trapped.
fn blocks<O: Observer>(grid: &Grid<'_>, launch: &O::Launch, order: &[usize]) -> Pass<O> {
    let [gx, gy, _] = grid.grid.map(|n| n as usize);
    // Once a block has trapped, the later ones need not run.
    let failed = AtomicUsize::new(usize::MAX);
    let each = order.len().div_ceil(rayon::current_num_threads() * PARTS).max(1);
    let parts: Vec<_> = order
        .par_chunks(each)
        .enumerate()
        .map_init(Scratch::default, |scratch, (part, blocks)| {
            let mut whole = Pass::<O>::NOTHING;
            for (at, &i) in (part * each..).zip(blocks) {
                if at > failed.load(Ordering::Relaxed) {
                    break;
                }
                let index = [i % gx, i / gx % gy, i / gx / gy].map(|n| n as u32);
                let (ended, observer, printed) = block::run::<O>(grid, launch, index, scratch);
                if ended.is_err() {
                    failed.fetch_min(at, Ordering::Relaxed);
                }
                whole.join(Pass { ended, observer: Some(observer), printed });
            }
            whole
        })
        .collect();
    let mut whole = Pass::NOTHING;
    for part in parts {
        whole.join(part);
    }
    whole
}

/// Block numbers in the order of launch.
fn shuffled(grid: [u32; 3], seed: Option<u64>) -> Vec<usize> {
    let n = grid.iter().map(|&d| d as usize).product();
    let mut order: Vec<usize> = (0..n).collect();
    if let Some(seed) = seed {
        // Fisher and Yates, with a splitmix64 stream.
        let mut state = seed;
        for i in (1..n).rev() {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            order.swap(i, ((z ^ (z >> 31)) % (i as u64 + 1)) as usize);
        }
    }
    order
}

fn check(module: &Module, entry: &Entry, launch: &Launch<'_>) -> Result<(), Trap> {
    let limits = launch.limits;
    let threads = launch.block.iter().map(|&n| u128::from(n)).product::<u128>();
    let [gx, gy, gz] = launch.grid;
    if threads == 0 || gx == 0 || gy == 0 || gz == 0 {
        return refuse("a grid or block dimension is 0".to_owned());
    }
    if threads > u128::from(limits.threads_per_block) || launch.block[2] > 64 {
        let most = limits.threads_per_block;
        return refuse(format!("block {:?} has {threads} threads; the GPU allows {most} (and 64 in z)", launch.block));
    }
    if gx > i32::MAX as u32 || gy > 65_535 || gz > 65_535 {
        return refuse(format!("grid {:?} exceeds 2147483647 x 65535 x 65535", launch.grid));
    }
    let blocks = u64::from(gx) * u64::from(gy) * u64::from(gz);
    if blocks > MOST_BLOCKS {
        return refuse(format!(
            "grid {:?} has {blocks} blocks; the virtual machine runs at most {MOST_BLOCKS}",
            launch.grid
        ));
    }
    let shared = u64::from(launch.shared_bytes) + u64::from(entry.shared_static);
    if shared > u64::from(limits.shared_per_block) {
        return refuse(format!(
            "{shared} bytes of shared memory ({} static, {} dynamic); the GPU allows {} per block",
            entry.shared_static, launch.shared_bytes, limits.shared_per_block
        ));
    }
    if let Some((most, exact)) = entry.threads {
        let most_threads: u128 = most.iter().map(|&n| u128::from(n)).product();
        if exact && most != launch.block || threads > most_threads {
            let word = if exact { "requires" } else { "allows at most" };
            return refuse(format!("block {:?}, but the kernel {word} {most:?} threads", launch.block));
        }
    }
    let (sm, bound) = module.target;
    if sm > limits.sm || bound && sm != limits.sm {
        let only = if bound { "only " } else { "" };
        return refuse(format!("code for {only}sm_{sm}, but the GPU is sm_{}", limits.sm));
    }
    Ok(())
}

/// The parameter block as the driver would lay it out.
fn parameters(entry: &Entry, args: &[Value]) -> Result<Bytes, Trap> {
    if args.len() != entry.params.len() {
        let each: Vec<String> = entry.params.iter().map(|(name, _, bytes)| format!("{name} ({bytes} bytes)")).collect();
        let (name, each) = (&entry.name, each.join(", "));
        return refuse(format!("{} arguments, but `{name}` takes {}: {each}", args.len(), entry.params.len()));
    }
    let end = entry.params.last().map_or(0, |(_, offset, bytes)| offset + bytes);
    let mut out = Bytes::filled(end as usize, 0);
    for (value, (name, offset, bytes)) in args.iter().zip(&entry.params) {
        let v = match value {
            Value::Pointer(v) => v.to_le_bytes().to_vec(),
            Value::I32(v) => v.to_le_bytes().to_vec(),
            Value::I64(v) => v.to_le_bytes().to_vec(),
            Value::F32(v) => v.to_le_bytes().to_vec(),
            Value::Bytes(v) => v.clone(),
        };
        if v.len() != *bytes as usize {
            return refuse(format!("argument for `{name}` has {} bytes, the parameter {bytes}", v.len()));
        }
        let at = *offset as usize;
        out.as_mut_slice()[at..at + v.len()].copy_from_slice(&v);
    }
    Ok(out)
}
