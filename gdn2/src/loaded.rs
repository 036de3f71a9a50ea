//! A rule's kernels on one device. The generated modules are thin over this.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::call::{Call, array, swapped};
use crate::embedded::{Embedded, Explanation, OLDEST, Origin};
use crate::error::Error;
use crate::training::{OnGpu, Scratch, Trained};
use crate::view::{Tensor, View};
use gdn2_codegen::abi::Tensor as Name;
use gdn2_codegen::kernel::Pass;
use gdn2_dsl::{Dtype, Rule};
use gdn2_runtime::artifact::{Artifact, Compiler};
use gdn2_runtime::device::{Device, cuda};
use gdn2_runtime::engine::{self, Engine, Run, RunError, Training};
use gdn2_runtime::problem::Problem;
use gdn2_runtime::raw::Arguments;
use gdn2_runtime::tensors::{Array, Case};
use gdn2_runtime::toolchain::Search;

/// What a forward call gives.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Output {
    /// `[B,T,HV,V]`, in the rule's dtype.
    pub o: Tensor,
    /// `[N,HV,K,V]` in the rule's layout, f32.
    pub final_state: Tensor,
}

/// What the kernels of every rule have: a device, an explanation, raw calls. Each generated `Kernels` derefs to it.
#[derive(Clone)]
pub struct Loaded {
    shared: Arc<Shared>,
}

struct Shared {
    rule: Rule,
    device: Device,
    kernels: Vec<Ready>,
    /// What the kernels of training are made from, and these, once they were asked for.
    source: Source,
    training: OnceLock<Trained>,
}

/// Where kernels that are made later come from.
enum Source {
    Embedded(&'static [Embedded]),
    Generator(Box<Engine>),
}

/// A pass that is ready to run.
struct Ready {
    artifact: Artifact,
    origin: Origin,
    /// Its functions, where the device is a GPU.
    gpu: Option<cuda::Loaded>,
}

/// The passes that are made ready on load; those of training wait until they are asked for.
const INFERENCE: [Pass; 2] = [Pass::Forward, Pass::Decode];

impl Loaded {
    /// Makes the embedded inference passes ready for the device; training is made ready when it is first asked for.
    ///
    /// # Errors
    /// Kernels that the device cannot hold, or a compiler that is needed and missing.
    #[doc(hidden)]
    pub fn new(rule: Rule, embedded: &'static [Embedded], device: &Device) -> Result<Loaded, Error> {
        let compiler = Compiler::new(Search::from_environment(None, None));
        let kernels = match device {
            Device::Cpu(_) => Vec::new(),
            Device::Vm(_) | Device::Cuda(_) => {
                let arch = device.arch().unwrap_or(OLDEST);
                let ready = |entry: &Embedded| {
                    let (artifact, origin) = entry.artifact(&rule, arch, &compiler)?;
                    Ready::new(artifact, origin, device)
                };
                let inference = embedded.iter().filter(|entry| INFERENCE.contains(&entry.pass));
                inference.map(ready).collect::<Result<Vec<_>, RunError>>()?
            }
        };
        Ok(Loaded::from_parts(rule, device, kernels, Source::Embedded(embedded)))
    }

    /// Generates every pass of a rule that is known only at run time, in its built-in schedule.
    ///
    /// # Errors
    /// As [`Loaded::new`].
    #[doc(hidden)]
    pub fn generate(rule: Rule, device: &Device) -> Result<Loaded, Error> {
        let engine = Engine::new(Compiler::new(Search::from_environment(None, None)));
        let kernels = match device {
            Device::Cpu(_) => Vec::new(),
            Device::Vm(_) | Device::Cuda(_) => {
                let ready = |pass| {
                    let artifact = engine.artifact(&Run::new(&rule, pass, device))?;
                    Ready::new(artifact, Origin::Generated, device)
                };
                INFERENCE.into_iter().map(ready).collect::<Result<Vec<_>, RunError>>()?
            }
        };
        Ok(Loaded::from_parts(rule, device, kernels, Source::Generator(Box::new(engine))))
    }

    fn from_parts(rule: Rule, device: &Device, kernels: Vec<Ready>, source: Source) -> Loaded {
        let shared = Shared { rule, device: device.clone(), kernels, source, training: OnceLock::new() };
        Loaded { shared: Arc::new(shared) }
    }

    /// Makes the kernels of training ready too, which otherwise happens on the first backward call.
    ///
    /// # Errors
    /// A compiler that is needed and missing.
    pub fn warmup(&self) -> Result<(), Error> {
        self.training()?;
        Ok(())
    }

    /// The kernels of training; nothing on the CPU, which needs none.
    fn training(&self) -> Result<Option<&Trained>, RunError> {
        let Shared { rule, device, source, training, .. } = &*self.shared;
        if let (Device::Cpu(_), _) | (_, Some(_)) = (device, training.get()) {
            return Ok(training.get());
        }
        let made = match source {
            Source::Embedded(entries) => {
                let arch = device.arch().unwrap_or(OLDEST);
                let compiler = Compiler::new(Search::from_environment(None, None));
                let make = |pass| {
                    let entry = entries.iter().find(|entry| entry.pass == pass);
                    entry.map(|entry| Ok::<_, RunError>(entry.artifact(rule, arch, &compiler)?.0)).transpose()
                };
                let backward = make(Pass::Backward)?.ok_or(RunError::Pass(Pass::Backward))?;
                Training { forward: make(Pass::ForwardForBackward)?, backward }
            }
            Source::Generator(engine) => engine.training(&Run::new(rule, Pass::Backward, device))?,
        };
        let made = Trained::new(made, device)?;
        // Another thread may have been faster; its kernels are the same.
        Ok(Some(training.get_or_init(|| made)))
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.shared.device
    }

    /// The chunked forward pass.
    ///
    /// # Errors
    /// The first input that does not fit.
    #[doc(hidden)]
    pub fn forward(&self, call: Call<'_>) -> Result<Output, Error> {
        let rule = &self.shared.rule;
        let results = self.run(Pass::Forward, &call.case(rule))?;
        let o = Tensor::from_f32(&results.o.shape, results.o.data, rule.dtype)?;
        let state = swapped(rule, results.final_state);
        Ok(Output { o, final_state: Tensor::from_f32(&state.shape, state.data, Dtype::F32)? })
    }

    /// The forward pass, and what backward will need of it.
    ///
    /// # Errors
    /// The first input that does not fit.
    #[doc(hidden)]
    pub fn forward_for_backward(&self, call: Call<'_>) -> Result<(Output, Saved), Error> {
        Ok((self.forward(call)?, self.save(call)))
    }

    /// What backward will need of a forward call.
    #[doc(hidden)]
    pub fn save(&self, call: Call<'_>) -> Saved {
        Saved { case: call.case(&self.shared.rule) }
    }

    /// Every gradient of a call.
    ///
    /// # Errors
    /// Gradients of outputs that do not fit the call.
    #[doc(hidden)]
    pub fn backward(
        &self,
        saved: &Saved,
        d_out: View<'_>,
        d_final_state: Option<View<'_>>,
    ) -> Result<Gradients, Error> {
        let Shared { rule, device, .. } = &*self.shared;
        let mut case = saved.case.clone();
        case.tensors.insert(Name::DO, array(&d_out));
        if let Some(grad) = d_final_state {
            case.tensors.insert(Name::DFinalState, swapped(rule, array(&grad)));
        }
        let problem = Problem::new(rule, &case).map_err(RunError::from)?;
        let run = Run::new(rule, Pass::Backward, device);
        let tensors = engine::gradients(&run, self.training()?.map(|trained| &trained.kernels), &problem)?.tensors;
        let narrow = |(name, array): (Name, Array)| {
            let array = if name == Name::DInitialState { swapped(rule, array) } else { array };
            Ok((name, Tensor::from_f32(&array.shape, array.data, problem.dtype(name))?))
        };
        Ok(Gradients(tensors.into_iter().map(narrow).collect::<Result<_, Error>>()?))
    }

    /// One token or a short run of them; the states of the pool are read and written in place.
    ///
    /// # Errors
    /// The first input that does not fit.
    #[doc(hidden)]
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

    /// Which kernel serves each pass, and why; nothing on the CPU, which needs none.
    pub fn explain(&self) -> Vec<Explanation> {
        let explain = |Ready { artifact: Artifact { kernel, .. }, origin, .. }: &Ready| Explanation {
            pass: kernel.pass,
            arch: kernel.arch,
            schedule: kernel.schedule,
            origin: *origin,
        };
        self.shared.kernels.iter().map(explain).collect()
    }

    /// The chunked forward pass on device memory, put on a stream of the GPU that the kernels were loaded on. Returns
    /// without waiting; allocates nothing, takes no lock, makes one driver call per kernel, may be captured in a graph.
    ///
    /// # Errors
    /// A device that is no GPU, sizes or alignments that cannot be, a failing driver call.
    ///
    /// # Safety
    /// `stream` is a `CUstream` of the device's context. Every address of the call is device memory of the extent that
    /// its field states, alive and not otherwise written until the stream has passed the launches; what offsets and
    /// slot tables hold is as their fields state.
    pub unsafe fn forward_raw(&self, stream: *mut c_void, call: &Arguments) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        unsafe { self.launch(Pass::Forward, stream, call) }
    }

    /// Decoding on device memory, as [`Loaded::forward_raw`] is forward.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Safety
    /// As there.
    pub unsafe fn decode_raw(&self, stream: *mut c_void, call: &Arguments) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        unsafe { self.launch(Pass::Decode, stream, call) }
    }

    /// The scratch memory that the raw passes of training share for a call, in the order in which they take it. What
    /// forward leaves there must be unchanged when backward reads it.
    ///
    /// # Errors
    /// A device that is no GPU, sizes that cannot be.
    pub fn training_scratch(&self, call: &Arguments) -> Result<Vec<Scratch>, Error> {
        let (training, _) = self.training_on_gpu()?;
        training.scratch(call)
    }

    /// [`Loaded::forward_raw`], which also leaves in the scratch memory what backward needs. One address for each of
    /// [`Loaded::training_scratch`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Safety
    /// As there; each scratch address is device memory of the size that was stated for the call.
    pub unsafe fn forward_for_backward_raw(
        &self,
        stream: *mut c_void,
        call: &Arguments,
        scratch: &[u64],
    ) -> Result<(), Error> {
        let (training, gpu) = self.training_on_gpu()?;
        match &gpu.forward {
            // SAFETY: the caller's promise.
            Some(kernel) => unsafe { training.launch(kernel, stream, call, scratch) },
            // SAFETY: the caller's promise.
            None => unsafe { self.forward_raw(stream, call) },
        }
    }

    /// The backward pass on device memory, after [`Loaded::forward_for_backward_raw`] with the same scratch memory.
    /// `call.gradients` says where gradients are read and written.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Safety
    /// As there.
    pub unsafe fn backward_raw(&self, stream: *mut c_void, call: &Arguments, scratch: &[u64]) -> Result<(), Error> {
        let (training, gpu) = self.training_on_gpu()?;
        // SAFETY: the caller's promise.
        unsafe { training.launch(&gpu.backward, stream, call, scratch) }
    }

    fn training_on_gpu(&self) -> Result<(&Trained, &OnGpu), Error> {
        let training = self.training()?.ok_or(Error::NoStream)?;
        Ok((training, training.gpu.as_ref().ok_or(Error::NoStream)?))
    }

    unsafe fn launch(&self, pass: Pass, stream: *mut c_void, call: &Arguments) -> Result<(), Error> {
        let ready = self.shared.kernels.iter().find(|ready| ready.artifact.kernel.pass == pass);
        let gpu = ready.and_then(|ready| ready.gpu.as_ref()).ok_or(Error::NoStream)?;
        // SAFETY: the caller's promise. Neither pass has workspaces.
        Ok(unsafe { gpu.launch(stream.cast(), call, &[]) }.map_err(RunError::from)?)
    }

    fn run(&self, pass: Pass, case: &Case) -> Result<Results, Error> {
        let Shared { rule, device, kernels, .. } = &*self.shared;
        let problem = Problem::new(rule, case).map_err(RunError::from)?;
        let run = Run { tokens_per_launch: usize::MAX, ..Run::new(rule, pass, device) };
        let artifact = kernels.iter().map(|ready| &ready.artifact).find(|artifact| artifact.kernel.pass == pass);
        let mut tensors = engine::execute(&run, artifact, &problem)?.tensors;
        let mut take =
            |name| tensors.remove(&name).unwrap_or(Array { shape: Vec::new(), data: Vec::new(), stored: Dtype::F32 });
        Ok(Results { o: take(Name::O), final_state: take(Name::FinalState) })
    }
}

/// What backward needs of a forward call: on host memory, its inputs. The states in between are recomputed.
#[derive(Clone, Debug)]
pub struct Saved {
    case: Case,
}

/// The gradients of a call, by the names of files.
#[doc(hidden)]
#[derive(Debug)]
pub struct Gradients(BTreeMap<Name, Tensor>);

impl Gradients {
    /// The gradient of a tensor, where the rule has it.
    pub fn get(&self, name: Name) -> Option<&Tensor> {
        self.0.get(&name)
    }

    /// Takes the gradient of a tensor that the rule has: there is one for each.
    pub fn take(&mut self, name: Name) -> Tensor {
        self.0.remove(&name).unwrap_or_default()
    }

    /// Takes the gradient of the initial state, which is there where the call had one.
    pub fn take_initial_state(&mut self) -> Option<Tensor> {
        self.0.remove(&Name::DInitialState)
    }
}

/// What the engine gives for every call: it was asked for both.
struct Results {
    o: Array,
    final_state: Array,
}

impl Ready {
    fn new(artifact: Artifact, origin: Origin, device: &Device) -> Result<Ready, RunError> {
        let gpu = match device {
            Device::Cuda(gpu) => Some(cuda::Loaded::new(gpu, &artifact)?),
            Device::Cpu(_) | Device::Vm(_) => None,
        };
        Ok(Ready { artifact, origin, gpu })
    }
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { rule, device, .. } = &*self.shared;
        let schedules: Vec<String> = self.explain().iter().map(Explanation::to_string).collect();
        f.debug_struct("Loaded").field("rule", &rule.name).field("device", device).field("kernels", &schedules).finish()
    }
}
