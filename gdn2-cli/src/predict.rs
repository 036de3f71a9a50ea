//! `gdn2 predict`: what the time model says of kernels that no GPU is at hand for.

use std::path::PathBuf;

use comfy_table::{CellAlignment, Table, presets};
use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::Pass;
use gdn2_codegen::record::StallSource;
use gdn2_codegen::schedule::Schedule;
use gdn2_dsl::Rule;
use gdn2_runtime::toolchain::Nvdisasm;
use gdn2_tune::evaluate::Evaluator;
use gdn2_tune::job::{Engine, Job};
use gdn2_tune::log::Effort;
use gdn2_tune::model::{Constants, floor_micros, predict};
use gdn2_tune::outcome::Outcome;
use gdn2_tune::published;
use gdn2_tune::report::micros;
use gdn2_tune::worker::{Request, Step};

use crate::error::CliError;
use crate::progress::Progress;
use crate::select::{Overrides, Selection, pass};
use crate::shape::Shape;
use crate::{Verdict, compiler, tune, tuned, write};

/// Predict a kernel's time on a GPU that is not at hand
///
/// By the time model of `gdn2 tune --device model`: counts of the virtual machine at the GPU's rates. Each kernel is run
/// and held against the reference before its time counts. A prediction is no measurement: the band beside it is the
/// model's error, and the times that others published are there to compare, not to pass.
#[derive(clap::Args)]
#[command(after_help = "Example:
  gdn2 predict rules/gdn.gdn2 rules/kda.gdn2 rules/gdn2.gdn2 --target h200 --shape B=8,T=8192,H=16 \\
    --shape B=1,T=8192,H=16")]
pub struct Args {
    /// Rule files; FILE#RULE for one rule of several
    #[arg(value_name = "FILE[#RULE]", required = true)]
    rules: Vec<Selection>,
    /// forward, backward or decode
    #[arg(long, default_value = "forward", value_parser = pass)]
    pass: Pass,
    /// Sizes of a call, any number of times; HV, the value heads, is H unless given
    #[arg(long, value_name = "B=…,T=…,H=…[,HV=…]", required = true)]
    shape: Vec<Shape>,
    /// GPU: h200, h100, h20, a100, a40, l40s, rtx4090, rtx5090
    #[arg(long, value_name = "GPU")]
    target: String,
    /// Schedule fields, such as chunk=64,warps=4, any number of times; without any, the built-in schedule, forward with
    /// each matrix instruction that the GPU has, and in segments where sequences and heads leave multiprocessors idle
    #[arg(long, value_name = "FIELD=N,…")]
    schedule: Vec<String>,
    /// Folder of the records, whose constants come before the program's own
    #[arg(long, default_value = tuned::FOLDER, value_name = "DIR")]
    records: PathBuf,
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    compiler: compiler::Flags,
}

impl Args {
    pub fn run(&self) -> Result<Verdict, CliError> {
        let arch = tune::arch_of(&self.target)?;
        let constants = Constants::of(&self.target, Some(&self.records))?;
        let search = self.compiler.search();
        let disassembler = Nvdisasm::find(&search).ok();
        let stalls = if disassembler.is_some() { StallSource::MachineCode } else { StallSource::Constants };
        let mut evaluator = Evaluator::new(self.compiler.bare(), Some(self.records.clone()), search.cache.as_deref())
            .with_disassembler(disassembler);
        let mut requests = Vec::new();
        for rule in &self.rules {
            for rule in rule.rules()? {
                let rule = self.overrides.apply(rule)?;
                gdn2_codegen::takes(&rule, self.pass)?;
                for shape in &self.shape {
                    let units = u64::from(constants.multiprocessors());
                    let segments = segments(units / (shape.batch * shape.value_heads).max(1) as u64);
                    for schedule in self.schedules(&rule, arch, segments)? {
                        let (rule, gpu, shape) = (rule.clone(), self.target.clone(), tune::of(*shape)?);
                        let job = Job { rule, pass: self.pass, shape, gpu, arch, engine: Engine::Model };
                        requests.push(Request { job, schedule, effort: Effort::FIRST, step: Step::Evaluate });
                    }
                }
            }
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["rule", "shape", "schedule", "predicted", "band", "decided by", "floor", "best published"]);
        let progress = Progress::new("predicting", requests.len());
        let mut good = true;
        for request in &requests {
            progress.step(&format!("{} {}", request.job.rule.name, request.schedule));
            good &= row(&mut table, request, &mut evaluator, &constants);
        }
        drop(progress);
        for column in [3, 6] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let text = format!(
            "{} on {}: predicted, not measured; error band ±{:.0} %, {stalls}\n\n{table}\n",
            self.pass,
            self.target,
            100.0 * constants.band()
        );
        write::stdout(text.as_bytes())?;
        Ok(if good { Verdict::Good } else { Verdict::Bad })
    }

    /// The schedules to compare.
    fn schedules(&self, rule: &Rule, arch: Arch, segments: u64) -> Result<Vec<Schedule>, CliError> {
        let mut texts = match (self.schedule.as_slice(), self.pass, arch.limits().wgmma) {
            ([], Pass::Forward, Some(_)) => vec!["matrix=mma".to_owned(), "matrix=wgmma,segments=1".to_owned()],
            ([], ..) => vec![String::new()],
            (asked, ..) => asked.to_vec(),
        };
        if self.schedule.is_empty() && texts.len() > 1 && segments > 1 {
            texts.push(format!("matrix=wgmma,segments={segments}"));
        }
        let of = |text: &String| Ok(Schedule::from_overrides(rule, self.pass, arch, text)?);
        texts.iter().map(of).collect()
    }
}

/// Into how many parts a sequence goes where each could have that many multiprocessors: a power of two up to 8.
fn segments(multiprocessors: u64) -> u64 {
    1 << multiprocessors.max(1).ilog2().min(3)
}

/// Adds what becomes of a kernel; whether it has a time.
fn row(table: &mut Table, request: &Request, evaluator: &mut Evaluator, constants: &Constants) -> bool {
    let Request { job, schedule, .. } = request;
    let mut cells = vec![job.rule.name.clone(), job.shape.to_string(), schedule.to_string()];
    let good = match evaluator.answer(request) {
        Some(Outcome::Correct(sample)) => {
            let (time, band) = (sample.time.micros, sample.time.spread);
            let bytes = job.compulsory_bytes();
            let prediction = predict(&sample.launches, bytes, &job.arch.limits(), constants);
            cells.push(micros(time));
            cells.push(format!("{} to {}", micros(time / (1.0 + band)), micros(time * (1.0 + band))));
            cells.push(prediction.bound.to_string());
            true
        }
        Some(Outcome::Invalid { reason, detail }) => {
            cells.extend([reason.to_string(), String::new(), detail]);
            false
        }
        None => {
            cells.extend([String::new(), String::new(), String::new()]);
            false
        }
    };
    cells.push(micros(floor_micros(job.compulsory_bytes(), job.multiply_adds(), constants)));
    let published = published::best(job);
    cells.push(published.map_or("none".to_owned(), |best| format!("{} ms, {}", best.milliseconds, best.by)));
    table.add_row(cells);
    good
}
