//! What a worker does with a candidate: compile it, run it on fresh inputs with poisoned outputs, hold the results
//! against the float64 reference, and only then look at its time.

mod without_gpu;

use crate::job::{Engine as Kind, Job};
use crate::model::{Constants, ConstantsError, Load};
use crate::outcome::{Metric, Outcome, Reason, SPILLED, Sample};
use crate::tallies::Tallies;
use crate::timing::Prepared;
use crate::worker::{Request, Step};
use gdn2_codegen::abi::{Extents, Tensor};
use gdn2_codegen::bind;
use gdn2_codegen::kernel::{Kernel, Pass};
use gdn2_codegen::record::Time;
use gdn2_codegen::schedule::Schedule;
use gdn2_dsl::Draw;
use gdn2_dsl::bars::{Bar, Verdict};
use gdn2_runtime::artifact::{Artifact, Compiler};
use gdn2_runtime::device::{Device, cuda, vm};
use gdn2_runtime::drawn::bars;
use gdn2_runtime::engine::{self, Run, RunError, Training};
use gdn2_runtime::judge::{Judged, judge};
use gdn2_runtime::nvrtc::NvrtcError;
use gdn2_runtime::problem::Problem;
use gdn2_runtime::tensors::{Case, CaseError};
use gdn2_runtime::toolchain::Nvdisasm;
use gdn2_vm::{Check, Report};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Tokens that results are checked over on a GPU.
const CHECKED_TOKENS: u32 = 512;

/// Samples of a measured time at the shortest look, and those before them that are thrown away: clocks rise, code and
/// tables are loaded.
const SAMPLES: usize = 20;
const WARM_UP: usize = 5;

/// Evaluates candidates of one job after another.
pub struct Evaluator {
    compiler: Compiler,
    disassembler: Option<Nvdisasm>,
    /// The last inputs and their exact results, for the next candidate of the same job and round.
    drawn: Option<Drawn>,
    constants: Option<Constants>,
    records: Option<PathBuf>,
    tallies: Tallies,
    gpu: Option<cuda::Cuda>,
    /// The last inputs that a time was taken with.
    timed: Option<(Job, Shape, Case)>,
    /// Kernels that were made ready for the clock, the last first: calls of other shapes find their blocks walked.
    prepared: Vec<(without_gpu::Key, Prepared)>,
}

/// Inputs with their exact results, and how far results may be from them, by the chunk they are made with.
struct Drawn {
    job: Job,
    shape: Shape,
    case: Case,
    bars: HashMap<Option<u32>, BTreeMap<Tensor, Bar>>,
}

/// Rows, tokens, heads and the seed of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Shape {
    batch: u32,
    tokens: u32,
    key_heads: u32,
    value_heads: u32,
    seed: u64,
}

impl Shape {
    fn draw(self) -> Draw {
        let Shape { batch, tokens, key_heads, value_heads, seed } = self;
        Draw::new(batch as usize, tokens as usize, key_heads as usize, value_heads as usize, seed)
    }

    fn extents(self) -> Extents {
        Extents {
            sequences: u64::from(self.batch),
            total_tokens: u64::from(self.batch) * u64::from(self.tokens),
            key_heads: u64::from(self.key_heads),
            value_heads: u64::from(self.value_heads),
        }
    }
}

impl Evaluator {
    /// An evaluator with a compiler of its own. `records` is the folder whose constants come before the shipped ones,
    /// `cache` the one that keeps counts.
    pub fn new(compiler: Compiler, records: Option<PathBuf>, cache: Option<&Path>) -> Evaluator {
        let tallies = Tallies::new(cache);
        Evaluator {
            compiler,
            disassembler: None,
            drawn: None,
            constants: None,
            records,
            tallies,
            gpu: None,
            timed: None,
            prepared: Vec::new(),
        }
    }

    /// The same with a disassembler, which predictions need.
    pub fn with_disassembler(self, disassembler: Option<Nvdisasm>) -> Evaluator {
        Evaluator { disassembler, ..self }
    }

    /// Answers a worker's request.
    pub fn answer(&mut self, request: &Request) -> Option<Outcome> {
        self.answer_with(request, |compiler, kernel| compiler.compile(kernel))
    }

    /// The same with another way to an artifact: how tests plant faults between generator and machine.
    pub fn answer_with(
        &mut self,
        request: &Request,
        compile: impl Fn(&Compiler, Kernel) -> Result<Artifact, NvrtcError>,
    ) -> Option<Outcome> {
        let job = &request.job;
        let artifact = match self.artifact(request, compile) {
            Ok(artifact) => artifact,
            Err(refused) => return Some(refused),
        };
        let outcome = match (request.step, job.engine) {
            (Step::Prepare, _) => return None,
            (Step::Evaluate, Kind::Model) => self.by_the_clock(request, &artifact),
            (Step::Check, Kind::Model) => self.counted(request, &artifact),
            (Step::Evaluate | Step::Check, Kind::Vm) => self.on_vm(request, &artifact),
            (Step::Evaluate | Step::Check, Kind::Cuda(ordinal)) => self.on_cuda(request, &artifact, ordinal),
        };
        Some(outcome.unwrap_or_else(|bad| bad))
    }

    fn artifact(
        &self,
        request: &Request,
        compile: impl Fn(&Compiler, Kernel) -> Result<Artifact, NvrtcError>,
    ) -> Result<Artifact, Outcome> {
        let Request { job, schedule, holder, .. } = request;
        let kernel = bind(&job.rule, job.pass, *schedule, job.arch)
            .map_err(|illegal| Outcome::invalid(Reason::Constraints, illegal))?;
        let artifact =
            compile(&self.compiler, kernel).map_err(|error| Outcome::invalid(Reason::Compile, first_lines(&error)))?;
        let spills = artifact.resources.iter().find(|entry| entry.spill_stores + entry.spill_loads > 0);
        if let Some(entry) = spills.filter(|_| !holder) {
            let detail = format!(
                "{} spills registers: {} bytes stored, {} bytes loaded at {} registers",
                entry.entry, entry.spill_stores, entry.spill_loads, entry.registers
            );
            return Err(Outcome::invalid(Reason::Constraints, detail));
        }
        Ok(artifact)
    }

    /// Results first, at a length whose reference is quick; then the time at the job's own shape, warm and cold.
    fn on_cuda(&mut self, request: &Request, artifact: &Artifact, ordinal: u32) -> Result<Outcome, Outcome> {
        let job = &request.job;
        let failed = |error: &dyn std::fmt::Display| Outcome::invalid(Reason::Runtime, first_lines(error));
        if self.gpu.is_none() {
            self.gpu = Some(cuda::Cuda::open(ordinal as usize).map_err(|error| failed(&error))?);
        }
        let Some(gpu) = self.gpu.clone() else { return Err(failed(&"no GPU")) };
        let device = Device::Cuda(gpu);
        let full = full(request);
        let small = Shape { batch: 1, tokens: full.tokens.min(CHECKED_TOKENS), ..full };
        self.checked(request, artifact, &device, small)?;
        if self.timed.as_ref().is_none_or(|(of, at, _)| of != job || *at != full) {
            let case = Case::drawn_inputs(&job.rule, &full.draw(), job.pass == Pass::Backward)
                .map_err(|error| failed(&error))?;
            self.timed = Some((job.clone(), full, case));
        }
        let Some((_, _, case)) = &self.timed else { return Err(failed(&"no case was drawn")) };
        let kernels = Kernels::of(&self.compiler, artifact).map_err(|error| failed(&error))?;
        let samples = SAMPLES * request.effort.repeats as usize;
        let sampled = |cold: bool| {
            let run = Run { repeats: WARM_UP + samples, cold, ..run(job, full, &device) };
            let ran = kernels.execute(&run, case).map_err(|error| failed(&error))?;
            let kept = ran.milliseconds.iter().skip(WARM_UP);
            Ok::<Time, Outcome>(summary(kept.map(|milliseconds| f64::from(*milliseconds) * 1e3).collect()))
        };
        let (warm, cold) = (sampled(false)?, sampled(true)?);
        let mut metrics = metrics(artifact);
        metrics.push(Metric { name: "time, cold cache".to_owned(), value: cold.micros, unit: "µs".to_owned() });
        Ok(Outcome::Correct(Sample { time: warm, metrics, launches: Vec::new() }))
    }

    fn constants(&mut self, gpu: &str) -> Result<Constants, ConstantsError> {
        match &self.constants {
            Some(constants) if constants.gpu == gpu => Ok(constants.clone()),
            _ => Ok(self.constants.insert(Constants::of(gpu, self.records.as_deref())?).clone()),
        }
    }

    /// Runs a shape, checks its results and returns each launch's work, all its blocks together; or what an earlier run of the same PTX
    /// on the same inputs came to.
    fn loads(&mut self, request: &Request, artifact: &Artifact, shape: Shape) -> Result<Vec<Load>, Outcome> {
        let key = Tallies::key(&request.job, artifact, &shape.draw());
        if let Some(loads) = self.tallies.get(key) {
            return Ok(loads);
        }
        let device = Device::Vm(vm::Settings { check: Check::Basic, count: true, ..vm::Settings::default() });
        let reports = self.checked(request, artifact, &device, shape)?;
        let mut reports = reports.iter();
        let mut loads = Vec::new();
        for launch in &artifact.kernel.launches {
            let report = if launch.when.holds(shape.extents()) { reports.next() } else { None };
            let counters = report.and_then(|report| report.counters.as_ref());
            loads.push(counters.map(|counters| Load::of(counters, 1)).unwrap_or_default());
        }
        self.tallies.put(key, &loads);
        Ok(loads)
    }

    /// Runs a case on a device and holds its results against the reference.
    fn checked(
        &mut self,
        request: &Request,
        artifact: &Artifact,
        device: &Device,
        shape: Shape,
    ) -> Result<Vec<Report>, Outcome> {
        let job = &request.job;
        let failed = |error: &dyn std::fmt::Display| Outcome::invalid(Reason::Runtime, first_lines(error));
        if self.drawn.as_ref().is_none_or(|drawn| drawn.job != *job || drawn.shape != shape) {
            let case = Case::drawn(&job.rule, &shape.draw(), matches!(job.pass, Pass::Backward));
            let case = case.map_err(|error| failed(&error))?;
            self.drawn = Some(Drawn { job: job.clone(), shape, case, bars: HashMap::new() });
        }
        let Some(Drawn { case, bars: known, .. }) = &mut self.drawn else {
            return Err(Outcome::invalid(Reason::Runtime, "no case was drawn"));
        };
        let schedule = artifact.kernel.schedule;
        let bars = match known.entry(schedule.chunk()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry
                .insert(bars(&job.rule, &shape.draw(), case, &schedule).map_err(|error: CaseError| failed(&error))?),
        };
        let kernels = Kernels::of(&self.compiler, artifact).map_err(|error| failed(&error))?;
        let ran = kernels.execute(&run(job, shape, device), case).map_err(|error| failed(&error))?;
        for (tensor, bar) in bars.iter() {
            let judged = judge(*tensor, &ran, case, *bar);
            let judged = judged.map_err(|error| Outcome::invalid(Reason::Correctness, error.to_string()))?;
            if let Some(Judged { deviation, verdict: Verdict::Failed, .. }) = judged {
                let detail = match deviation.unfit {
                    Some(index) => format!("{}: element {index} is NaN or was not written", tensor.name()),
                    None => format!("{}: error {:.3e}, bar {:.3e}", tensor.name(), deviation.relative, bar.bar),
                };
                return Err(Outcome::invalid(Reason::Correctness, detail));
            }
        }
        // Backward's own launches are the last; what forward kept for it is forward's time.
        let own = artifact.kernel.launches.iter().filter(|launch| launch.when.holds(shape.extents())).count();
        let others = ran.reports.len().saturating_sub(own);
        Ok(ran.reports.into_iter().skip(others).collect())
    }
}

/// What a pass runs: its kernel, and for backward the forward that keeps what it reads.
enum Kernels<'a> {
    Forward(&'a Artifact),
    Backward(Box<Training>),
}

impl Kernels<'_> {
    fn of<'a>(compiler: &Compiler, artifact: &'a Artifact) -> Result<Kernels<'a>, RunError> {
        let kernel = &artifact.kernel;
        if kernel.pass != Pass::Backward {
            return Ok(Kernels::Forward(artifact));
        }
        let keeping = |fields: String| {
            let schedule = Schedule::from_overrides(&kernel.rule, Pass::ForwardForBackward, kernel.arch, &fields)?;
            let forward = bind(&kernel.rule, Pass::ForwardForBackward, schedule, kernel.arch)?;
            Ok::<Artifact, RunError>(compiler.compile(forward)?)
        };
        let forward = kernel.keeping_forward().map(keeping).transpose()?;
        Ok(Kernels::Backward(Box::new(Training { forward, backward: artifact.clone() })))
    }

    fn execute(&self, run: &Run<'_>, case: &Case) -> Result<engine::Outcome, RunError> {
        let problem = Problem::new(run.rule, case)?;
        match self {
            Kernels::Forward(artifact) => engine::execute(run, Some(artifact), &problem),
            Kernels::Backward(training) => engine::gradients(run, Some(training), &problem),
        }
    }
}

fn run<'a>(job: &'a Job, shape: Shape, device: &'a Device) -> Run<'a> {
    Run { arch: Some(job.arch), tokens_per_launch: shape.tokens as usize, ..Run::new(&job.rule, job.pass, device) }
}

/// The job's own shape, inputs of the request's round.
fn full(request: &Request) -> Shape {
    let crate::job::Shape { batch, tokens, key_heads, value_heads } = request.job.shape;
    Shape { batch, tokens, key_heads, value_heads, seed: u64::from(request.effort.round) + 1 }
}

/// Median and half the interquartile range over it.
fn summary(mut micros: Vec<f64>) -> Time {
    micros.sort_by(f64::total_cmp);
    let at = |part: f64| micros.get((micros.len().saturating_sub(1) as f64 * part).round() as usize).copied();
    let (low, median, high) = (at(0.25), at(0.5), at(0.75));
    let median = median.unwrap_or(f64::INFINITY);
    Time { micros: median, spread: (high.unwrap_or(median) - low.unwrap_or(median)) / 2.0 / median }
}

fn metrics(artifact: &Artifact) -> Vec<Metric> {
    let mut metrics = Vec::new();
    let mut put = |name: String, value: u32, unit: &str| {
        metrics.push(Metric { name, value: f64::from(value), unit: unit.to_owned() });
    };
    for launch in &artifact.kernel.launches {
        if let Some(entry) = artifact.resources.iter().find(|entry| entry.entry == launch.entry) {
            put(format!("{} registers", launch.entry), entry.registers, "per thread");
            if entry.spill_stores + entry.spill_loads > 0 {
                put(SPILLED.to_owned(), entry.spill_stores + entry.spill_loads, "bytes");
            }
        }
        put(format!("{} threads", launch.entry), launch.block, "per block");
        put(format!("{} shared memory", launch.entry), launch.shared_bytes, "bytes");
    }
    metrics
}

/// What goes into a log line: compilers and traps can be long.
fn first_lines(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).take(4).collect();
    let mut short: String = lines.join(" | ").chars().take(400).collect();
    if short.len() < text.trim().len() {
        short.push_str(" …");
    }
    short
}
