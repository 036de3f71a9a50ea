//! A generated kernel's time by the clock: its launches walked and simulated from machine code, at two lengths where the
//! call is long, with a straight line from there on.

mod call;

pub use call::{argument, launches_of};

use crate::job::Shape;
use crate::model::{Constants, ConstantsError};
use crate::published::{self, Bands, FitError, Kind, Learnt, Pattern};
use call::{call, launches, named_bytes};
use gdn2_clock::gpu::{Explanation, Gpu, GpuError, Latencies, Limits};
use gdn2_clock::kernel::{ClockError, Clocks, Decided, Kernel as Machine, RoleTime, Sample, roles};
use gdn2_clock::launch::Launch;
use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::Kernel;
use gdn2_runtime::artifact::Artifact;
use gdn2_runtime::raw::RawError;
use std::collections::HashMap;

/// Chunks of each segment in the shorter of the two lengths that are simulated; the other is twice as long.
const SHORT_RUN: u32 = 4;

/// Why a kernel has no time.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TimingError {
    /// What the clock says.
    #[error("{entry}: {source}")]
    Clock {
        /// The launch.
        entry: String,
        /// Why.
        source: ClockError,
    },
    /// The GPU's constants.
    #[error(transparent)]
    Constants(#[from] ConstantsError),
    /// The architecture's latencies.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// A call that makes no launches.
    #[error(transparent)]
    Raw(#[from] RawError),
    /// What published times say.
    #[error(transparent)]
    Published(#[from] FitError),
    /// Prebuilt PTX alone.
    #[error("no machine code: the clock needs NVRTC and nvdisasm; get both with `gdn2 toolchain install`")]
    NoMachineCode,
}

/// One launch.
#[derive(Clone, Debug, PartialEq)]
pub struct LaunchTime {
    /// Its entry.
    pub entry: String,
    /// Blocks.
    pub blocks: u64,
    /// Blocks resident on a multiprocessor.
    pub resident: u32,
    /// Microseconds with everything, under the faster explanation,
    pub low: f64,
    /// and under the slower.
    pub high: f64,
    /// Bytes that it must move through memory.
    pub bytes: f64,
    /// What decides,
    pub decided: Decided,
    /// and whose errors its own are like.
    pub kind: Kind,
    /// Waves of the grid.
    pub waves: u64,
    /// Clocks by explanation, as published rows and logs keep them.
    pub clocks: published::Launch,
    /// Roles and what they wait for, under the slower explanation.
    pub roles: Vec<RoleTime>,
    /// What was assumed.
    pub notes: Vec<String>,
}

/// A call.
#[derive(Clone, Debug, PartialEq)]
pub struct Timing {
    /// Its launches in order.
    pub launches: Vec<LaunchTime>,
    /// How far predictions may be off.
    pub bands: Bands,
}

impl Timing {
    /// Microseconds under the faster and the slower explanation of a warpgroup's products.
    pub fn explained(&self) -> (f64, f64) {
        let sum = |of: fn(&LaunchTime) -> f64| self.launches.iter().map(of).sum();
        (sum(|launch| launch.low), sum(|launch| launch.high))
    }

    /// The middle of both.
    pub fn micros(&self) -> f64 {
        let (fast, slow) = self.explained();
        (fast * slow).sqrt()
    }

    /// How far the middle may be off, as published times of kernels of the kind of the longest launch are.
    pub fn band(&self) -> f64 {
        self.decided().map_or(0.0, |launch| self.bands.of(launch.kind))
    }

    /// The least that it may take: the faster explanation, or the middle as far off as published times are.
    pub fn low(&self) -> f64 {
        self.explained().0.min(self.micros() / (1.0 + self.band()))
    }

    /// The most that it may take.
    pub fn high(&self) -> f64 {
        self.explained().1.max(self.micros() * (1.0 + self.band()))
    }

    /// The longest launch.
    pub fn decided(&self) -> Option<&LaunchTime> {
        self.launches.iter().max_by(|a, b| a.high.total_cmp(&b.high))
    }
}

/// Blocks resident on a multiprocessor at most: CUDA C++ Programming Guide, "Technical Specifications per Compute
/// Capability".
fn most_blocks(arch: Arch) -> u32 {
    match arch {
        Arch::Sm80 | Arch::Sm90a => 32,
        Arch::Sm86 => 16,
        Arch::Sm89 | Arch::Sm120 => 24,
    }
}

/// The GPU that a file of constants describes.
///
/// # Errors
/// An architecture without latencies.
pub fn gpu(constants: &Constants) -> Result<Gpu, GpuError> {
    let get = |name: &str| constants.get(name);
    let limits = constants.arch.limits();
    Ok(Gpu {
        latency: Latencies::of(constants.arch.target())?,
        sms: constants.multiprocessors(),
        clock: get("clock"),
        dram: get("dram_bytes") * 1e3,
        l2: get("l2_bytes"),
        launch: get("launch"),
        mma: get("mma"),
        wgmma: get("wgmma"),
        float_lanes: get("float_lanes"),
        integer_lanes: get("integer_lanes"),
        convert_lanes: get("convert_lanes"),
        special_lanes: get("special_lanes"),
        shared_passes: get("shared_wavefronts"),
        limits: Limits {
            registers: limits.registers_per_block,
            register_granule: limits.register_granule,
            shared: limits.shared_per_sm,
            shared_reserved: limits.shared_reserved,
            threads: limits.threads_per_sm,
            blocks: most_blocks(constants.arch),
        },
    })
}

/// A fingerprint of everything that simulated clocks rest on besides machine code: rates, latencies, limits.
pub fn fingerprint(gpu: &Gpu) -> String {
    let mut hash = blake3::hash(format!("{gpu:?}").as_bytes()).to_hex().to_string();
    hash.truncate(16);
    hash
}

/// A compiled kernel made ready for the clock: its machine code read once; blocks walked and simulated once for every kind
/// of grid.
pub struct Prepared {
    kernel: Kernel,
    machines: Vec<Machine>,
    gpu: Gpu,
    learnt: Learnt,
    /// Whether to simulate the data sheet's rate of a warpgroup's products beside both explanations.
    data_sheet: bool,
    walked: HashMap<Walked, (Launch, Sample)>,
}

/// What the blocks of a dense grid depend on: the launch, tokens of a sequence, heads that share sectors of scalars, value
/// heads of a key head. More sequences, or more heads, are more blocks alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Walked {
    place: usize,
    tokens: u32,
    heads: u32,
    grouped: u32,
    one_sequence: bool,
}

/// Heads beyond which each head's scalars lie in sectors of their own: 32 bytes of 16-bit numbers.
const HEADS_APART: u32 = 16;

impl Prepared {
    /// Reads a kernel's machine code. `disassembly` is what `nvdisasm -c -hex` says of it.
    ///
    /// # Errors
    /// No machine code, constants that are not there.
    pub fn new(artifact: &Artifact, disassembly: &str, constants: &Constants) -> Result<Prepared, TimingError> {
        let kernel = artifact.kernel.clone();
        let cubin = artifact.cubin.as_ref().ok_or(TimingError::NoMachineCode)?;
        let mut machines = Vec::new();
        for launch in &kernel.launches {
            let wrong = |source| TimingError::Clock { entry: launch.entry.clone(), source };
            machines.push(Machine::read(cubin, disassembly, Some(&launch.entry)).map_err(wrong)?);
        }
        let (gpu, learnt) = (gpu(constants)?, Learnt::of(constants)?);
        Ok(Prepared { kernel, machines, gpu, learnt, data_sheet: false, walked: HashMap::new() })
    }

    /// The same, simulating also the data sheet's rate of a warpgroup's products: what a refit goes back to.
    pub fn with_data_sheet(self) -> Prepared {
        Prepared { data_sheet: true, ..self }
    }

    /// Times a call: dense rows, or packed sequences of some lengths. Where rows are long two shorter ones are simulated,
    /// and a straight line goes on from them.
    ///
    /// # Errors
    /// A kernel that the clock cannot walk.
    pub fn time(&mut self, shape: Shape, lengths: &[u32]) -> Result<Timing, TimingError> {
        let short = SHORT_RUN * self.kernel.schedule.chunk().unwrap_or(1) * self.kernel.schedule.segments();
        let runs = match lengths.is_empty() && shape.tokens > 2 * short {
            true => vec![short, 2 * short],
            false => vec![shape.tokens],
        };
        let full = call(&self.kernel.rule, shape, lengths, &self.kernel);
        let shorter = call(
            &self.kernel.rule,
            Shape { tokens: runs.first().copied().unwrap_or(shape.tokens), ..shape },
            &[],
            &self.kernel,
        );
        let shorter = launches(&self.kernel, &shorter, &[])?;
        let mut times = Vec::new();
        for (place, (index, whole)) in launches(&self.kernel, &full, lengths)?.into_iter().enumerate() {
            let (Some(launch), Some(_)) = (self.kernel.launches.get(index), self.machines.get(index)) else { continue };
            let entry = launch.entry.clone();
            let wrong = |source| TimingError::Clock { entry: entry.clone(), source };
            // More blocks of the same length, not longer ones: these are walked as they are.
            let grows = shorter.get(place).is_some_and(|(_, short)| short.blocks() != whole.blocks());
            let runs: &[u32] = if grows { &[shape.tokens] } else { &runs };
            let (mut samples, mut of_packed) = (Vec::new(), Vec::new());
            for tokens in runs {
                if lengths.is_empty() {
                    samples.push(self.walk(place, index, Shape { tokens: *tokens, ..shape })?);
                } else if let Some(machine) = self.machines.get(index) {
                    of_packed.push((whole.clone(), machine.sample(&whole).map_err(wrong)?));
                }
            }
            let samples: Vec<&(Launch, Sample)> = match lengths.is_empty() {
                true => samples.iter().filter_map(|key| self.walked.get(key)).collect(),
                false => of_packed.iter().collect(),
            };
            let Some(machine) = self.machines.get(index) else { continue };
            let along = |values: &[f64]| match (values, runs) {
                ([a, b], [from, to]) => {
                    let each = (b - a) / f64::from(to - from);
                    (b + each * f64::from(shape.tokens - to)).max(0.0)
                }
                _ => values.last().copied().unwrap_or(0.0),
            };
            let blocks = whole.blocks();
            let each_block: Vec<f64> = samples.iter().map(|(_, sample)| sample.block_bytes()).collect();
            let moved = along(&each_block) * blocks as f64;
            let bytes = moved.min(named_bytes(&full, shape, &self.kernel, index)?);
            let under = |explanation| -> Result<Option<(f64, Clocks)>, TimingError> {
                let mut totals = Vec::new();
                let mut last = None;
                for (short, sample) in &samples {
                    let clocks = machine.clocks(short, sample, blocks, &self.gpu, explanation).map_err(wrong)?;
                    totals.push(clocks.total);
                    last = Some(clocks);
                }
                Ok(last.map(|last| (along(&totals), last)))
            };
            let pattern = Pattern::of(moved, bytes);
            let mut clocks = published::Launch {
                kernel: entry.clone(),
                data_sheet: 0.0,
                pipe: Vec::new(),
                chain: Vec::new(),
                bytes,
                pattern,
            };
            let mut explained = Vec::new();
            for explanation in explanations(machine, &self.learnt) {
                let Some((total, last)) = under(explanation)? else { continue };
                match explanation {
                    Explanation::DataSheet => clocks.data_sheet = total,
                    Explanation::Pipe(times) => clocks.pipe.push((times, total)),
                    Explanation::Chain(times) => clocks.chain.push((times, total)),
                }
                explained.push((total / self.gpu.clock, last));
            }
            if self.data_sheet && machine.uses_wgmma() {
                clocks.data_sheet = under(Explanation::DataSheet)?.map_or(0.0, |(total, _)| total);
            }
            let memory = bytes / (self.gpu.dram * self.learnt.fit.attained(pattern));
            explained.sort_by(|a, b| a.0.total_cmp(&b.0));
            let (Some((low, _)), Some((high, slower))) = (explained.first(), explained.last()) else { continue };
            let decided = match () {
                () if high.max(memory) < self.gpu.launch => Decided::Launch,
                () if memory > *high => Decided::Memory,
                () => slower.decided(),
            };
            times.push(LaunchTime {
                entry,
                blocks,
                resident: slower.resident,
                waves: slower.waves,
                low: low.max(memory) + self.gpu.launch,
                high: high.max(memory) + self.gpu.launch,
                bytes,
                decided,
                kind: kind(machine, memory > *high),
                clocks,
                roles: roles(&slower.roles),
                notes: samples.iter().flat_map(|(_, sample)| sample.notes().into_keys()).collect(),
            });
        }
        Ok(Timing { launches: times, bands: self.learnt.bands })
    }

    /// The blocks of a dense launch, walked when they are first asked for.
    fn walk(&mut self, place: usize, index: usize, shape: Shape) -> Result<Walked, TimingError> {
        let key = Walked {
            place,
            tokens: shape.tokens,
            heads: shape.value_heads.min(HEADS_APART),
            grouped: shape.value_heads / shape.key_heads.max(1),
            one_sequence: shape.batch == 1,
        };
        if !self.walked.contains_key(&key) {
            let call = call(&self.kernel.rule, shape, &[], &self.kernel);
            let (Some((_, launch)), Some(machine)) =
                (launches(&self.kernel, &call, &[])?.into_iter().nth(place), self.machines.get(index))
            else {
                return Ok(key);
            };
            let wrong = |source| TimingError::Clock { entry: machine.entry.name.clone(), source };
            let sample = machine.sample(&launch).map_err(wrong)?;
            self.walked.insert(key, (launch, sample));
        }
        Ok(key)
    }
}

/// The explanations of a kernel's products that its time is predicted under.
pub fn explanations(machine: &Machine, learnt: &Learnt) -> Vec<Explanation> {
    match machine.uses_wgmma() {
        true => Explanation::both(learnt.fit.wgmma_surplus).to_vec(),
        false => vec![Explanation::DataSheet],
    }
}

/// Whose errors a launch's are like.
pub fn kind(machine: &Machine, by_memory: bool) -> Kind {
    match (by_memory, machine.uses_wgmma()) {
        (true, _) => Kind::Memory,
        (false, true) => Kind::Wgmma,
        (false, false) => Kind::Mma,
    }
}
