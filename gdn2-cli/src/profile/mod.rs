//! `gdn2 profile`: where a kernel's work goes, counted on the virtual machine by stage and source line.

use std::collections::BTreeMap;
use std::path::PathBuf;

use comfy_table::{CellAlignment, Table, presets};
use gdn2_codegen::abi::Tensor;
use gdn2_codegen::kernel::Pass;
use gdn2_dsl::{Draw, Regime};
use gdn2_runtime::artifact::Artifact;
use gdn2_runtime::device::Device;
use gdn2_runtime::engine::{Engine, Run, RunError, Training, execute, forward_for_backward, gradients};
use gdn2_runtime::problem::Problem;
use gdn2_runtime::tensors::Case;
use gdn2_vm::{Class, InstructionCount, Report};
use serde::Serialize;

use crate::error::CliError;
use crate::select::{Overrides, Selection};
use crate::shape::Shape;
use crate::target::Target;
use crate::{Verdict, floor, write};

/// Count a kernel's work on the virtual machine, by stage and source line
///
/// A stage is a function of the generated CUDA. Instructions are warp instructions of the PTX; shared wavefronts are
/// passes over the 32 banks, conflicts those beyond the least; sectors are of 32 bytes, no cache assumed. Registers,
/// spills and static shared memory are the assembler's. The floor is each input read once and each output written once,
/// states included. The path is a block's longest, through one warp after another, handed on at barriers and mbarriers,
/// of all blocks together. Backward is profiled alone, after the forward pass that keeps what it reads.
#[derive(clap::Args)]
#[command(after_help = "Example:
  gdn2 profile rules/gdn.gdn2 --pass forward --shape B=1,T=128,H=1 --device vm --annotate annotated.cu")]
pub struct Args {
    /// Rule file; FILE#RULE where it holds several
    #[arg(value_name = "FILE[#RULE]")]
    rule: Selection,
    #[command(flatten)]
    target: Target,
    /// Sizes
    #[arg(long, default_value = "B=1,T=128,H=1", value_name = "B=…,T=…,H=…[,HV=…]")]
    shape: Shape,
    /// File to write the CUDA to, each line with what it costs
    #[arg(long, value_name = "ANNOTATED.cu")]
    annotate: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    overrides: Overrides,
}

/// What some instructions did together.
#[derive(Clone, Debug, Default, Serialize)]
struct Sum {
    instructions: u64,
    /// On the longest path of each block.
    path: u64,
    by_class: BTreeMap<Class, u64>,
    /// With fewer than 32 lanes.
    partial: u64,
    matrix_fmas: u64,
    shared_wavefronts: u64,
    bank_conflicts: u64,
    global_read_sectors: u64,
    global_write_sectors: u64,
    global_read_bytes: u64,
    global_write_bytes: u64,
}

impl Sum {
    fn add(&mut self, i: &InstructionCount) {
        self.instructions += i.executed;
        self.path += i.longest;
        *self.by_class.entry(i.class).or_default() += i.executed;
        self.partial += i.partial;
        self.matrix_fmas += i.matrix_fmas;
        self.shared_wavefronts += i.shared_wavefronts;
        self.bank_conflicts += i.shared_wavefronts.saturating_sub(i.shared_ideal_wavefronts);
        self.global_read_sectors += i.global_read_sectors;
        self.global_write_sectors += i.global_write_sectors;
        self.global_read_bytes += i.global_read_bytes;
        self.global_write_bytes += i.global_write_bytes;
    }

    fn class(&self, class: Class) -> u64 {
        self.by_class.get(&class).copied().unwrap_or_default()
    }
}

/// The function around a line of generated CUDA, with its struct where it has one.
fn stage(lines: &[&str], line: u32) -> String {
    let named = |text: &str, before: &str| {
        let head = text.split_once(before)?.0;
        let name = head.rsplit(|c: char| !(c.is_alphanumeric() || c == '_')).next()?;
        (!name.is_empty()).then(|| name.to_owned())
    };
    let mut at = (line as usize).min(lines.len());
    while at > 0 {
        at -= 1;
        let text = lines[at];
        if text.contains("METHOD ") && !text.starts_with("#define") {
            let owner = lines[..at].iter().rev().find_map(|l| Some(l.split_once("struct ")?.1));
            let owner = owner.and_then(|l| l.split(|c: char| !(c.is_alphanumeric() || c == '_')).next());
            return format!("{}::{}", owner.unwrap_or("?"), named(text, "(").unwrap_or_default());
        }
        if text.starts_with("DEVICE ") {
            return named(text, "(").unwrap_or_default();
        }
        if text.contains("__global__") {
            return "kernel body".to_owned();
        }
    }
    "elsewhere".to_owned()
}

fn rows(sums: &BTreeMap<String, Sum>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "stage",
        "instr",
        "path",
        "int",
        "float",
        "cvt",
        "special",
        "matrix",
        "FMA",
        "shared",
        "wavefronts",
        "conflicts",
        "global",
        "read B",
        "written B",
        "sectors",
        "copies",
        "exchange",
        "waits",
        "branches",
        "partial",
    ]);
    let mut order: Vec<_> = sums.iter().collect();
    order.sort_by_key(|(_, sum)| std::cmp::Reverse(sum.instructions));
    for (name, sum) in order {
        let mut row = vec![name.clone()];
        let numbers = [
            sum.instructions,
            sum.path,
            sum.class(Class::Integer),
            sum.class(Class::Float),
            sum.class(Class::Convert),
            sum.class(Class::Special),
            sum.class(Class::Matrix),
            sum.matrix_fmas,
            sum.class(Class::Shared),
            sum.shared_wavefronts,
            sum.bank_conflicts,
            sum.class(Class::Global),
            sum.global_read_bytes,
            sum.global_write_bytes,
            sum.global_read_sectors + sum.global_write_sectors,
            sum.class(Class::Copy),
            sum.class(Class::Exchange),
            sum.class(Class::Wait),
            sum.class(Class::Branch),
            sum.partial,
        ];
        row.extend(numbers.map(|n| n.to_string()));
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Runs a pass and gives its kernels with a report for each of its launches.
fn ran(engine: &Engine, run: &Run<'_>, problem: &Problem<'_>) -> Result<(Artifact, Vec<Report>), RunError> {
    match run.pass {
        Pass::Forward | Pass::Decode => {
            let artifact = engine.artifact(run)?;
            let reports = execute(run, Some(&artifact), problem)?.reports;
            Ok((artifact, reports))
        }
        Pass::ForwardForBackward => {
            let artifact = engine.artifact(run)?;
            let training = Training { forward: Some(artifact.clone()), backward: artifact.clone() };
            let (outcome, _) = forward_for_backward(run, Some(&training), None, problem)?;
            Ok((artifact, outcome.reports))
        }
        Pass::Backward => {
            let training = engine.training(run)?;
            let mut reports = gradients(run, Some(&training), problem)?.reports;
            let forward = training.forward.as_ref().map_or(0, |forward| forward.kernel.launches.len());
            reports.drain(..forward.min(reports.len()));
            Ok((training.backward, reports))
        }
    }
}

impl Args {
    pub fn run(&self) -> Result<Verdict, CliError> {
        let rule = self.overrides.apply(self.rule.rule()?)?;
        let Device::Vm(mut settings) = self.target.device()? else {
            return Err(CliError::Usage("profile counts on the virtual machine: pass --device vm".to_owned()));
        };
        settings.count = true;
        let device = Device::Vm(settings);
        let Shape { batch, tokens, heads, value_heads } = self.shape;
        let draw = Draw { regime: Regime::Mild, ..Draw::new(batch, tokens, heads, value_heads, 1) };
        let pass = self.target.pass;
        let case = Case::drawn_inputs(&rule, &draw, pass == Pass::Backward)?;
        let run = Run { tokens_per_launch: tokens.max(1), ..self.target.of(&rule, &device) };
        let problem = Problem::new(&rule, &case).map_err(RunError::from)?;
        let (artifact, reports) = ran(&self.target.engine()?, &run, &problem)?;

        let text = &artifact.source.text;
        let lines: Vec<&str> = text.lines().collect();
        let (mut stages, mut by_line, mut total) = (BTreeMap::new(), BTreeMap::new(), Sum::default());
        let counted = || reports.iter().filter_map(|report| report.counters.as_ref());
        for i in counted().flat_map(|counters| &counters.instructions) {
            let line = i.source.as_ref().map_or(0, |source| source.line);
            let entry: &mut Sum = stages.entry(stage(&lines, line)).or_default();
            entry.add(i);
            let entry: &mut Sum = by_line.entry(line).or_default();
            entry.add(i);
            total.add(i);
        }
        let cost = rule.token_cost();
        let pairs = (batch * tokens * value_heads) as u64;
        // The final states are asked for; the initial ones are read where the case has them.
        let read: u64 = counted().map(|counters| counters.distinct_read_sectors).sum();
        let written: u64 = counted().map(|counters| counters.distinct_write_sectors).sum();
        let stages_of_plan = serde_json::to_value(gdn2_codegen::plan(&rule, pass).stages)?;
        let states = 1 + u64::from(case.tensors.contains_key(&Tensor::InitialState));
        let least = floor::bytes(&rule, pass, pairs, states * (batch * value_heads) as u64);
        let floor = serde_json::json!({"global_bytes": least, "multiply_adds": cost.multiply_adds * pairs});
        if let Some(path) = &self.annotate {
            write::file(path, annotated(&lines, &by_line).as_bytes())?;
        }
        let report = if self.json {
            let json = serde_json::json!({
                "rule": rule.name, "pass": pass, "arch": artifact.kernel.arch, "schedule": artifact.kernel.schedule,
                "tokens": tokens, "total": total, "stages": stages, "lines": by_line, "plan": stages_of_plan,
                "distinct_read_sectors": read, "distinct_write_sectors": written,
                "resources": artifact.resources, "floor": floor,
            });
            format!("{json:#}\n")
        } else {
            stages.insert("total".to_owned(), total.clone());
            let mut text = format!("{} {pass} {} {}\n", rule.name, artifact.kernel.arch, artifact.kernel.schedule);
            for r in &artifact.resources {
                text += &format!(
                    "{}: {} registers, {} B spill stores, {} B spill loads, {} B static shared memory\n",
                    r.entry, r.registers, r.spill_stores, r.spill_loads, r.static_shared
                );
            }
            let moved = total.global_read_bytes + total.global_write_bytes;
            let plan: Vec<&str> =
                stages_of_plan.as_array().into_iter().flatten().filter_map(|stage| stage.as_str()).collect();
            text += &format!(
                "plan: {}\ndevice memory: {moved} B moved, {} B distinct in sectors, floor {least} B\n\n{}\n",
                plan.join(", "),
                32 * (read + written),
                rows(&stages)
            );
            text
        };
        write::stdout(report.as_bytes())?;
        Ok(Verdict::Good)
    }
}

/// The source with the warp instructions, wavefronts and conflicts of each line before it.
fn annotated(lines: &[&str], costs: &BTreeMap<u32, Sum>) -> String {
    let mut text = String::from("// instructions, matrix FMA, shared wavefronts (conflicts), global bytes | source\n");
    for (i, line) in lines.iter().enumerate() {
        let cost = match costs.get(&(i as u32 + 1)) {
            Some(s) => {
                let wavefronts = format!("{} ({})", s.shared_wavefronts, s.bank_conflicts);
                let bytes = s.global_read_bytes + s.global_write_bytes;
                format!("{:>9} {:>10} {wavefronts:>14} {bytes:>9} ", s.instructions, s.matrix_fmas)
            }
            None => " ".repeat(46),
        };
        text += &format!("{cost}| {line}\n");
    }
    text
}
