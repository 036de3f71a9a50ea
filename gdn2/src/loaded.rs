//! A rule's kernels on one device: calls on host memory, and raw calls. The generated modules are thin over this.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::bank::{Bank, Ready, Source, Trained};
use crate::call::{Call, array, fits};
use crate::embedded::{Embedded, Explanation, OLDEST, Tuning};
use crate::error::Error;
use crate::shape::Shape;
use crate::view::{Slots, Tensor, View, ViewMut};
use gdn2_codegen::abi::{Extents, Tensor as Name};
use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::Pass;
use gdn2_dsl::{Dtype, Rule, StateLayout};
use gdn2_runtime::device::Device;
use gdn2_runtime::device::launch::{Context, Gpu};
use gdn2_runtime::engine::{self, Kept, Outcome, Run, RunError};
use gdn2_runtime::problem::{Problem, dims_of};
use gdn2_runtime::raw::Arguments;
use gdn2_runtime::seen::{SeenShapes, Watch};
use gdn2_runtime::tensors::{Array, Case};

/// What a forward call gives.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Output {
    /// `[B,T,HV,V]`, in the rule's dtype.
    pub o: Tensor,
    /// `[N,HV,K,V]` in the rule's layout, f32.
    pub final_state: Tensor,
}

/// Where a forward call writes.
pub struct Outputs<'a> {
    /// `[B,T,HV,V]`, in the rule's dtype; in host memory f32 will do as well.
    pub o: ViewMut<'a>,
    /// `[N,HV,K,V]` in the rule's layout, f32; none is not asked for.
    pub final_state: Option<ViewMut<'a>>,
}

/// What the kernels of every rule have: a device, an explanation, raw calls. Each generated `Kernels` derefs to it.
#[derive(Clone)]
pub struct Loaded {
    shared: Arc<Shared>,
}

struct Shared {
    rule: Rule,
    device: Device,
    /// Absent on the CPU, which needs no kernels.
    bank: Option<Bank>,
    /// The context of the GPU.
    context: Option<Context>,
    /// Counts calls, where the program asked for that.
    watch: OnceLock<Watch>,
}

/// Handles are shared between threads.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Loaded>();
    shared::<Saved>();
};

impl Loaded {
    /// Makes the embedded inference passes ready for the device; training is made ready when it is first asked for.
    ///
    /// # Errors
    /// Kernels that the device cannot hold, or a compiler that is needed and missing.
    #[doc(hidden)]
    pub fn new(rule: Rule, embedded: &'static [Embedded], tuning: &[Tuning], device: &Device) -> Result<Loaded, Error> {
        Loaded::on(rule, Source::Embedded(embedded), tuning, device, None)
    }

    /// Generates every pass of a rule that is known only at run time.
    ///
    /// # Errors
    /// As [`Loaded::new`].
    #[doc(hidden)]
    pub fn generate(rule: Rule, device: &Device) -> Result<Loaded, Error> {
        Loaded::generate_for(rule, device, None)
    }

    /// The same, and on the virtual machine the kernels of an architecture instead of those of the oldest.
    ///
    /// # Errors
    /// As [`Loaded::new`].
    #[doc(hidden)]
    pub fn generate_for(rule: Rule, device: &Device, arch: Option<Arch>) -> Result<Loaded, Error> {
        Loaded::on(rule, Source::Generator, &[], device, arch)
    }

    /// [`Loaded::new`] on a GPU, or what stands in for one, that is reached through a driver of the caller's. Calls on
    /// host memory run on the virtual machine.
    ///
    /// # Errors
    /// As there.
    #[doc(hidden)]
    #[cfg(feature = "vm")]
    pub fn through(
        rule: Rule,
        embedded: &'static [Embedded],
        tuning: &[Tuning],
        gpu: Arc<dyn Gpu>,
    ) -> Result<Loaded, Error> {
        gdn2_codegen::takes(&rule).map_err(RunError::from)?;
        let (arch, context) = (gpu.arch(), gpu.context());
        let bank = Bank::new(&rule, arch, Some(gpu), Source::Embedded(embedded), tuning)?;
        let shared =
            Shared { rule, device: Device::vm(), bank: Some(bank), context: Some(context), watch: OnceLock::new() };
        Ok(Loaded { shared: Arc::new(shared) })
    }

    fn on(rule: Rule, source: Source, tuning: &[Tuning], device: &Device, arch: Option<Arch>) -> Result<Loaded, Error> {
        gdn2_codegen::takes(&rule).map_err(RunError::from)?;
        let gpu: Option<Arc<dyn Gpu>> = match device {
            Device::Cuda(gpu) => Some(Arc::new(gpu.clone())),
            #[cfg(any(feature = "cpu", feature = "vm"))]
            _ => None,
        };
        let arch = gpu.as_ref().map_or(arch.unwrap_or(OLDEST), |gpu| gpu.arch());
        let context = gpu.as_ref().map(|gpu| gpu.context());
        let bank = match device.takes_kernels() {
            true => Some(Bank::new(&rule, arch, gpu, source, tuning)?),
            false => None,
        };
        let shared = Shared { rule, device: device.clone(), bank, context, watch: OnceLock::new() };
        Ok(Loaded { shared: Arc::new(shared) })
    }

    /// Makes ready every kernel that calls of a shape get, training included: after it, none of them compiles, loads,
    /// allocates or locks anything.
    ///
    /// # Errors
    /// A compiler that is needed and missing.
    pub fn warmup(&self, shape: Shape) -> Result<(), Error> {
        self.shared.bank.as_ref().map_or(Ok(()), |bank| bank.warmup(shape.extents))
    }

    /// Which kernel each pass of a shape gets, and why; nothing on the CPU, which needs none. Forward's is that of a call on
    /// host memory or with scratch memory: without, a call on a stream gets the built-in kernel where this one has segments.
    pub fn explain(&self, shape: Shape) -> Vec<Explanation> {
        self.shared.bank.as_ref().map(|bank| bank.explain(shape.extents)).unwrap_or_default()
    }

    /// Counts every call from now on, of this handle and its clones, by pass and shape: up to 256 different ones. A call
    /// costs a look at those before it and allocates nothing. What a CUDA graph runs again is no call.
    pub fn watch_shapes(&self) {
        self.shared.watch.get_or_init(Watch::default);
    }

    /// The calls since [`Loaded::watch_shapes`]; none where that was never called. Its text, written to a file, says to
    /// `gdn2 tune --seen FILE` what to tune for.
    ///
    /// ```
    /// # gdn2::delta_rule! {
    /// #     pub mod linear { decay: none; erase: none; write: none; key_dim: 32; value_dim: 32; dtype: bf16; }
    /// # }
    /// # fn main() -> Result<(), gdn2::Error> {
    /// let kernels = linear::load(&gdn2::Device::cpu())?;
    /// kernels.watch_shapes();
    /// let x = [0.5; 64];
    /// let x = gdn2::View::new(&x, [1, 2, 1, 32])?;
    /// kernels.forward(linear::Forward { q: x, k: x, v: x, initial_state: None, cu_seqlens: None, scale: None })?;
    /// assert_eq!(kernels.seen_shapes().to_string(), "linear forward B=1,T=2,H=1,HV=1 1\n");
    /// # Ok(())
    /// # }
    /// ```
    pub fn seen_shapes(&self) -> SeenShapes {
        let Shared { rule, watch, .. } = &*self.shared;
        watch.get().map_or_else(|| Watch::default().seen(&rule.name), |watch| watch.seen(&rule.name))
    }

    /// Counts a call, where calls are counted.
    fn count(&self, pass: Pass, extents: Extents) {
        if let Some(watch) = self.shared.watch.get() {
            watch.count(pass, extents);
        }
    }

    /// The rule.
    pub fn rule(&self) -> &Rule {
        &self.shared.rule
    }

    /// The shape of states, one for each sequence, in the rule's layout.
    pub(crate) fn state_shape(&self, sequences: usize, value_heads: usize) -> [usize; 4] {
        let Rule { key_dim, value_dim, state, .. } = self.rule();
        let (k, v) = (*key_dim as usize, *value_dim as usize);
        match state {
            StateLayout::Kv => [sequences, value_heads, k, v],
            StateLayout::Vk => [sequences, value_heads, v, k],
        }
    }

    /// The context that memory and streams of calls on a stream must belong to.
    ///
    /// # Errors
    /// A device without streams.
    #[doc(hidden)]
    pub fn context(&self) -> Result<Context, Error> {
        self.shared.context.ok_or(Error::NoStream)
    }

    /// The kernels of a GPU.
    fn bank(&self) -> Result<&Bank, Error> {
        self.shared.bank.as_ref().ok_or(Error::NoStream)
    }

    /// The kernel of forward for a call on a GPU that brings scratch memory.
    pub(crate) fn forward_kernel(&self, extents: Extents) -> Result<&Ready, Error> {
        Ok(self.bank()?.inference(Pass::Forward, Some(extents))?)
    }

    /// The kernels of training for a call on a GPU.
    pub(crate) fn training(&self, extents: Extents) -> Result<&Trained, Error> {
        self.bank()?.training(extents)
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
        self.output(self.run(Pass::Forward, &call.case(&self.shared.rule)?)?)
    }

    /// The chunked forward pass, written where the caller says.
    ///
    /// # Errors
    /// The first input or output that does not fit.
    #[doc(hidden)]
    pub fn forward_into(&self, call: Call<'_>, outputs: Outputs<'_>) -> Result<(), Error> {
        let mut results = self.run(Pass::Forward, &call.case(&self.shared.rule)?)?;
        let o = taken(&mut results, Name::O);
        outputs.o.store("o", &o.shape, &o.data)?;
        let state = taken(&mut results, Name::FinalState);
        outputs.final_state.map_or(Ok(()), |view| view.store("final_state", &state.shape, &state.data))
    }

    fn output(&self, mut results: BTreeMap<Name, Array>) -> Result<Output, Error> {
        let rule = &self.shared.rule;
        let o = taken(&mut results, Name::O);
        let state = taken(&mut results, Name::FinalState);
        Ok(Output {
            o: Tensor::from_f32(&o.shape, o.data, rule.dtype)?,
            final_state: Tensor::from_f32(&state.shape, state.data, Dtype::F32)?,
        })
    }

    /// The forward pass, and what backward will need of it.
    ///
    /// # Errors
    /// The first input that does not fit.
    #[doc(hidden)]
    pub fn forward_for_backward(&self, call: Call<'_>) -> Result<(Output, Saved), Error> {
        let Shared { rule, device, bank, .. } = &*self.shared;
        let case = call.case(&self.shared.rule)?;
        let problem = Problem::new(rule, &case)?;
        let extents = problem.extents();
        self.count(Pass::ForwardForBackward, extents);
        let training = bank.as_ref().map(|bank| bank.training(extents)).transpose()?.map(|trained| &trained.kernels);
        let inference = bank.as_ref().map(|bank| bank.inference(Pass::Forward, Some(extents))).transpose()?;
        let run = Run::new(rule, Pass::ForwardForBackward, device);
        let inference = inference.map(|ready| &ready.artifact);
        let (outcome, kept) = engine::forward_for_backward(&run, training, inference, &problem)?;
        let output = self.output(outcome.tensors)?;
        Ok((output, Saved { case, kept: Some(kept) }))
    }

    /// What backward needs of a call whose forward pass ran elsewhere, or long ago: its inputs. What lies between is
    /// computed again.
    ///
    /// # Errors
    /// A tensor that is on a GPU.
    #[doc(hidden)]
    pub fn save(&self, call: Call<'_>) -> Result<Saved, Error> {
        Ok(Saved { case: call.case(&self.shared.rule)?, kept: None })
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
        let Shared { rule, device, bank, .. } = &*self.shared;
        let mut case = saved.case.clone();
        let shape = |name| case.tensors.get(&name).map_or(&[][..], |array| array.shape.as_slice());
        let dims = dims_of(rule, shape(Name::Q), shape(Name::V))?;
        fits(rule, &dims, Name::DO, d_out.shape(), 0)?;
        case.tensors.insert(Name::DO, array("d_out", &d_out)?);
        if let Some(grad) = d_final_state {
            let sequences =
                case.cu_seqlens.as_ref().map_or(dims.batch, |packed| packed.offsets.len().saturating_sub(1));
            fits(rule, &dims, Name::DFinalState, grad.shape(), sequences)?;
            case.tensors.insert(Name::DFinalState, array("d_final_state", &grad)?);
        }
        let problem = Problem::new(rule, &case)?;
        self.count(Pass::Backward, problem.extents());
        let training = bank.as_ref().map(|bank| bank.training(problem.extents())).transpose()?;
        let run = Run::new(rule, Pass::Backward, device);
        let kernels = training.map(|trained| &trained.kernels);
        let Outcome { tensors, named, .. } = engine::gradients_from(&run, kernels, &problem, saved.kept.as_ref())?;
        let narrow =
            |(name, array): (Name, Array)| Ok((name, Tensor::from_f32(&array.shape, array.data, problem.dtype(name))?));
        let mut own = BTreeMap::new();
        for tensor in rule.prologue.named() {
            if let Some(array) = named.get(&format!("d{}", tensor.name)) {
                let gradient = Tensor::from_f32(&array.shape, array.data.clone(), tensor.storage)?;
                own.insert(tensor.name.to_owned(), gradient);
            }
        }
        Ok(Gradients { tensors: tensors.into_iter().map(narrow).collect::<Result<_, Error>>()?, named: own })
    }

    /// One token or a short run of them; the states of the pool are read and written in place.
    ///
    /// # Errors
    /// The first input that does not fit.
    #[doc(hidden)]
    pub fn decode(&self, state: &mut Tensor, slots: Option<Slots<'_>>, call: Call<'_>) -> Result<Tensor, Error> {
        let rule = &self.shared.rule;
        if state.dtype() != Dtype::F32 {
            return Err(Error::StateDtype(state.dtype()));
        }
        let slots = match slots {
            None => None,
            Some(Slots::Host(slots)) => Some(slots.to_vec()),
            Some(Slots::Device(_)) => return Err(Error::DeviceMemory("slots")),
        };
        let call = Call { initial_state: Some(state.view()), ..call };
        let case = Case { initial_slots: slots.clone(), final_slots: slots, ..call.case(&self.shared.rule)? };
        let mut results = self.run(Pass::Decode, &case)?;
        let pool = taken(&mut results, Name::FinalState);
        *state = Tensor::from_f32(&pool.shape, pool.data, Dtype::F32)?;
        let o = taken(&mut results, Name::O);
        Tensor::from_f32(&o.shape, o.data, rule.dtype)
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
        self.count(Pass::Forward, call.extents()?);
        // SAFETY: the caller's promise.
        unsafe { self.forward_without_scratch(stream, call) }
    }

    /// Forward in a kernel that needs no scratch memory.
    ///
    /// # Safety
    /// As [`Loaded::forward_raw`].
    unsafe fn forward_without_scratch(&self, stream: *mut c_void, call: &Arguments) -> Result<(), Error> {
        let ready = self.bank()?.without_scratch(call.extents()?)?;
        // SAFETY: the caller's promise. A kernel that needs no scratch memory is not given any.
        unsafe { ready.launch(stream, call, 0) }
    }

    /// Bytes of scratch memory that [`Loaded::forward_with_scratch_raw`] takes for a call of a shape: none, but where its
    /// record's kernel runs segments of a sequence side by side.
    ///
    /// # Errors
    /// A device without kernels, sizes that cannot be.
    pub fn forward_scratch(&self, shape: Shape) -> Result<usize, Error> {
        self.forward_kernel(shape.extents)?.scratch_bytes(shape.extents)
    }

    /// [`Loaded::forward_raw`] with the kernel of the call's record even where that needs scratch memory, in whose place
    /// the call without scratch memory takes the built-in one.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Safety
    /// As there; `scratch` is device memory of [`Loaded::forward_scratch`] bytes, aligned as allocations are, that nothing
    /// else uses until the stream has passed the launches.
    pub unsafe fn forward_with_scratch_raw(
        &self,
        stream: *mut c_void,
        call: &Arguments,
        scratch: u64,
    ) -> Result<(), Error> {
        self.count(Pass::Forward, call.extents()?);
        // SAFETY: the caller's promise.
        unsafe { self.forward_kernel(call.extents()?)?.launch(stream, call, scratch) }
    }

    /// Decoding on device memory, as [`Loaded::forward_raw`] is forward.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Safety
    /// As there.
    pub unsafe fn decode_raw(&self, stream: *mut c_void, call: &Arguments) -> Result<(), Error> {
        self.count(Pass::Decode, call.extents()?);
        let ready = self.bank()?.inference(Pass::Decode, Some(call.extents()?))?;
        // SAFETY: the caller's promise. Decoding takes no scratch memory.
        unsafe { ready.launch(stream, call, 0) }
    }

    /// Bytes of scratch memory that the passes of training share for a call of a shape. What forward leaves there must be
    /// unchanged when backward reads it.
    ///
    /// # Errors
    /// A device without kernels, sizes that cannot be.
    pub fn training_scratch(&self, shape: Shape) -> Result<usize, Error> {
        self.training(shape.extents)?.scratch_bytes(shape.extents)
    }

    /// [`Loaded::forward_raw`], which also leaves in the scratch memory what backward needs.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Safety
    /// As there; `scratch` is device memory of [`Loaded::training_scratch`] bytes, aligned as allocations are.
    pub unsafe fn forward_for_backward_raw(
        &self,
        stream: *mut c_void,
        call: &Arguments,
        scratch: u64,
    ) -> Result<(), Error> {
        self.count(Pass::ForwardForBackward, call.extents()?);
        // SAFETY: the caller's promise.
        match unsafe { self.training(call.extents()?)?.forward(stream, call, scratch) } {
            Some(outcome) => outcome,
            // SAFETY: the caller's promise.
            None => unsafe { self.forward_without_scratch(stream, call) },
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
    pub unsafe fn backward_raw(&self, stream: *mut c_void, call: &Arguments, scratch: u64) -> Result<(), Error> {
        self.count(Pass::Backward, call.extents()?);
        // SAFETY: the caller's promise.
        unsafe { self.training(call.extents()?)?.backward(stream, call, scratch) }
    }

    fn run(&self, pass: Pass, case: &Case) -> Result<BTreeMap<Name, Array>, Error> {
        let Shared { rule, device, bank, .. } = &*self.shared;
        let problem = Problem::new(rule, case)?;
        self.count(pass, problem.extents());
        let run = Run { tokens_per_launch: usize::MAX, ..Run::new(rule, pass, device) };
        let ready = bank.as_ref().map(|bank| bank.inference(pass, Some(problem.extents()))).transpose()?;
        let Outcome { tensors, .. } = engine::execute(&run, ready.map(|ready| &ready.artifact), &problem)?;
        Ok(tensors)
    }
}

/// A result that the engine was asked for.
fn taken(results: &mut BTreeMap<Name, Array>, name: Name) -> Array {
    results.remove(&name).unwrap_or(Array { shape: Vec::new(), data: Vec::new(), stored: Dtype::F32 })
}

/// What backward needs of a forward call: its inputs, and what its kernel kept beside them, such as the states between
/// chunks.
#[derive(Clone, Debug)]
pub struct Saved {
    case: Case,
    /// None where no forward pass has run.
    kept: Option<Kept>,
}

/// The gradients of a call, by the names of files.
#[doc(hidden)]
#[derive(Debug)]
pub struct Gradients {
    tensors: BTreeMap<Name, Tensor>,
    /// Of what the rule names itself, by those names.
    named: BTreeMap<String, Tensor>,
}

impl Gradients {
    /// The gradient of a tensor, where the rule has it.
    pub fn get(&self, name: Name) -> Option<&Tensor> {
        self.tensors.get(&name)
    }

    /// Takes the gradient of a tensor that the rule has: there is one for each.
    pub fn take(&mut self, name: Name) -> Tensor {
        self.tensors.remove(&name).unwrap_or_default()
    }

    /// The gradient of a tensor that the rule names itself, by that name.
    pub fn named(&self, name: &str) -> Option<&Tensor> {
        self.named.get(name)
    }

    /// Takes it.
    pub fn take_named(&mut self, name: &str) -> Tensor {
        self.named.remove(name).unwrap_or_default()
    }

    /// Takes the gradient of the initial state, which is there where the call had one.
    pub fn take_initial_state(&mut self) -> Option<Tensor> {
        self.tensors.remove(&Name::DInitialState)
    }
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { rule, device, .. } = &*self.shared;
        f.debug_struct("Loaded").field("rule", &rule.name).field("device", device).finish_non_exhaustive()
    }
}
