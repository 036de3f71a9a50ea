//! A whole case on any device: storage, launches, results.

mod backward;
mod kernels;

pub use backward::{Kept, Training, forward_for_backward, gradients, gradients_from};

use crate::artifact::{Artifact, Compiler};
#[cfg(feature = "cpu")]
use crate::cpu;
#[cfg(feature = "cpu")]
use crate::device::Precision;
use crate::device::session::Session;
use crate::device::{Device, DeviceError, Report};
use crate::nvrtc::NvrtcError;
use crate::problem::Problem;
use crate::tensors::{Array, Case, CaseError};
use gdn2_codegen::abi::Tensor;
use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::{Illegal, Pass};
use gdn2_codegen::schedule::{Schedule, ScheduleError};
use gdn2_dsl::{Dtype, InputError, Rule};
use std::collections::BTreeMap;

/// What to run.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// Forward or decode.
    pub pass: Pass,
    /// Where.
    pub device: &'a Device,
    /// The architecture to generate for; `None` = the GPU's own, sm_80 on the virtual machine.
    pub arch: Option<Arch>,
    /// The schedule, or `field=number,…` over the built-in one; empty = the built-in one.
    pub schedule: &'a str,
    /// Decode: tokens per launch.
    pub tokens_per_launch: usize,
    /// Whether final states are asked for.
    pub final_state: bool,
    /// How often a GPU repeats the last call to time it.
    pub repeats: usize,
    /// Whether its level-two cache is overwritten before each repetition.
    pub cold: bool,
}

impl<'a> Run<'a> {
    /// A run with the built-in schedule, one token per decode launch, final states asked for.
    pub fn new(rule: &'a Rule, pass: Pass, device: &'a Device) -> Run<'a> {
        Run {
            rule,
            pass,
            device,
            arch: None,
            schedule: "",
            tokens_per_launch: 1,
            final_state: true,
            repeats: 0,
            cold: false,
        }
    }
}

/// What a run gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// `o`, and `final_state` where asked for, in the case's shapes.
    pub tensors: BTreeMap<Tensor, Array>,
    /// Gradients of what the rule names itself, by the names that case files give them: `d` and the name.
    pub named: BTreeMap<String, Array>,
    /// Architecture and schedule of the kernel; `None` on the CPU.
    pub kernel: Option<(Arch, Schedule)>,
    /// The virtual machine's report on each launch, in order.
    pub reports: Vec<Report>,
    /// Milliseconds of each repetition of the last call, on a GPU that was asked to time it.
    pub milliseconds: Vec<f32>,
}

/// Why a run gave nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The case does not fit the rule.
    #[error(transparent)]
    Case(#[from] CaseError),
    /// The schedule text was not understood.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The schedule cannot serve the rule on the architecture.
    #[error(transparent)]
    Illegal(#[from] Illegal),
    /// No compiler, or it refused.
    #[error(transparent)]
    Nvrtc(#[from] NvrtcError),
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The float64 definition does not take the case.
    #[error(transparent)]
    Definition(#[from] InputError),
    /// Slot tables, which serve inference.
    #[error("initial_slots and final_slots: backward takes no slot tables, give each sequence its own state")]
    Slots,
    /// A pass the engine does not run.
    #[error("pass {0:?} cannot be run on a case: use forward, decode or backward")]
    Pass(Pass),
}

/// Compiles and runs.
#[derive(Debug)]
pub struct Engine {
    compiler: Compiler,
}

impl Engine {
    /// An engine with this compiler.
    pub fn new(compiler: Compiler) -> Engine {
        Engine { compiler }
    }

    /// Its compiler.
    pub fn compiler(&self) -> &Compiler {
        &self.compiler
    }

    /// The compiled kernel of a run.
    ///
    /// # Errors
    /// The schedule is refused or nothing compiles it.
    pub fn artifact(&self, run: &Run<'_>) -> Result<Artifact, RunError> {
        let arch = run.arch.or(run.device.arch()).unwrap_or(Arch::Sm80);
        let schedule = Schedule::from_overrides(run.rule, run.pass, arch, run.schedule)?;
        let kernel = gdn2_codegen::bind(run.rule, run.pass, schedule, arch)?;
        Ok(self.compiler.compile(kernel)?)
    }

    /// Runs a case.
    ///
    /// # Errors
    /// The case does not fit the rule, the kernel cannot be made, or the device refuses it.
    pub fn run(&self, run: &Run<'_>, case: &Case) -> Result<Outcome, RunError> {
        let problem = Problem::new(run.rule, case)?;
        if run.pass == Pass::Backward {
            let training = match run.device.takes_kernels() {
                true => Some(self.training(run)?),
                false => None,
            };
            return gradients(run, training.as_ref(), &problem);
        }
        let artifact = match run.device.takes_kernels() {
            true => Some(self.artifact(run)?),
            false => None,
        };
        execute(run, artifact.as_ref(), &problem)
    }
}

/// Runs a problem through a kernel compiled before; the CPU needs none.
///
/// # Errors
/// A device that refuses the kernel or the call.
pub fn execute(run: &Run<'_>, artifact: Option<&Artifact>, problem: &Problem<'_>) -> Result<Outcome, RunError> {
    if !matches!(run.pass, Pass::Forward | Pass::Decode) {
        return Err(RunError::Pass(run.pass));
    }
    #[cfg(feature = "cpu")]
    if let Device::Cpu(precision) = run.device {
        return native(problem, *precision, run.final_state);
    }
    match artifact.map(|kernel| Session::on(run.device, kernel)).transpose()?.flatten() {
        Some(mut session) => kernels::run(&mut session, problem, run),
        None => Err(RunError::Pass(run.pass)),
    }
}

/// The native implementation: f32, or the definition in f64.
#[cfg(feature = "cpu")]
fn native(problem: &Problem<'_>, precision: Precision, final_state: bool) -> Result<Outcome, RunError> {
    let cpu::Outputs { o, final_state: state } = match precision {
        Precision::Single => cpu::forward(problem)?,
        Precision::Double => cpu::defined(problem)?,
    };
    let mut tensors = BTreeMap::from([(Tensor::O, array(problem, Tensor::O, o))]);
    if final_state {
        tensors.insert(Tensor::FinalState, array(problem, Tensor::FinalState, problem.rule().laid_out(state)));
    }
    Ok(Outcome { tensors, named: BTreeMap::new(), kernel: None, reports: Vec::new(), milliseconds: Vec::new() })
}

fn array(problem: &Problem<'_>, tensor: Tensor, data: Vec<f32>) -> Array {
    Array { shape: problem.shape(tensor), data, stored: Dtype::F32 }
}
