//! `gdn2 vm`: any kernel on the virtual machine, from PTX or CUDA, launched as a JSON file says.

mod kernels;
mod report;
mod template;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use gdn2_codegen::arch::Arch;
use gdn2_vm::launch_file::{self, LaunchFile, Placed, Spec};
use gdn2_vm::{Address, Check, Landing, Launch, Limits, Memory, Report, Trap, Value};
use safetensors::tensor::TensorView;

use crate::error::CliError;
use crate::target::VmCheck;
use crate::{Verdict, terminal, write};
use kernels::{Flags, Loaded};
use report::Reporter;

/// Run a kernel from anywhere on the virtual machine and report what is wrong with it
///
/// KERNEL is a PTX text, or CUDA (.cu), which the NVRTC at hand compiles with the lines of its source; --from-triton takes
/// a folder of Triton's cache instead. All checks are on: races, missing fences and waits, uninitialised reads, double
/// writers. The exit code is 1 where anything was found.
///
/// LAUNCH.json names grid, block, dynamic shared bytes, the buffers and the arguments; --template writes one to begin with:
///
/// {"grid": [2], "block": [128], "shared_bytes": 4096,
///  "buffers": {"a": {"file": "in.safetensors", "tensor": "a", "as": "BF16"}, "n": {"bytes": 64, "fill": "zero"},
///              "c": {"dtype": "F32", "shape": [64, 8], "output": true}},
///  "args": [{"buffer": "a"}, {"buffer": "c", "offset": 128}, {"i32": 48}, {"f32": 0.5}]}
///
/// Buffers come from a safetensors file, cast where `as` says so, or are made: of `bytes` or of a dtype and shape, filled
/// with nan (the default, watched for reads before writes), zero, random (floats from -1 to 1, whole numbers from 0 to 99;
/// the same every time), index (0, 1, 2, …) or a number. Outputs must be written from end to end, and go to --out. Scalars
/// are bool, i8, u8, i16, u16, i32, u32, i64, u64, f16, bf16, f32 and f64. Further arguments: pointer (a number), bytes (a
/// list), and tensor_map: {"buffer", "element", "dims", "strides", "tile", "swizzle": 0, 32, 64 or 128}, innermost
/// dimension first, strides in bytes.
///
/// Several launches over one memory, one after another: {"buffers": …, "launches": [{"kernel": "other.ptx", "entry": …,
/// "grid": …, "block": …, "args": …}, …]}, where `kernel` and `entry` may be left out as on the command line.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  gdn2 vm matmul.cu --template --grid 2,2 --block 16,16 > launch.json
  gdn2 vm matmul.cu --launch launch.json
  gdn2 vm kernel.ptx --entry gemm --launch launch.json --out c.safetensors
  gdn2 vm scale.cu --entry 'scale<float>' -I include -D N=64 --launch launch.json
  gdn2 vm --from-triton ~/.triton/cache --entry add_kernel --launch launch.json")]
pub struct Args {
    /// PTX or CUDA text
    #[arg(value_name = "KERNEL")]
    kernel: Option<PathBuf>,
    /// Folder of Triton's cache that holds the kernel
    #[arg(long, value_name = "DIR", conflicts_with = "kernel")]
    from_triton: Option<PathBuf>,
    /// Entry, or a name expression of C++; may be left out where there is one
    #[arg(long)]
    entry: Option<String>,
    /// How it is launched
    #[arg(long, value_name = "LAUNCH.json", required_unless_present = "template")]
    launch: Option<PathBuf>,
    /// Print a launch file of the kernel's parameters instead of running it
    #[arg(long, conflicts_with = "launch")]
    template: bool,
    /// Template: blocks
    #[arg(long, value_name = "X,Y,Z", value_delimiter = ',', requires = "template")]
    grid: Vec<u32>,
    /// Template: threads of a block
    #[arg(long, value_name = "X,Y,Z", value_delimiter = ',', requires = "template")]
    block: Vec<u32>,
    /// GPU whose limits hold, and CUDA is compiled for: sm_80, sm_86, sm_89, sm_90a or sm_120; without it the PTX's own
    /// target, or sm_80
    #[arg(long)]
    arch: Option<Arch>,
    #[command(flatten)]
    cuda: Flags,
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
    #[arg(long, value_name = "N", default_value_t = MOST_INSTRUCTIONS)]
    max_instructions: u64,
    /// Print the whole report as JSON
    #[arg(long)]
    json: bool,
}

/// What is said behind findings in a PTX text without line tables.
const NO_LINES: &str = "(this PTX has no line table: compiled with -lineinfo, reports name lines of the CUDA source)\n";

/// Warp instructions of a block that ends.
const MOST_INSTRUCTIONS: u64 = 1 << 28;
/// Bytes of what is read from a pipe or device.
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

/// A launch file from its path.
pub(crate) fn launch_file(path: &Path) -> Result<LaunchFile, CliError> {
    LaunchFile::parse(&read(path, launch_file::MOST_TEXT)?)
        .map_err(|error| usage(format!("{}: {error}", path.display())))
}

/// The buffers of the launch file at a path.
pub(crate) fn placed(
    path: &Path,
    file: &LaunchFile,
    memory: &mut Memory,
) -> Result<BTreeMap<String, Placed>, CliError> {
    let most = launch_file::MOST_BYTES;
    file.place(memory, most, |named| read(&beside(path, named), most as u64))
}

/// A path that the launch file at `path` names.
fn beside(path: &Path, named: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new(".")).join(named)
}

/// Where a kernel is: one text serves all launches of its kernels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    Text(PathBuf),
    Triton(PathBuf),
}

impl Args {
    /// Every check on, everything counted, of the launches of a file that names its kernels.
    pub(crate) fn judging(path: PathBuf) -> Args {
        Args {
            kernel: None,
            from_triton: None,
            entry: None,
            launch: Some(path),
            template: false,
            grid: Vec::new(),
            block: Vec::new(),
            arch: None,
            cuda: Flags::as_drivers_do(),
            check: VmCheck::default(),
            out: None,
            late: false,
            order: None,
            count: true,
            max_instructions: MOST_INSTRUCTIONS,
            json: false,
        }
    }

    pub fn run(&self) -> Result<Verdict, CliError> {
        let Some(path) = &self.launch else { return self.template() };
        let ran = self.ran(path)?;
        let mut said = Said::default();
        for launched in &ran.launches {
            if let Some(kernels) = ran.loaded.get(&launched.origin) {
                self.say(&mut said, kernels, &launched.entry, &launched.ended)?;
            }
        }
        if let Some(out) = self.out.as_ref().filter(|_| !said.trapped) {
            let views = ran.buffers.iter().filter(|(_, b)| b.output).map(|(name, b)| {
                let view = TensorView::new(b.dtype, b.shape.clone(), ran.memory.read(b.address));
                view.map(|view| (name.clone(), view)).map_err(|error| usage(format!("output `{name}`: {error}")))
            });
            let bytes = safetensors::serialize(views.collect::<Result<Vec<_>, _>>()?, None)
                .map_err(|error| usage(error.to_string()))?;
            write::file(out, &bytes)?;
        }
        let text = match (self.json, &said.reports[..]) {
            (false, _) => said.text,
            (true, [only]) => format!("{only:#}\n"),
            (true, several) => format!("{:#}\n", serde_json::json!({ "launches": several })),
        };
        write::stdout(text.as_bytes())?;
        Ok(if said.bad { Verdict::Bad } else { Verdict::Good })
    }

    /// Runs the launches of a file, one after another, to the first that does not end.
    pub(crate) fn ran(&self, path: &Path) -> Result<Ran, CliError> {
        let file = launch_file(path)?;
        let mut asked: BTreeMap<Origin, Vec<&str>> = BTreeMap::new();
        for spec in &file.launches {
            asked.entry(self.origin(path, spec)?).or_default().extend(self.entry(spec));
        }
        let mut loaded = BTreeMap::new();
        for (origin, entries) in asked {
            let kernels = self.load(&origin, &entries)?;
            loaded.insert(origin, kernels);
        }
        let mut memory = Memory::new();
        let buffers = placed(path, &file, &mut memory)?;
        let mut launches = Vec::new();
        for (index, spec) in file.launches.iter().enumerate() {
            let origin = self.origin(path, spec)?;
            let Some(kernels) = loaded.get(&origin) else { continue };
            let last = index + 1 == file.launches.len();
            let run = self.launch(spec, kernels, &buffers, last, &mut memory);
            let in_file = |error: CliError| match file.launches.len() {
                1 => error,
                _ => usage(format!("{}: launches[{index}]: {error}", path.display())),
            };
            let (entry, ended) = run.map_err(in_file)?;
            let trapped = ended.is_err();
            launches.push(Launched { origin, entry, ended });
            if trapped {
                break;
            }
        }
        Ok(Ran { launches, buffers, memory, loaded })
    }

    /// The launch file to begin with.
    fn template(&self) -> Result<Verdict, CliError> {
        let loaded = self.load(&self.given()?, &self.entry.iter().map(String::as_str).collect::<Vec<_>>())?;
        let entry = loaded.entry(self.entry.as_deref())?;
        [("grid", &self.grid), ("block", &self.block)]
            .into_iter()
            .filter(|(_, given)| !given.is_empty())
            .try_for_each(|(name, given)| launch_file::three(name, given).map(|_| ()))?;
        let known = || loaded.module.entries().collect::<Vec<_>>().join(", ");
        let text = template::launch_file(&loaded, &entry, &self.grid, &self.block)
            .ok_or_else(|| usage(format!("no entry `{entry}`; the module has {}", known())))?;
        write::stdout(text.as_bytes())?;
        Ok(Verdict::Good)
    }

    /// What the command line names.
    fn given(&self) -> Result<Origin, CliError> {
        match (&self.kernel, &self.from_triton) {
            (Some(path), _) => Ok(Origin::Text(path.clone())),
            (None, Some(folder)) => Ok(Origin::Triton(folder.clone())),
            (None, None) => Err(usage("name a kernel: a .ptx or .cu file, or --from-triton DIR")),
        }
    }

    /// What a launch of the file at `path` names, or the command line.
    fn origin(&self, path: &Path, spec: &Spec) -> Result<Origin, CliError> {
        spec.kernel.as_ref().map_or_else(|| self.given(), |named| Ok(Origin::Text(beside(path, named))))
    }

    /// The name a launch asks for; that of the command line is for those that name neither file nor kernel.
    fn entry<'a>(&'a self, spec: &'a Spec) -> Option<&'a str> {
        spec.entry.as_deref().or(self.entry.as_deref().filter(|_| spec.kernel.is_none()))
    }

    fn load(&self, origin: &Origin, entries: &[&str]) -> Result<Loaded, CliError> {
        match origin {
            Origin::Text(path) => Loaded::read(path, entries, self.arch.unwrap_or(Arch::Sm80), &self.cuda),
            Origin::Triton(folder) => match entries {
                [first, rest @ ..] if rest.iter().any(|other| other != first) => {
                    Err(usage("--from-triton takes one kernel: give the others' PTX as `kernel` of their launches"))
                }
                _ => Loaded::triton(folder, entries.first().copied()),
            },
        }
    }

    /// Runs one launch; what it says of itself that makes no sense is an error, what the kernel does is not.
    fn launch(
        &self,
        spec: &Spec,
        kernels: &Loaded,
        buffers: &BTreeMap<String, Placed>,
        last: bool,
        memory: &mut Memory,
    ) -> Result<(String, Result<Report, Trap>), CliError> {
        let entry = kernels.entry(self.entry(spec))?;
        let mut args: Vec<Value> = spec.values(buffers)?.into_iter().map(|(value, _)| value).collect();
        if kernels.triton.is_some() {
            // Two pointers that Triton appends: global scratch and the profiler's.
            let takes = kernels.module.parameters(&entry).map_or(0, Iterator::count);
            let hidden = takes.saturating_sub(args.len()).min(2);
            args.extend((0..hidden).map(|_| Value::Pointer(0)));
        }
        // The kernel's own, where it asks for a number of threads.
        let asked = kernels.module.threads(&entry).filter(|(_, exact)| *exact).map(|(threads, _)| threads);
        let warps = kernels.triton.as_ref().map(|triton| [triton.threads(), 1, 1]);
        let block = spec.block()?.or(asked).or(warps).ok_or_else(|| usage("missing field `block`"))?;
        let shared = spec.shared_bytes.or(kernels.triton.as_ref().map(|triton| triton.shared)).unwrap_or(0);
        // What all launches together must write, the last one shows.
        let outputs: Vec<Address> = buffers.values().filter(|b| b.output && last).map(|b| b.address).collect();
        let limits = self.arch.unwrap_or_else(|| kernels.target()).limits();
        let launch = Launch {
            entry: &entry,
            grid: spec.grid()?,
            block,
            shared_bytes: shared,
            args: &args,
            limits: Limits {
                shared_per_block: limits.shared_per_block,
                threads_per_block: limits.threads_per_block,
                sm: limits.sm,
            },
            check: self.check.or(Check::Full),
            landing: if self.late { Landing::Late } else { Landing::Early },
            order: self.order,
            outputs: &outputs,
            count: self.count,
            instructions: self.max_instructions,
        };
        let ended = gdn2_vm::run(&kernels.module, &launch, memory);
        Ok((entry, ended))
    }

    fn say(
        &self,
        said: &mut Said,
        kernels: &Loaded,
        entry: &str,
        ended: &Result<Report, Trap>,
    ) -> Result<(), CliError> {
        let mut reporter = Reporter::new(kernels, terminal::colored_output());
        let lines = if kernels.ptx.contains(".loc") { "" } else { NO_LINES };
        let report = match ended {
            Ok(report) => report,
            Err(trap) => {
                said.reports.push(serde_json::json!({ "trap": trap }));
                said.text += &(reporter.trap(trap) + lines);
                (said.bad, said.trapped) = (true, true);
                return Ok(());
            }
        };
        said.reports.push(serde_json::to_value(report)?);
        said.bad |= !report.findings.is_empty();
        said.text += &format!("{entry}: {} warp instructions", report.instructions);
        if let Some(c) = &report.counters {
            said.text += &format!(
                ", {} B read in {} sectors, {} B written in {} sectors, {} shared wavefronts ({} without conflicts)",
                c.global_read_bytes,
                c.global_read_sectors,
                c.global_write_bytes,
                c.global_write_sectors,
                c.shared_wavefronts,
                c.shared_ideal_wavefronts
            );
        }
        said.text += match (report.findings.len(), self.check.or(Check::Full)) {
            (0, Check::Full) => ", full checks, no findings\n".to_owned(),
            (0, Check::Basic) => ", basic checks, no trap; races and missing fences were not looked for\n".to_owned(),
            (1, _) => ", full checks, 1 finding\n\n".to_owned(),
            (n, _) => format!(", full checks, {n} findings\n\n"),
        }
        .as_str();
        if !report.printed.is_empty() {
            said.text += &report.printed;
            said.text += if report.printed.ends_with('\n') { "" } else { "\n" };
        }
        said.text += &report.findings.iter().map(|finding| reporter.finding(finding)).collect::<String>();
        if report.left_out > 0 {
            said.text += &format!("and {} more, not told one by one\n", report.left_out);
        }
        if !report.findings.is_empty() {
            said.text += lines;
        }
        Ok(())
    }
}

/// Launches that ran over one memory.
pub(crate) struct Ran {
    /// In their order.
    pub launches: Vec<Launched>,
    /// The buffers by name.
    pub buffers: BTreeMap<String, Placed>,
    /// What they hold now.
    pub memory: Memory,
    loaded: BTreeMap<Origin, Loaded>,
}

/// One launch and how it ended.
pub(crate) struct Launched {
    origin: Origin,
    /// Its kernel.
    pub entry: String,
    /// What was seen, or what stopped it.
    pub ended: Result<Report, Trap>,
}

/// What is said of the launches so far.
#[derive(Default)]
struct Said {
    text: String,
    reports: Vec<serde_json::Value>,
    /// Something was found.
    bad: bool,
    trapped: bool,
}
