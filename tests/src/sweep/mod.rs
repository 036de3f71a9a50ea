//! The sweep: every rule with kernels of its own × head dims × architectures × passes, each in the schedules that a call
//! would get, on the virtual machine with every check on, against float64.
//!
//! Kernels whose PTX is the same but for its target and its debug lines run once. Verdicts are kept by the hash of that
//! PTX, so a change that leaves the kernels alone keeps them.

mod kept;
mod point;

pub use kept::{Kept, KeptError};
pub use point::{Point, points};

use crate::seed::mixed;
use gdn2_codegen::kernel::{Kernel, Pass};
use gdn2_codegen::render;
use gdn2_codegen::schedule::Schedule;
use gdn2_dsl::{Draw, Regime};
use gdn2_runtime::artifact::{Artifact, Compiler};
use gdn2_runtime::device::Device;
use gdn2_runtime::device::vm::Settings;
use gdn2_runtime::drawn::bars;
use gdn2_runtime::engine::{Outcome, Run, Training, execute, gradients};
use gdn2_runtime::judge::judge;
use gdn2_runtime::nvrtc::{Nvrtc, Options};
use gdn2_runtime::problem::Problem;
use gdn2_runtime::tensors::Case;
use gdn2_runtime::toolchain::Search;
use gdn2_vm::Check;

/// One of `of` equal parts of the points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Which, from 0.
    pub index: u64,
    /// Of how many.
    pub of: u64,
}

/// What became of a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Ran now and agrees.
    Passed,
    /// The same PTX was found good before.
    Known,
    /// Ran, and why it is no good.
    Failed(String),
}

impl std::str::FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Share, String> {
        let parsed = text.split_once('/').and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?)));
        match parsed {
            Some((index, of)) if index < of => Ok(Share { index, of }),
            _ => Err(format!("share: `{text}` is no I/N with I from 0 to N - 1, such as 17/120")),
        }
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

impl Share {
    /// Whether a point is of this share. Shares are cut by a hash, so that each has something of everything.
    pub fn takes(self, point: &Point) -> bool {
        point.number() % self.of == self.index
    }
}

/// Compiles and runs points.
#[derive(Debug)]
pub struct Sweep {
    compiler: Compiler,
}

impl Sweep {
    /// A sweep that compiles with the NVRTC that the project's tests use.
    ///
    /// # Errors
    /// None is found.
    pub fn new() -> Result<Sweep, String> {
        let compiler = Compiler::new(Search::from_environment(None, None));
        compiler.nvrtc().map_err(|error| error.to_string())?;
        Ok(Sweep { compiler })
    }

    /// Runs a point unless its PTX is known to be good.
    ///
    /// # Errors
    /// A file of verdicts that cannot be written.
    pub fn judge(&self, point: &Point, seed: u64, kept: &Kept) -> Result<Verdict, KeptError> {
        match self.compiled(point, kept) {
            Err(refusal) => Ok(Verdict::Failed(refusal)),
            Ok(Compiled { kernels: None, .. }) => Ok(Verdict::Known),
            Ok(Compiled { key, kernels: Some(kernels) }) => {
                let found = agrees(point, &kernels, seed);
                kept.note(&key, &point.to_string(), seed, found.as_ref().err().map(String::as_str))?;
                Ok(found.map_or_else(Verdict::Failed, |()| Verdict::Passed))
            }
        }
    }

    /// The point's kernels, backward's with the forward pass that keeps its states, and the key of their PTX.
    fn compiled(&self, point: &Point, kept: &Kept) -> Result<Compiled, String> {
        let bind = |pass, schedule| gdn2_codegen::bind(&point.rule, pass, schedule, point.arch);
        let last = bind(point.pass, point.schedule).map_err(|illegal| illegal.to_string())?;
        let mut kernels = Vec::new();
        if let Some(schedule) = last.keeping_forward() {
            let pass = Pass::ForwardForBackward;
            let schedule = Schedule::from_overrides(&point.rule, pass, point.arch, &schedule);
            let schedule = schedule.map_err(|error| error.to_string())?;
            kernels.push(bind(pass, schedule).map_err(|illegal| illegal.to_string())?);
        }
        kernels.push(last);
        let nvrtc = self.compiler.nvrtc().map_err(|error| error.to_string())?;
        let mut hasher = blake3::Hasher::new();
        let mut texts = Vec::new();
        for kernel in &kernels {
            let source = render(kernel).text;
            let named = kept::source_key(&source, kernel.arch, nvrtc.version());
            let (text, key) = match kept.ptx_of(&named) {
                Some(key) => (None, key),
                None => {
                    let text = ptx(nvrtc, kernel, &source)?;
                    let key = kept::ptx_key(&text);
                    kept.note_ptx(&named, &key).map_err(|error| error.to_string())?;
                    (Some(text), key)
                }
            };
            hasher.update(key.as_bytes());
            texts.push(text);
        }
        let key = kept::short(&hasher.finalize());
        if kept.knows(&key) {
            return Ok(Compiled { key, kernels: None });
        }
        let artifact = |(kernel, text): (Kernel, Option<String>)| {
            let text = text.map_or_else(|| ptx(nvrtc, &kernel, &render(&kernel).text), Ok)?;
            Ok(Artifact::from_ptx(kernel, text))
        };
        let kernels = kernels.into_iter().zip(texts).map(artifact).collect::<Result<Vec<_>, String>>()?;
        Ok(Compiled { key, kernels: Some(kernels) })
    }
}

struct Compiled {
    key: String,
    /// None where the key is known.
    kernels: Option<Vec<Artifact>>,
}

/// PTX alone, for the virtual architecture: machine code takes the longer half of a compilation, and nobody runs it here.
///
/// # Errors
/// A text that does not compile.
pub fn ptx(nvrtc: &Nvrtc, kernel: &Kernel, text: &str) -> Result<String, String> {
    let target = kernel.arch.target().replace("sm_", "compute_");
    let options = Options { line_info: false, ..Options::default() };
    let compiled = nvrtc.compile(text, &target, &options).map_err(|error| error.to_string())?;
    Ok(compiled.ptx)
}

/// Two whole chunks and a ragged one, a single token and an empty sequence; gates, keys and heads as the seed has them.
fn draw(point: &Point, seed: u64) -> Draw {
    let chance = |of: u64, in_all: u64| (seed >> (4 * of)).is_multiple_of(in_all);
    let chunk = point.schedule.chunk().unwrap_or(2) as usize;
    let long = 2 * chunk + 1 + (seed >> 32) as usize % (chunk - 1).max(1);
    let regime = [Regime::None, Regime::Mild, Regime::Strong, Regime::Reset][(seed % 4) as usize];
    Draw {
        cu_seqlens: Some(vec![0, 1, 1, 1 + long]),
        regime,
        near_identical_keys: chance(1, 4),
        largest_erase: if chance(2, 4) { 2.0 } else { 1.0 },
        initial_state: !chance(3, 8),
        ..Draw::new(1, 1 + long, 1, if chance(4, 4) { 2 } else { 1 }, seed)
    }
}

/// Every output of the point's kernels within the draw's bars, and no finding.
fn agrees(point: &Point, kernels: &[Artifact], seed: u64) -> Result<(), String> {
    let seed = mixed(seed, point.number());
    let draw = draw(point, seed);
    let case = Case::drawn(&point.rule, &draw, point.pass == Pass::Backward).map_err(|error| error.to_string())?;
    let outcome = run(point, kernels, &case)?;
    if let Some(finding) = outcome.reports.iter().flat_map(|report| &report.findings).next() {
        return Err(finding.to_string());
    }
    for (tensor, bar) in bars(&point.rule, &draw, &case, &point.schedule).map_err(|error| error.to_string())? {
        let judged = judge(tensor, &outcome, &case, bar).map_err(|error| error.to_string())?;
        if let Some(judged) = judged.filter(|judged| judged.verdict == gdn2_dsl::bars::Verdict::Failed) {
            return Err(format!("{judged:?}, {draw:?}"));
        }
    }
    Ok(())
}

fn run(point: &Point, kernels: &[Artifact], case: &Case) -> Result<Outcome, String> {
    let device = Device::Vm(Settings { check: Check::Full, ..Settings::default() });
    let tokens_per_launch = 3;
    let run = Run { arch: Some(point.arch), tokens_per_launch, ..Run::new(&point.rule, point.pass, &device) };
    let problem = Problem::new(&point.rule, case).map_err(|error| error.to_string())?;
    let outcome = match kernels {
        [forward, backward] => {
            let training = Training { forward: Some(forward.clone()), backward: backward.clone() };
            gradients(&run, Some(&training), &problem)
        }
        [backward] if point.pass == Pass::Backward => {
            gradients(&run, Some(&Training { forward: None, backward: backward.clone() }), &problem)
        }
        [kernel, ..] => execute(&run, Some(kernel), &problem),
        [] => return Err("no kernel".to_owned()),
    };
    outcome.map_err(|error| error.to_string())
}
