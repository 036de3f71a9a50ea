//! A generated kernel's time by the clock: its launches walked and simulated from machine code, at two lengths where the
//! call is long, with a straight line from there on.

use crate::job::Shape;
use crate::model::{Constants, ConstantsError};
use gdn2_clock::gpu::{Explanation, Gpu, GpuError, Latencies, Limits};
use gdn2_clock::kernel::{ClockError, Decided, Kernel as Machine, RoleTime, roles};
use gdn2_clock::launch::{Argument, Launch};
use gdn2_codegen::abi::{Arg, Tensor};
use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::Kernel;
use gdn2_dsl::Rule;
use gdn2_runtime::artifact::Artifact;
use gdn2_runtime::raw::{self, Arguments, Gradients, RawError, View};
use gdn2_vm::Value;

/// Chunks of each segment in the shorter of the two lengths that are simulated; the other is twice as long.
const SHORT_RUN: u32 = 4;
/// Bytes between the made-up addresses of tensors.
const APART: u64 = 1 << 36;

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
    /// What decides.
    pub decided: Decided,
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
}

impl Timing {
    /// Microseconds under the faster explanation.
    pub fn low(&self) -> f64 {
        self.launches.iter().map(|launch| launch.low).sum()
    }

    /// Microseconds under the slower explanation.
    pub fn high(&self) -> f64 {
        self.launches.iter().map(|launch| launch.high).sum()
    }

    /// The middle of both.
    pub fn micros(&self) -> f64 {
        (self.low() * self.high()).sqrt()
    }

    /// What decides the longest launch.
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

/// A call of a shape on dense tensors at made-up addresses, from zero states.
fn call(rule: &Rule, shape: Shape, kernel: &Kernel) -> Arguments {
    let (batch, tokens) = (i64::from(shape.batch), i64::from(shape.tokens));
    let mut next = APART;
    let mut address = || {
        next += APART;
        next
    };
    let mut call = Arguments {
        sequences: batch as i32,
        tokens: tokens as i32,
        key_heads: shape.key_heads as i32,
        value_heads: shape.value_heads as i32,
        scale: 1.0,
        gradients: Gradients::default(),
        ..Arguments::default()
    };
    call.final_state = address();
    for tensor in Tensor::ALL {
        let Some((heads, width)) = sizes(rule, shape, tensor) else { continue };
        let (head, token) = (i64::from(width), i64::from(heads) * i64::from(width));
        if let Some(view) = call.view_mut(tensor) {
            *view = View { address: address(), batch: tokens * token, token, head };
        }
    }
    debug_assert!(call.check(kernel).is_ok());
    call
}

/// Heads and numbers of each head and token of a tensor that the rule has; gradients are as what they are of.
fn sizes(rule: &Rule, shape: Shape, tensor: Tensor) -> Option<(u32, u32)> {
    let name = of_gradient(tensor).name();
    let spec = rule.tensors().into_iter().find(|spec| spec.name == name && spec.per_token > 0)?;
    Some((if matches!(name, "q" | "k") { shape.key_heads } else { shape.value_heads }, spec.per_token))
}

fn of_gradient(tensor: Tensor) -> Tensor {
    match tensor {
        Tensor::DO => Tensor::O,
        Tensor::DQ => Tensor::Q,
        Tensor::DK => Tensor::K,
        Tensor::DV => Tensor::V,
        Tensor::DG => Tensor::G,
        Tensor::DB => Tensor::B,
        Tensor::DW => Tensor::W,
        other => other,
    }
}

/// Bytes of a tensor in a call.
fn tensor_bytes(rule: &Rule, shape: Shape, call: &Arguments, tensor: Tensor) -> f64 {
    let tokens = f64::from(shape.batch) * f64::from(shape.tokens);
    let state = |address: u64| match address {
        0 => 0.0,
        _ => rule.token_cost().state_bytes as f64 * f64::from(shape.batch) * f64::from(shape.value_heads),
    };
    match tensor {
        Tensor::InitialState => state(call.initial_state),
        Tensor::FinalState => state(call.final_state),
        Tensor::DFinalState => state(call.gradients.d_final_state),
        Tensor::DInitialState => state(call.gradients.d_initial_state),
        _ => {
            let name = of_gradient(tensor).name();
            let spec = rule.tensors().into_iter().find(|spec| spec.name == name);
            let width = spec.map_or(0.0, |spec| f64::from(spec.per_token) * f64::from(spec.dtype.bytes()));
            sizes(rule, shape, tensor).map_or(0.0, |(heads, _)| tokens * f64::from(heads) * width)
        }
    }
}

/// A parameter as the clock takes it.
pub fn argument(value: &Value) -> Argument {
    match value {
        Value::Pointer(address) => Argument::word64(*address),
        Value::I64(number) => Argument::word64(*number as u64),
        Value::I32(number) => Argument::word32(*number as u32),
        Value::F32(number) => Argument::word32(number.to_bits()),
        Value::Bytes(bytes) => Argument::Bytes(bytes.clone()),
    }
}

/// The launches of a call of some length, with their places among the kernel's.
fn launches(kernel: &Kernel, call: &Arguments) -> Result<Vec<(usize, Launch)>, RawError> {
    let workspaces: Vec<u64> = (0..kernel.workspaces.len() as u64).map(|index| APART * (64 + index)).collect();
    let mut launches = Vec::new();
    raw::launches(kernel, call, &workspaces, |index, launch, blocks, values| {
        launches.push((
            index,
            Launch {
                grid: [blocks, 1, 1],
                block: [launch.block, 1, 1],
                dynamic_shared: launch.shared_bytes,
                arguments: values.iter().map(argument).collect(),
                ..Launch::default()
            },
        ));
        Ok::<_, RawError>(())
    })?;
    Ok(launches)
}

/// The launches of a call of a shape on dense tensors from zero states, with their places among the kernel's.
///
/// # Errors
/// A call that makes no launches.
pub fn launches_of(kernel: &Kernel, shape: Shape) -> Result<Vec<(usize, Launch)>, RawError> {
    launches(kernel, &call(&kernel.rule, shape, kernel))
}

/// Times a call of a compiled kernel. `disassembly` is what `nvdisasm -c -hex` says of its machine code.
///
/// # Errors
/// A kernel that the clock cannot walk, constants that are not there.
pub fn time(
    artifact: &Artifact,
    disassembly: &str,
    shape: Shape,
    constants: &Constants,
) -> Result<Timing, TimingError> {
    let kernel = &artifact.kernel;
    let rule = &kernel.rule;
    let cubin = artifact.cubin.as_ref().ok_or(TimingError::NoMachineCode)?;
    let gpu = gpu(constants)?;
    let short = SHORT_RUN * kernel.schedule.chunk().unwrap_or(1) * kernel.schedule.segments();
    let lengths = match shape.tokens > 2 * short {
        true => vec![short, 2 * short],
        false => vec![shape.tokens],
    };
    let full = call(rule, shape, kernel);
    let at = |tokens: u32| launches(kernel, &call(rule, Shape { tokens, ..shape }, kernel));
    let shorter = lengths.iter().map(|tokens| at(*tokens)).collect::<Result<Vec<_>, _>>()?;
    let mut times = Vec::new();
    for (place, (index, whole)) in launches(kernel, &full)?.into_iter().enumerate() {
        let Some(launch) = kernel.launches.get(index) else { continue };
        let wrong = |source| TimingError::Clock { entry: launch.entry.clone(), source };
        let machine = Machine::read(cubin, disassembly, Some(&launch.entry)).map_err(wrong)?;
        let explanations: &[Explanation] =
            if machine.uses_wgmma() { &Explanation::BOTH } else { &[Explanation::DataSheet] };
        let blocks = whole.blocks();
        let mut samples = Vec::new();
        for launches in &shorter {
            let Some((_, short)) = launches.get(place) else { continue };
            samples.push((short, machine.sample(short).map_err(wrong)?));
        }
        let along = |values: &[f64]| match (values, lengths.as_slice()) {
            ([a, b], [from, to]) => {
                let each = (b - a) / f64::from(to - from);
                (b + each * f64::from(shape.tokens - to)).max(0.0)
            }
            _ => values.last().copied().unwrap_or(0.0),
        };
        let each_block: Vec<f64> = samples.iter().map(|(_, sample)| sample.block_bytes()).collect();
        let moved = along(&each_block) * blocks as f64;
        let named = named_bytes(rule, shape, &full, kernel, index)?;
        let bytes = moved.min(named);
        let mut runs = Vec::new();
        for explanation in explanations {
            let mut totals = Vec::new();
            let mut last = None;
            for (short, sample) in &samples {
                let clocks = machine.clocks(short, sample, blocks, &gpu, *explanation).map_err(wrong)?;
                totals.push(clocks.total);
                last = Some(clocks);
            }
            if let Some(last) = last {
                runs.push((along(&totals) / gpu.clock, last));
            }
        }
        let memory = bytes / (gpu.dram * attained(moved, bytes));
        runs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (Some((low, _)), Some((high, slower))) = (runs.first(), runs.last()) else { continue };
        let decided = match () {
            () if high.max(memory) < gpu.launch => Decided::Launch,
            () if memory > *high => Decided::Memory,
            () => slower.decided(),
        };
        let notes = samples.iter().flat_map(|(_, sample)| sample.notes().into_keys()).collect();
        times.push(LaunchTime {
            entry: launch.entry.clone(),
            blocks,
            resident: slower.resident,
            low: low.max(memory) + gpu.launch,
            high: high.max(memory) + gpu.launch,
            bytes,
            decided,
            roles: roles(&slower.roles),
            notes,
        });
    }
    Ok(Timing { launches: times })
}

/// Bytes of everything that a launch is given, each once.
fn named_bytes(rule: &Rule, shape: Shape, call: &Arguments, kernel: &Kernel, index: usize) -> Result<f64, RawError> {
    let workspaces = raw::workspace_bytes(kernel, shape.extents())?;
    let params = kernel.launches.get(index).map(|launch| launch.params.as_slice()).unwrap_or_default();
    Ok(params
        .iter()
        .map(|param| match &param.arg {
            Arg::Pointer(tensor) => tensor_bytes(rule, shape, call, *tensor),
            Arg::Workspace(name) => {
                let place = kernel.workspaces.iter().position(|workspace| workspace.name == *name);
                place.and_then(|place| workspaces.get(place)).map_or(0.0, |bytes| *bytes as f64)
            }
            _ => 0.0,
        })
        .sum())
}

/// The share of a copy's rate that a launch attains of memory. Kernels that read what they read before get less than
/// those that stream: 0.70 fits the published times of flash-linear-attention's KDA pipelines and of a decode step
/// (25.1 µs at 8 sequences and 64 heads on an H200); FlashQLA's first kernel, which streams, attains 0.94 at least.
pub fn attained(moved: f64, distinct: f64) -> f64 {
    if moved > 1.25 * distinct { 0.70 } else { 1.0 }
}
