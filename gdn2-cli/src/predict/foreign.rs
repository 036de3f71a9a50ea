//! Predictions of any kernel: a cubin and the launch file that `gdn2 vm` takes.

use std::path::PathBuf;

use gdn2_clock::gpu::Explanation;
use gdn2_clock::kernel::{Kernel, roles};
use gdn2_clock::launch::{Argument, Launch};
use gdn2_runtime::toolchain::Nvdisasm;
use gdn2_tune::model::Constants;
use gdn2_tune::published::{Learnt, Pattern};
use gdn2_tune::report::micros;
use gdn2_tune::timing;

use super::{Args, role_lines};
use crate::error::CliError;
use crate::launch_file::LaunchFile;
use crate::{Verdict, write};

/// Any kernel instead of a rule's.
#[derive(clap::Args)]
pub(super) struct Flags {
    /// How a kernel is launched, as `gdn2 vm` takes it; several times for a pipeline
    #[arg(long, value_name = "LAUNCH.json", requires = "cubin")]
    launch: Vec<PathBuf>,
    /// Machine code of each launch, or one for all
    #[arg(long, value_name = "K.cubin", requires = "launch")]
    cubin: Vec<PathBuf>,
    /// Entry of each launch; may be left out where a cubin has one
    #[arg(long, requires = "launch")]
    entry: Vec<String>,
    /// Blocks of the launch instead of its grid's: what is walked are the grid's
    #[arg(long, value_name = "N", requires = "launch")]
    blocks: Option<u64>,
    /// Units of work, such as tokens times heads, to divide instructions and clocks by
    #[arg(long, value_name = "N", requires = "launch", value_parser = clap::value_parser!(u64).range(1..))]
    per: Option<u64>,
    /// Bytes that the launches must move through memory, each; their buffers' sizes unless given
    #[arg(long, value_name = "BYTES", requires = "launch")]
    bytes: Vec<f64>,
    /// Address of a branch that memory decides and that is taken
    #[arg(long, value_name = "ADDRESS", requires = "launch", value_parser = address)]
    taken: Vec<u32>,
    /// Address of a branch that memory decides and that is not taken
    #[arg(long, value_name = "ADDRESS", requires = "launch", value_parser = address)]
    not_taken: Vec<u32>,
    /// With --json: clocks of each launch as the files of published times hold them, at several costs of a warpgroup's
    /// products
    #[arg(long, requires_all = ["launch", "json"])]
    strengths: bool,
}

/// Costs of a warpgroup's products, in data sheet's clocks, that published rows are simulated at: on the pipe, and from
/// product to product.
const ON_THE_PIPE: [f64; 3] = [1.5, 2.0, 2.5];
const IN_A_CHAIN: [f64; 3] = [2.0, 3.0, 4.0];

fn address(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u32::from_str_radix(digits, 16).map_err(|_| format!("`{text}` is no address, such as 0x1f40"))
}

impl Flags {
    pub(super) fn given(&self) -> bool {
        !self.launch.is_empty()
    }
}

fn usage(text: impl Into<String>) -> CliError {
    CliError::Usage(text.into())
}

pub(super) fn run(args: &Args, constants: &Constants) -> Result<Verdict, CliError> {
    let flags = &args.foreign;
    if !args.rules.is_empty() {
        return Err(usage("give rules, or --launch and --cubin, not both"));
    }
    let gpu = timing::gpu(constants).map_err(|error| usage(error.to_string()))?;
    let learnt = Learnt::shipped()?;
    let disassembler = Nvdisasm::find(&args.compiler.search())?;
    let mut text = format!("on {}: predicted, not measured\n\n", args.target);
    let (mut rows, mut low_sum, mut high_sum) = (Vec::new(), 0.0, 0.0);
    for (index, path) in flags.launch.iter().enumerate() {
        let one_or_each = |count: usize, what: &str| match count {
            0 => Ok(None),
            1 => Ok(Some(0)),
            count if count == flags.launch.len() => Ok(Some(index)),
            count => {
                Err(usage(format!("{count} times --{what} for {} launches: give one, or one each", flags.launch.len())))
            }
        };
        let cubin_path = one_or_each(flags.cubin.len(), "cubin")?.map(|at| &flags.cubin[at]);
        let cubin_path = cubin_path.ok_or_else(|| usage("--launch needs --cubin"))?;
        let entry = one_or_each(flags.entry.len(), "entry")?.map(|at| flags.entry[at].as_str());
        let cubin = std::fs::read(cubin_path).map_err(|source| CliError::Read { path: cubin_path.clone(), source })?;
        let wrong = |error: &dyn std::fmt::Display| usage(format!("{}: {error}", cubin_path.display()));
        let disassembly = disassembler.encoded_sass(&cubin)?;
        let kernel = Kernel::read(&cubin, &disassembly, entry).map_err(|error| wrong(&error))?;
        let file = LaunchFile::read(path)?;
        let (launch, buffer_bytes) = launch(&file, flags)?;
        let sample = kernel.sample(&launch).map_err(|error| wrong(&error))?;
        let blocks = flags.blocks.unwrap_or(sample.blocks);
        let under =
            |explanation| kernel.clocks(&launch, &sample, blocks, &gpu, explanation).map_err(|error| wrong(&error));
        let mut runs = timing::explanations(&kernel, &learnt).into_iter().map(under).collect::<Result<Vec<_>, _>>()?;
        runs.sort_by(|a, b| a.total.total_cmp(&b.total));
        let moved = sample.block_bytes() * blocks as f64;
        let bytes = one_or_each(flags.bytes.len(), "bytes")?.map(|at| flags.bytes[at]);
        let bytes = bytes.unwrap_or(moved.min(buffer_bytes * blocks as f64 / sample.blocks.max(1) as f64));
        let pattern = Pattern::of(moved, bytes);
        let memory = bytes / (gpu.dram * learnt.fit.attained(pattern));
        let (Some(fast), Some(slow)) = (runs.first(), runs.last()) else { continue };
        let time = |clocks: f64| (clocks / gpu.clock).max(memory) + gpu.launch;
        let (low, high) = (time(fast.total), time(slow.total));
        let decided = if memory > slow.total / gpu.clock { "memory".to_owned() } else { slow.decided().to_string() };
        (low_sum, high_sum) = (low_sum + low, high_sum + high);
        text += &format!(
            "{}: {} to {}, {:.0} to {:.0} clocks, {blocks} blocks, {} resident, {:.1} MB, decided by {decided}\n",
            kernel.entry.name,
            micros(low),
            micros(high),
            fast.total,
            slow.total,
            slow.resident,
            bytes / 1e6,
        );
        if let Some(per) = flags.per {
            let block: usize = sample.kinds.first().map_or(0, |kind| kind.executed().count());
            let per = per as f64;
            let instructions = block as f64 * blocks as f64 / per;
            text += &format!(
                "  each of {per} units: {instructions:.2} instructions, {:.1} B, {:.4} to {:.4} clocks\n",
                moved / per,
                fast.total / per,
                slow.total / per
            );
        }
        if args.roles {
            text += &role_lines(&roles(&slow.roles));
        }
        text += &sample.notes().keys().map(|note| format!("  assumed: {note}\n")).collect::<String>();
        let mut row = serde_json::json!({
            "entry": kernel.entry.name, "blocks": blocks, "micros": (low * high).sqrt(), "low": low, "high": high,
            "bytes": bytes, "moved": moved, "decided_by": decided, "roles": roles(&slow.roles),
        });
        if flags.strengths {
            let line = |strengths: &[f64], how: fn(f64) -> Explanation| match kernel.uses_wgmma() {
                true => strengths.iter().map(|at| Ok((*at, under(how(*at))?.total.round()))).collect(),
                false => Ok::<_, CliError>(Vec::new()),
            };
            row["published"] = serde_json::to_value(gdn2_tune::published::Launch {
                kernel: kernel.entry.name.clone(),
                data_sheet: under(Explanation::DataSheet)?.total.round(),
                pipe: line(&ON_THE_PIPE, Explanation::Pipe)?,
                chain: line(&IN_A_CHAIN, Explanation::Chain)?,
                bytes: bytes.round(),
                pattern,
            })?;
        }
        rows.push(row);
    }
    if rows.len() > 1 {
        text += &format!("all: {} to {}\n", micros(low_sum), micros(high_sum));
    }
    if args.json {
        text = format!(
            "{:#}\n",
            serde_json::json!({
                "launches": rows, "low": low_sum, "high": high_sum, "constants": timing::fingerprint(&gpu),
            })
        );
    }
    write::stdout(text.as_bytes())?;
    Ok(Verdict::Good)
}

/// The launch of a file, and the bytes of its buffers.
fn launch(file: &LaunchFile, flags: &Flags) -> Result<(Launch, f64), CliError> {
    let decided = flags.taken.iter().map(|at| (*at, true)).chain(flags.not_taken.iter().map(|at| (*at, false)));
    let placed = file.placed()?;
    let mut arguments = Vec::new();
    for (value, tile_bytes) in placed.values {
        arguments.push(match tile_bytes {
            Some(tile_bytes) => Argument::TensorMap { tile_bytes },
            None => timing::argument(&value),
        });
    }
    let launch = Launch {
        grid: placed.grid,
        block: placed.block,
        dynamic_shared: placed.shared_bytes,
        arguments,
        memory: placed.contents,
        decided: decided.collect(),
    };
    Ok((launch, placed.bytes))
}
