//! Predictions of our own kernels: rules, shapes, schedules.

use comfy_table::{CellAlignment, ColumnConstraint, Table};
use gdn2_codegen::abi::Extents;
use gdn2_codegen::arch::Arch;
use gdn2_codegen::bind;
use gdn2_codegen::kernel::Pass;
use gdn2_codegen::lookup::Question;
use gdn2_codegen::record::Records;
use gdn2_codegen::schedule::Schedule;
use gdn2_dsl::Rule;
use gdn2_runtime::artifact::Compiler;
use gdn2_runtime::toolchain::Nvdisasm;
use gdn2_tune::job::{Engine, Job};
use gdn2_tune::model::{Constants, floor_micros};
use gdn2_tune::published;
use gdn2_tune::report::micros;
use gdn2_tune::timing::{Prepared, Timing, TimingError};
use serde::Serialize;
use std::collections::HashMap;

use super::{Args, role_lines};
use crate::error::CliError;
use crate::gpu::Target;
use crate::grid;
use crate::{Verdict, progress::Progress, write};

/// A row as JSON has it.
#[derive(Serialize)]
struct Row {
    rule: String,
    pass: Pass,
    shape: String,
    schedule: String,
    micros: f64,
    low: f64,
    high: f64,
    decided_by: String,
}

/// What has no prediction, as JSON has it.
#[derive(Serialize)]
struct Refused {
    rule: String,
    pass: Pass,
    shape: String,
    schedule: String,
    reason: String,
}

pub(super) fn run(args: &Args, target: &Target) -> Result<Verdict, CliError> {
    let constants = target.constants()?;
    let arch = target.arch;
    let search = args.compiler.search();
    let disassembler = Nvdisasm::find(&search)?;
    if args.source.given() && (args.schedule.len(), args.rules.len()) != (1, 1) {
        let why = "--source is one kernel: name one rule, and by --schedule the schedule that it was generated in";
        return Err(CliError::Usage(why.to_owned()));
    }
    let compiler = args.source.of(args.compiler.bare())?;
    let mut jobs = Vec::new();
    for rule in &args.rules {
        for rule in rule.rules()? {
            let rule = args.overrides.apply(rule)?;
            gdn2_codegen::takes(&rule)?;
            for asked in &args.shape {
                let (rule, shape) = (asked.of(rule.clone())?, asked.shape);
                let sequences = asked.lengths.len().max(shape.batch as usize) as u64;
                let extents = Extents { sequences, ..shape.extents() };
                for schedule in schedules(args, &rule, arch, extents)? {
                    let (rule, gpu) = (rule.clone(), target.gpu.clone());
                    let job = Job { rule, pass: args.pass, shape, gpu, arch, engine: Engine::Model };
                    jobs.push((job, asked.lengths.as_slice(), schedule));
                }
            }
        }
    }
    let mut tables: Vec<(String, Table)> = Vec::new();
    let progress = Progress::new("predicting", jobs.len());
    let (mut rows, mut refused, mut details) = (Vec::new(), Vec::new(), String::new());
    let mut clock = Clock { compiler, disassembler, constants, prepared: HashMap::new() };
    for (job, lengths, schedule) in &jobs {
        progress.step(&format!("{} {schedule}", job.rule.name));
        let timed = clock.time(job, lengths, *schedule);
        let shape = match lengths.len() {
            0 => job.shape.to_string(),
            sequences => format!("{} in {sequences} sequences", job.shape),
        };
        let heading = heading(job, &shape, constants);
        if tables.last().is_none_or(|(last, _)| *last != heading) {
            tables.push((heading, table()));
        }
        let Some((_, table)) = tables.last_mut() else { continue };
        match timed {
            Ok(timing) => {
                let decided = decided(&timing);
                let times = [timing.micros(), timing.low(), timing.high()].map(micros);
                table.add_row(times.into_iter().chain([decided.clone(), schedule.to_string()]));
                details += &detail(job, &shape, *schedule, &timing, args.roles);
                rows.push(Row {
                    rule: job.rule.name.clone(),
                    pass: job.pass,
                    shape,
                    schedule: schedule.to_string(),
                    micros: timing.micros(),
                    low: timing.low(),
                    high: timing.high(),
                    decided_by: decided,
                });
            }
            Err(reason) => {
                table.add_row(["none", "", "", &reason, &schedule.to_string()]);
                let (rule, pass, schedule) = (job.rule.name.clone(), job.pass, schedule.to_string());
                refused.push(Refused { rule, pass, shape, schedule, reason });
            }
        }
    }
    drop(progress);
    let text = if args.json {
        let mut published = Vec::new();
        for one in jobs.iter().flat_map(|(job, ..)| published::of(job)) {
            if !published.contains(&one) {
                published.push(one);
            }
        }
        format!("{:#}\n", serde_json::json!({ "rows": rows, "refused": refused, "published": published }))
    } else {
        let tables = tables.iter().map(|(heading, table)| format!("{heading}\n{table}\n\n")).collect::<String>();
        format!("{} on {}: predicted, not measured\n\n{tables}{details}", args.pass, target.gpu)
    };
    write::stdout(text.as_bytes())?;
    Ok(if refused.is_empty() { Verdict::Good } else { Verdict::Bad })
}

/// What rows of one rule and shape share.
fn heading(job: &Job, shape: &str, constants: &Constants) -> String {
    let floor = micros(floor_micros(job.compulsory_bytes(), job.multiply_adds(), constants));
    let best = published::best(job);
    let best = best.map_or("nothing published".to_owned(), |best| {
        format!("best published {} ms by {}", best.milliseconds, best.by)
    });
    format!("{} {shape}: floor {floor}, {best}", job.rule.name)
}

/// Times, which are never folded, and what may be where the terminal is narrow.
fn table() -> Table {
    let mut table = grid::with_schedules(["predicted", "from", "to", "decided by", "schedule"], 4);
    for column in table.column_iter_mut().take(3) {
        column.set_cell_alignment(CellAlignment::Right);
        column.set_constraint(ColumnConstraint::ContentWidth);
    }
    table
}

/// What decides the longest launch, by its name where there are several.
fn decided(timing: &Timing) -> String {
    match timing.decided() {
        Some(launch) if timing.launches.len() > 1 => format!("{}: {}", launch.entry, launch.decided),
        Some(launch) => launch.decided.to_string(),
        None => "nothing".to_owned(),
    }
}

/// Kernels that were asked for, each read once for all its shapes.
struct Clock<'a> {
    compiler: Compiler,
    disassembler: Nvdisasm,
    constants: &'a Constants,
    prepared: HashMap<String, Result<Prepared, String>>,
}

impl Clock<'_> {
    fn time(&mut self, job: &Job, lengths: &[u32], schedule: Schedule) -> Result<Timing, String> {
        let key = format!("{:?} {} {schedule}", job.rule, job.pass);
        if !self.prepared.contains_key(&key) {
            let prepared = prepared(&self.compiler, &self.disassembler, self.constants, job, schedule);
            self.prepared.insert(key.clone(), prepared);
        }
        match self.prepared.get_mut(&key) {
            Some(Ok(prepared)) => prepared.time(job.shape, lengths).map_err(|error| error.to_string()),
            Some(Err(reason)) => Err(reason.clone()),
            None => Err("nothing was compiled".to_owned()),
        }
    }
}

/// A schedule compiled and made ready for the clock, or why not.
pub fn prepared(
    compiler: &Compiler,
    disassembler: &Nvdisasm,
    constants: &Constants,
    job: &Job,
    schedule: Schedule,
) -> Result<Prepared, String> {
    let kernel = bind(&job.rule, job.pass, schedule, job.arch).map_err(|illegal| format!("constraints: {illegal}"))?;
    let artifact = compiler.compile(kernel).map_err(|error| error.to_string())?;
    let cubin = artifact.cubin.as_ref().ok_or_else(|| TimingError::NoMachineCode.to_string())?;
    let disassembly = disassembler.encoded_sass(cubin).map_err(|error| error.to_string())?;
    Prepared::new(&artifact, &disassembly, constants).map_err(|error| error.to_string())
}

/// Launches with their times, and their roles where they are asked for; what had to be assumed always.
fn detail(job: &Job, shape: &str, schedule: Schedule, timing: &Timing, roles: bool) -> String {
    let several = timing.launches.len() > 1;
    let notes: Vec<&String> = timing.launches.iter().flat_map(|launch| &launch.notes).collect();
    if !roles && !several && notes.is_empty() {
        return String::new();
    }
    let mut text = format!("\n{} {shape} {schedule}\n", job.rule.name);
    for launch in &timing.launches {
        text += &format!(
            "  {}: {} to {}, {} blocks, {} resident, {:.1} MB, decided by {}\n",
            launch.entry,
            micros(launch.low),
            micros(launch.high),
            launch.blocks,
            launch.resident,
            launch.bytes / 1e6,
            launch.decided
        );
        if roles {
            text += &role_lines(&launch.roles);
        }
        text += &launch.notes.iter().map(|note| format!("    assumed: {note}\n")).collect::<String>();
    }
    text
}

/// The schedules to compare: those asked for, else the built-in one with sequences whole, forward with each matrix
/// instruction, and what a call gets without records.
fn schedules(args: &Args, rule: &Rule, arch: Arch, extents: Extents) -> Result<Vec<Schedule>, CliError> {
    let texts = match (args.schedule.as_slice(), args.pass, arch.limits().wgmma) {
        ([], Pass::Forward, Some(_)) => vec!["matrix=mma".to_owned(), "matrix=wgmma".to_owned()],
        ([], ..) => vec![String::new()],
        (asked, ..) => asked.to_vec(),
    };
    let of = |text: &String| Ok(Schedule::from_overrides(rule, args.pass, arch, text)?);
    let all = texts.iter().map(of).collect::<Result<Vec<_>, CliError>>()?;
    if !args.schedule.is_empty() {
        return Ok(all);
    }
    // What nobody asked for is not refused aloud.
    let mut legal: Vec<Schedule> =
        all.iter().copied().filter(|one| bind(rule, args.pass, *one, arch).is_ok()).collect();
    let given = built_in(rule, args.pass, arch, extents)?;
    if !legal.contains(&given) {
        legal.push(given);
    }
    Ok(legal)
}

/// What a call gets where no record speaks of it. The forward pass of a training step is divided as backward is.
pub fn built_in(rule: &Rule, pass: Pass, arch: Arch, extents: Extents) -> Result<Schedule, CliError> {
    let choose = |pass: Pass| {
        let question = Question { rule, pass, arch, extents: Some(extents), compiler: None };
        Records::default().choose(&question).map(|choice| choice.schedule)
    };
    if pass != Pass::ForwardForBackward {
        return Ok(choose(pass)?);
    }
    let backward = bind(rule, Pass::Backward, choose(Pass::Backward)?, arch);
    let keeping = backward.ok().and_then(|backward| backward.keeping_forward()).unwrap_or_default();
    Ok(Schedule::from_overrides(rule, pass, arch, &keeping)?)
}
