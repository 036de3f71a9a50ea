//! `gdn2 vm`: any PTX kernel on the virtual machine, launched as a JSON file says.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use gdn2_codegen::arch::Arch;
use gdn2_vm::{Address, Check, Landing, Launch, Limits, MapType, Memory, Module, Swizzle, TensorMap, Value};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::error::CliError;
use crate::target::VmCheck;
use crate::{Verdict, write};

/// Run a PTX kernel from anywhere on the virtual machine and report what is wrong with it
///
/// LAUNCH.json names grid, block, dynamic shared bytes, the buffers and the arguments:
///
/// {"grid": [2], "block": [128], "shared_bytes": 4096,
///  "buffers": {"a": {"file": "in.safetensors", "tensor": "a"}, "n": {"bytes": 64, "fill": "zero"},
///              "c": {"dtype": "F32", "shape": [64, 8], "output": true}},
///  "args": [{"buffer": "a"}, {"buffer": "c", "offset": 128}, {"i32": 48}, {"f32": 0.5}]}
///
/// Buffers come from a safetensors file, or are made: of `bytes` or of a dtype and shape, filled with NaN (the default,
/// and watched for reads before writes) or with zero. Outputs are written to --out. Further arguments: i64, pointer (a
/// number), bytes (a list), and tensor_map: {"buffer", "element", "dims", "strides", "tile", "swizzle": 0, 32, 64 or
/// 128}, innermost dimension first, strides in bytes.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  gdn2 vm kernel.ptx --entry gemm --launch launch.json --vm-check full --out c.safetensors"
)]
pub struct Args {
    /// PTX text
    #[arg(value_name = "KERNEL.ptx")]
    ptx: PathBuf,
    /// Entry; may be left out where the module has one
    #[arg(long)]
    entry: Option<String>,
    /// How it is launched
    #[arg(long, value_name = "LAUNCH.json")]
    launch: PathBuf,
    /// GPU whose limits hold: sm_80, sm_86, sm_89, sm_90a or sm_120; the PTX's own target without it
    #[arg(long)]
    arch: Option<Arch>,
    /// Where shared memory starts: aligned as the PTX declares it and no better, or to 1024 bytes, as drivers do today and
    /// Triton's kernels rely on
    #[arg(long, value_enum, default_value_t)]
    shared_alignment: SharedAlignment,
    #[command(flatten)]
    check: VmCheck,
    /// File to write the outputs to
    #[arg(long, value_name = "OUT.safetensors")]
    out: Option<PathBuf>,
    /// Asynchronous copies land at their wait instead of at once
    #[arg(long)]
    late: bool,
    /// Shuffle the order of blocks
    #[arg(long, value_name = "SEED")]
    order: Option<u64>,
    /// Count instructions, bytes and bank conflicts
    #[arg(long)]
    count: bool,
    /// Warp instructions after which a block that still runs counts as never ending
    #[arg(long, value_name = "N", default_value_t = 1 << 28)]
    max_instructions: u64,
    /// Print the whole report as JSON
    #[arg(long)]
    json: bool,
}

/// What the start of shared memory is aligned to.
#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum SharedAlignment {
    /// What the PTX declares
    #[default]
    Declared,
    /// 1024 bytes
    Driver,
}

impl From<SharedAlignment> for gdn2_vm::SharedAlignment {
    fn from(alignment: SharedAlignment) -> Self {
        match alignment {
            SharedAlignment::Declared => Self::DECLARED,
            SharedAlignment::Driver => Self::DRIVER,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spec {
    pub(crate) grid: Vec<u32>,
    pub(crate) block: Vec<u32>,
    #[serde(default)]
    pub(crate) shared_bytes: u32,
    #[serde(default)]
    pub(crate) buffers: BTreeMap<String, Buffer>,
    /// Each an [`Argument`].
    pub(crate) args: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Buffer {
    /// A tensor of a safetensors file, its path relative to the launch file.
    pub(crate) file: Option<PathBuf>,
    pub(crate) tensor: Option<String>,
    pub(crate) bytes: Option<usize>,
    pub(crate) dtype: Option<Dtype>,
    pub(crate) shape: Option<Vec<usize>>,
    pub(crate) fill: Option<Fill>,
    #[serde(default)]
    pub(crate) output: bool,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Fill {
    Nan,
    Zero,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case", untagged)]
pub(crate) enum Argument {
    Buffer {
        buffer: String,
        #[serde(default)]
        offset: u64,
    },
    I32 {
        i32: i64,
    },
    I64 {
        i64: i64,
    },
    F32 {
        f32: f32,
    },
    Pointer {
        pointer: u64,
    },
    Bytes {
        bytes: Vec<u8>,
    },
    Map {
        tensor_map: Map,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Map {
    pub(crate) buffer: String,
    pub(crate) element: String,
    pub(crate) dims: Vec<u64>,
    #[serde(default)]
    pub(crate) strides: Vec<u64>,
    pub(crate) tile: Vec<u32>,
    #[serde(default)]
    pub(crate) swizzle: u32,
    #[serde(default)]
    pub(crate) fill_nan: bool,
}

impl Map {
    /// Bytes that one copy moves.
    pub(crate) fn tile_bytes(&self) -> u32 {
        let bytes = match self.element.to_ascii_lowercase().as_str() {
            "u8" => 1,
            "u16" | "f16" | "bf16" => 2,
            "u64" | "f64" => 8,
            _ => 4,
        };
        self.tile.iter().product::<u32>() * bytes
    }
}

/// A buffer in the machine's memory, and how it reads as a tensor.
pub(crate) struct Placed {
    pub(crate) address: Address,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) output: bool,
}

/// What is said behind findings in a PTX text without line tables.
const NO_LINES: &str = "(this PTX has no line table: compiled with -lineinfo, reports name lines of the CUDA source)\n";

/// Bytes of one buffer, or of the file that holds it.
const MOST_BYTES: usize = 1 << 32;
/// Bytes of a launch file, of a PTX text, and of what is read from a pipe or device.
const MOST_LAUNCH: u64 = 1 << 24;
const MOST_PTX: u64 = 1 << 28;
const MOST_STREAMED: u64 = 1 << 28;

pub(crate) fn usage(message: impl Into<String>) -> CliError {
    CliError::Usage(message.into())
}

/// Reads a file of at most this many bytes; what is no regular file has no end to be trusted.
fn read(path: &Path, most: u64) -> Result<Vec<u8>, CliError> {
    let failed = |source| CliError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let regular = file.metadata().map_err(failed)?.is_file();
    let most = if regular { most } else { most.min(MOST_STREAMED) };
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > most {
        let what = if regular { "" } else { " and is no regular file" };
        return Err(usage(format!("{}: it has more than {most} bytes{what}", path.display())));
    }
    Ok(bytes)
}

pub(crate) fn three(name: &str, n: &[u32]) -> Result<[u32; 3], CliError> {
    if n.is_empty() || n.len() > 3 {
        return Err(usage(format!("{name} has {} numbers; give one to three", n.len())));
    }
    Ok([0, 1, 2].map(|i| n.get(i).copied().unwrap_or(1)))
}

impl Spec {
    /// Reads a launch file.
    pub(crate) fn read(path: &Path) -> Result<Spec, CliError> {
        serde_json::from_slice(&read(path, MOST_LAUNCH)?).map_err(|error| usage(format!("{}: {error}", path.display())))
    }
}

impl Buffer {
    pub(crate) fn place(&self, name: &str, folder: &Path, memory: &mut Memory) -> Result<Placed, CliError> {
        if let Some(file) = &self.file {
            let path = folder.join(file);
            let bytes = read(&path, MOST_BYTES as u64)?;
            let wrong = |error| usage(format!("{}: {error}", path.display()));
            let tensors = SafeTensors::deserialize(&bytes).map_err(wrong)?;
            let view = tensors.tensor(self.tensor.as_deref().unwrap_or(name)).map_err(wrong)?;
            let (dtype, shape) = (view.dtype(), view.shape().to_vec());
            let address = memory.upload(name, view.data());
            return Ok(Placed { address, dtype, shape, output: self.output });
        }
        let (dtype, shape) = match (self.bytes, &self.shape) {
            (Some(bytes), None) => (Dtype::U8, vec![bytes]),
            (None, Some(shape)) => (self.dtype.unwrap_or(Dtype::U8), shape.clone()),
            _ => return Err(usage(format!("buffer `{name}`: give file, bytes, or dtype and shape"))),
        };
        let elements = shape.iter().try_fold(1usize, |all, n| all.checked_mul(*n));
        let bits = elements.and_then(|elements| elements.checked_mul(dtype.bitsize()));
        let Some(len) = bits.map(|bits| bits / 8).filter(|len| *len <= MOST_BYTES) else {
            return Err(usage(format!(
                "buffer `{name}`: {shape:?} of {dtype:?} is more than the {MOST_BYTES} bytes that a buffer may have"
            )));
        };
        let address = match self.fill {
            Some(Fill::Zero) => memory.upload(name, &vec![0; len]),
            Some(Fill::Nan) | None => memory.poisoned(name, len),
        };
        Ok(Placed { address, dtype, shape, output: self.output })
    }
}

impl Argument {
    pub(crate) fn value(&self, buffers: &BTreeMap<String, Placed>) -> Result<Value, CliError> {
        let place = |name: &str| {
            let known = || buffers.keys().cloned().collect::<Vec<_>>().join(", ");
            let found = buffers.get(name).map(|b| b.address);
            found.ok_or_else(|| usage(format!("no buffer `{name}`; the launch has {}", known())))
        };
        Ok(match self {
            Argument::Buffer { buffer, offset } => Value::Pointer(place(buffer)?.0.wrapping_add(*offset)),
            // Either way of writing 32 bits.
            Argument::I32 { i32: v } => match i32::try_from(*v).ok().or(u32::try_from(*v).ok().map(u32::cast_signed)) {
                Some(v) => Value::I32(v),
                None => return Err(usage(format!("i32 argument {v} does not fit 32 bits"))),
            },
            Argument::I64 { i64: v } => Value::I64(*v),
            Argument::F32 { f32: v } => Value::F32(*v),
            Argument::Pointer { pointer } => Value::Pointer(*pointer),
            Argument::Bytes { bytes } => Value::Bytes(bytes.clone()),
            Argument::Map { tensor_map: m } => {
                let element = match m.element.to_ascii_lowercase().as_str() {
                    "u8" => MapType::U8,
                    "u16" => MapType::U16,
                    "u32" => MapType::U32,
                    "i32" => MapType::I32,
                    "u64" => MapType::U64,
                    "f16" => MapType::F16,
                    "bf16" => MapType::Bf16,
                    "f32" => MapType::F32,
                    "f64" => MapType::F64,
                    other => return Err(usage(format!("tensor map element `{other}` is unknown"))),
                };
                let swizzle = match m.swizzle {
                    0 => Swizzle::None,
                    32 => Swizzle::B32,
                    64 => Swizzle::B64,
                    128 => Swizzle::B128,
                    other => return Err(usage(format!("swizzle {other}: use 0, 32, 64 or 128"))),
                };
                let map = TensorMap {
                    element,
                    address: place(&m.buffer)?,
                    dims: m.dims.clone(),
                    strides: m.strides.clone(),
                    tile: m.tile.clone(),
                    swizzle,
                    fill_nan: m.fill_nan,
                };
                Value::Bytes(map.encode().map_err(|error| usage(error.to_string()))?.to_vec())
            }
        })
    }
}

/// The architecture a PTX text is for, rounded up to one whose limits are known.
fn target(ptx: &str) -> Arch {
    let named = ptx.split_whitespace().skip_while(|word| *word != ".target").nth(1).unwrap_or_default();
    let digits: String = named.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    let sm: u32 = digits.parse().unwrap_or(80);
    Arch::ALL.into_iter().find(|arch| arch.limits().sm >= sm).unwrap_or(Arch::Sm120)
}

impl Args {
    pub fn run(&self) -> Result<Verdict, CliError> {
        let ptx = String::from_utf8(read(&self.ptx, MOST_PTX)?)
            .map_err(|_| usage(format!("{}: not a PTX text", self.ptx.display())))?;
        let module = Module::parse_aligned(&ptx, self.shared_alignment.into())
            .map_err(|error| usage(format!("{}: {error}", self.ptx.display())))?;
        let spec = Spec::read(&self.launch)?;
        let entry = match &self.entry {
            Some(entry) => entry.clone(),
            None => match module.entries().collect::<Vec<_>>()[..] {
                [only] => only.to_owned(),
                [] => return Err(usage(format!("{}: no kernel (`.entry`) in it", self.ptx.display()))),
                ref several => return Err(usage(format!("choose --entry: {}", several.join(", ")))),
            },
        };
        let mut memory = Memory::new();
        let folder = self.launch.parent().unwrap_or(Path::new("."));
        let mut buffers = BTreeMap::new();
        for (name, buffer) in &spec.buffers {
            buffers.insert(name.clone(), buffer.place(name, folder, &mut memory)?);
        }
        let argument = |(i, given): (usize, &serde_json::Value)| {
            let known = Argument::deserialize(given).map_err(|_| {
                usage(format!(
                    "args[{i}]: give one of buffer (and offset), i32, i64, f32, pointer, bytes, tensor_map; got {given}"
                ))
            })?;
            known.value(&buffers).map_err(|error| usage(format!("args[{i}]: {error}")))
        };
        let args = spec.args.iter().enumerate().map(argument).collect::<Result<Vec<_>, _>>()?;
        let outputs: Vec<Address> = buffers.values().filter(|b| b.output).map(|b| b.address).collect();
        let limits = self.arch.unwrap_or_else(|| target(&ptx)).limits();
        let launch = Launch {
            entry: &entry,
            grid: three("grid", &spec.grid)?,
            block: three("block", &spec.block)?,
            shared_bytes: spec.shared_bytes,
            args: &args,
            limits: Limits {
                shared_per_block: limits.shared_per_block,
                threads_per_block: limits.threads_per_block,
                sm: limits.sm,
            },
            check: self.check.get(),
            landing: if self.late { Landing::Late } else { Landing::Early },
            order: self.order,
            outputs: &outputs,
            count: self.count,
            instructions: self.max_instructions,
        };
        let lines = if ptx.contains(".loc") { "" } else { NO_LINES };
        let report = match gdn2_vm::run(&module, &launch, &mut memory) {
            Ok(report) => report,
            Err(trap) => {
                let text = if self.json {
                    format!("{:#}\n", serde_json::json!({"trap": trap}))
                } else {
                    format!("trap: {trap}\n{lines}")
                };
                write::stdout(text.as_bytes())?;
                return Ok(Verdict::Bad);
            }
        };
        if let Some(out) = &self.out {
            let views = buffers.iter().filter(|(_, b)| b.output).map(|(name, b)| {
                let view = TensorView::new(b.dtype, b.shape.clone(), memory.read(b.address));
                view.map(|view| (name.clone(), view)).map_err(|error| usage(format!("output `{name}`: {error}")))
            });
            let bytes = safetensors::serialize(views.collect::<Result<Vec<_>, _>>()?, None)
                .map_err(|error| usage(error.to_string()))?;
            write::file(out, &bytes)?;
        }
        let text = if self.json {
            format!("{}\n", serde_json::to_string_pretty(&report)?)
        } else {
            let mut text = format!("{entry}: {} warp instructions", report.instructions);
            if let Some(c) = &report.counters {
                text += &format!(
                    ", {} B read in {} sectors, {} B written in {} sectors, {} shared wavefronts ({} without conflicts)",
                    c.global_read_bytes,
                    c.global_read_sectors,
                    c.global_write_bytes,
                    c.global_write_sectors,
                    c.shared_wavefronts,
                    c.shared_ideal_wavefronts
                );
            }
            text += &match report.findings.len() {
                0 if self.check.get() == Check::Full => ", no findings\n".to_owned(),
                0 => "\n".to_owned(),
                n => format!(", {n} findings\n"),
            };
            if !report.printed.is_empty() {
                text += &report.printed;
                text += if report.printed.ends_with('\n') { "" } else { "\n" };
            }
            text += &report.findings.iter().map(|f| format!("{f}\n")).collect::<String>();
            if report.findings.is_empty() { text } else { text + lines }
        };
        write::stdout(text.as_bytes())?;
        Ok(if report.findings.is_empty() { Verdict::Good } else { Verdict::Bad })
    }
}
