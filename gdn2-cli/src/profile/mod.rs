//! `gdn2 profile`: where a kernel's work goes, counted on the virtual machine by stage and source line.

mod stages;
mod sum;

use std::collections::BTreeMap;
use std::path::PathBuf;

use gdn2_codegen::abi::Tensor;
use gdn2_codegen::kernel::Pass;
use gdn2_dsl::{Draw, Regime};
use gdn2_runtime::artifact::Artifact;
use gdn2_runtime::device::Device;
use gdn2_runtime::engine::{Engine, Run, RunError, Training, execute, forward_for_backward, gradients};
use gdn2_runtime::problem::Problem;
use gdn2_runtime::tensors::Case;
use gdn2_vm::Report;

use crate::error::CliError;
use crate::select::{Overrides, Selection};
use crate::shape::Shape;
use crate::target::Target;
use crate::{Verdict, floor, write};
use stages::{Functions, Parts, Stage};
use sum::Sum;

/// Count a kernel's work on the virtual machine, by stage and source line
///
/// First by the stages of the plan: copies, gates, scores, solve, state, outputs and, backward, gradients. Then by the
/// functions of the generated CUDA, each with all that it calls, one in another; those below a hundredth are left out. A
/// share is of all warp instructions of the PTX; the path's is of a block's longest chain of instructions, through
/// one warp after another, handed on at barriers and mbarriers. Waves are passes over the 32 banks of shared memory,
/// conflicts those beyond the least; bytes are those of global memory asked for. Registers, spills and static shared
/// memory are the assembler's. The floor is each input read once and each output written once, states included. Backward is
/// profiled alone, after the forward pass that keeps what it reads. JSON has the stages of the plan under `parts`, each
/// function alone under `stages`, and what it calls with it under `calls`.
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
    /// How many stages in one another to show
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    depth: u8,
    /// File to write the CUDA to, each line with what it costs
    #[arg(long, value_name = "ANNOTATED.cu")]
    annotate: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    overrides: Overrides,
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
        let entries: Vec<&str> = artifact.resources.iter().map(|r| r.entry.as_str()).collect();
        let functions = Functions::of(&lines, &entries);
        let (mut alone, mut by_line) = (BTreeMap::new(), BTreeMap::new());
        let (mut parts, mut calls) = (Parts::default(), Stage::default());
        let counted = || reports.iter().filter_map(|report| report.counters.as_ref());
        for i in counted().flat_map(|counters| &counters.instructions) {
            let line = i.source.as_ref().map_or(0, |source| source.line);
            let entry: &mut Sum = alone.entry(functions.at(line)).or_default();
            entry.add(i);
            let entry: &mut Sum = by_line.entry(line).or_default();
            entry.add(i);
            parts.add(&functions, i);
            calls.add(&functions, i);
        }
        let total = calls.total();
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
                "tokens": tokens, "total": total, "parts": parts.named().collect::<BTreeMap<_, _>>(), "stages": alone, "calls": calls, "lines": by_line, "plan": stages_of_plan,
                "distinct_read_sectors": read, "distinct_write_sectors": written,
                "resources": artifact.resources, "floor": floor,
            });
            format!("{json:#}\n")
        } else {
            let mut text = format!("{} {pass} {} {}\n", rule.name, artifact.kernel.arch, artifact.kernel.schedule);
            for r in &artifact.resources {
                text += &format!(
                    "{}: {} registers, {} B spill stores, {} B spill loads, {} B static shared memory\n",
                    r.entry, r.registers, r.spill_stores, r.spill_loads, r.static_shared
                );
            }
            let plan: Vec<&str> =
                stages_of_plan.as_array().into_iter().flatten().filter_map(|stage| stage.as_str()).collect();
            text += &format!(
                "plan: {}\ndevice memory: {} B moved, {} B distinct in sectors, floor {least} B\n{} instructions, \
                 the longest path {}\n\n{}\n\n{}\n",
                plan.join(", "),
                total.bytes(),
                32 * (read + written),
                total.instructions,
                total.path,
                parts.table(total),
                calls.table(self.depth.into())
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
                format!("{:>9} {:>10} {wavefronts:>14} {:>9} ", s.instructions, s.matrix_fmas, s.bytes())
            }
            None => " ".repeat(46),
        };
        text += &format!("{cost}| {line}\n");
    }
    text
}
