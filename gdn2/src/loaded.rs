//! A rule's kernels on one device. The generated modules are thin over this.

use std::fmt;
use std::sync::Arc;

use crate::call::{Call, swapped};
use crate::error::Error;
use crate::view::Tensor;
use gdn2_codegen::abi::Tensor as Name;
use gdn2_codegen::arch::Arch;
use gdn2_codegen::committed::PASSES;
use gdn2_codegen::kernel::{CudaSource, Pass};
use gdn2_codegen::schedule::Schedule;
use gdn2_dsl::{Dtype, Rule};
use gdn2_runtime::artifact::{Artifact, Compiler};
use gdn2_runtime::device::Device;
use gdn2_runtime::engine::{self, Engine, Run, RunError};
use gdn2_runtime::nvrtc::NvrtcError;
use gdn2_runtime::problem::Problem;
use gdn2_runtime::tensors::{Array, Case};
use gdn2_runtime::toolchain::Search;

/// One pass of a rule as the macro embeds it.
#[derive(Clone, Copy, Debug)]
pub struct Embedded {
    /// The pass.
    pub pass: Pass,
    /// The fallback schedule, which fits every architecture that can hold the rule's head dims.
    pub schedule: &'static str,
    /// CUDA text of the pass in that schedule.
    pub cuda: &'static str,
    /// PTX compiled ahead, by architecture, each in the built-in schedule of its architecture.
    pub ptx: &'static [(Arch, &'static str)],
}

/// What a forward call gives.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Output {
    /// `[B,T,HV,V]`, in the rule's dtype.
    pub o: Tensor,
    /// `[N,HV,K,V]` in the rule's layout, f32.
    pub final_state: Tensor,
}

/// Kernels on a device: cheap to clone, shared between threads.
#[derive(Clone)]
pub struct Loaded {
    shared: Arc<Shared>,
}

struct Shared {
    rule: Rule,
    device: Device,
    kernels: Vec<Artifact>,
}

/// The architecture whose PTX every later one understands, and that the virtual machine stands in for.
const OLDEST: Arch = Arch::Sm80;

impl Loaded {
    /// Makes every embedded pass ready for the device.
    ///
    /// # Errors
    /// Kernels that the device cannot hold, or a compiler that is needed and missing.
    pub fn new(rule: Rule, embedded: &[Embedded], device: &Device) -> Result<Loaded, Error> {
        let compiler = Compiler::new(Search::from_environment(None, None));
        let kernels = match device {
            Device::Cpu(_) => Vec::new(),
            Device::Vm(_) | Device::Cuda(_) => {
                let arch = device.arch().unwrap_or(OLDEST);
                let ready = |entry: &Embedded| entry.artifact(&rule, arch, &compiler);
                embedded.iter().map(ready).collect::<Result<Vec<_>, RunError>>()?
            }
        };
        Ok(Loaded { shared: Arc::new(Shared { rule, device: device.clone(), kernels }) })
    }

    /// Generates every pass of a rule that is known only at run time, in its built-in schedule.
    ///
    /// # Errors
    /// As [`Loaded::new`].
    pub fn generate(rule: Rule, device: &Device) -> Result<Loaded, Error> {
        let engine = Engine::new(Compiler::new(Search::from_environment(None, None)));
        let kernels = match device {
            Device::Cpu(_) => Vec::new(),
            Device::Vm(_) | Device::Cuda(_) => {
                let ready = |pass| engine.artifact(&Run::new(&rule, pass, device));
                PASSES.into_iter().map(ready).collect::<Result<Vec<_>, RunError>>()?
            }
        };
        Ok(Loaded { shared: Arc::new(Shared { rule, device: device.clone(), kernels }) })
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.shared.device
    }

    /// The chunked forward pass.
    ///
    /// # Errors
    /// The first input that does not fit.
    pub fn forward(&self, call: Call<'_>) -> Result<Output, Error> {
        let rule = &self.shared.rule;
        let results = self.run(Pass::Forward, &call.case(rule))?;
        let o = Tensor::from_f32(&results.o.shape, results.o.data, rule.dtype)?;
        let state = swapped(rule, results.final_state);
        Ok(Output { o, final_state: Tensor::from_f32(&state.shape, state.data, Dtype::F32)? })
    }

    /// One token or a short run of them; the states of the pool are read and written in place.
    ///
    /// # Errors
    /// The first input that does not fit.
    pub fn decode(&self, state: &mut Tensor, slots: Option<&[i32]>, call: Call<'_>) -> Result<Tensor, Error> {
        let rule = &self.shared.rule;
        if state.dtype() != Dtype::F32 {
            return Err(Error::StateDtype(state.dtype()));
        }
        let call = Call { initial_state: Some(state.view()), ..call };
        let slots = slots.map(<[i32]>::to_vec);
        let case = Case { initial_slots: slots.clone(), final_slots: slots, ..call.case(rule) };
        let results = self.run(Pass::Decode, &case)?;
        let pool = swapped(rule, results.final_state);
        *state = Tensor::from_f32(&pool.shape, pool.data, Dtype::F32)?;
        Tensor::from_f32(&results.o.shape, results.o.data, rule.dtype)
    }

    fn run(&self, pass: Pass, case: &Case) -> Result<Results, Error> {
        let Shared { rule, device, kernels } = &*self.shared;
        let problem = Problem::new(rule, case).map_err(RunError::from)?;
        let run = Run { tokens_per_launch: usize::MAX, ..Run::new(rule, pass, device) };
        let artifact = kernels.iter().find(|artifact| artifact.kernel.pass == pass);
        let mut tensors = engine::execute(&run, artifact, &problem)?.tensors;
        let mut take =
            |name| tensors.remove(&name).unwrap_or(Array { shape: Vec::new(), data: Vec::new(), stored: Dtype::F32 });
        Ok(Results { o: take(Name::O), final_state: take(Name::FinalState) })
    }
}

/// What the engine gives for every call: it was asked for both.
struct Results {
    o: Array,
    final_state: Array,
}

impl Embedded {
    /// The pass for an architecture: compiled ahead of time where that was done, else now, or earlier and cached. Where
    /// no compiler is found, PTX of the oldest architecture serves the newer ones that can hold its schedule.
    fn artifact(&self, rule: &Rule, arch: Arch, compiler: &Compiler) -> Result<Artifact, RunError> {
        if let Some(ready) = self.compiled(rule, arch, arch)? {
            return Ok(ready);
        }
        let schedule = Schedule::from_overrides(rule, self.pass, arch, self.schedule)?;
        let kernel = gdn2_codegen::bind(rule, self.pass, schedule, arch)?;
        match compiler.compile_source(kernel, CudaSource::new(self.cuda.to_owned())) {
            Ok(artifact) => Ok(artifact),
            Err(missing @ NvrtcError::Missing { .. }) => {
                self.compiled(rule, OLDEST, arch).ok().flatten().ok_or(missing.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The PTX made for one architecture, to run on another.
    fn compiled(&self, rule: &Rule, made_for: Arch, arch: Arch) -> Result<Option<Artifact>, RunError> {
        let Some((_, ptx)) = self.ptx.iter().find(|(compiled_for, _)| *compiled_for == made_for) else {
            return Ok(None);
        };
        let schedule = Schedule::default_for(rule, self.pass, made_for)?;
        let kernel = gdn2_codegen::bind(rule, self.pass, schedule, arch)?;
        Ok(Some(Artifact::from_ptx(kernel, (*ptx).to_owned())))
    }
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { rule, device, kernels } = &*self.shared;
        let schedules: Vec<String> =
            kernels.iter().map(|k| format!("{:?} {}", k.kernel.pass, k.kernel.schedule)).collect();
        f.debug_struct("Loaded").field("rule", &rule.name).field("device", device).field("kernels", &schedules).finish()
    }
}
