//! `gdn2 tune`: the best legal schedule for a GPU.

use std::io::{stdin, stdout};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::{Pass, bind};
use gdn2_codegen::record::{GPUS, gpu_named};
use gdn2_codegen::space::space;
use gdn2_dsl::Rule;
use gdn2_runtime::device::cuda::Cuda;
use gdn2_tune::evaluate::Evaluator;
use gdn2_tune::job::{Engine, Job, Shape};
use gdn2_tune::log::Contents;
use gdn2_tune::model::{Constants, calibrate, floor_micros, pairs};
use gdn2_tune::replay::Replay;
use gdn2_tune::report::{self, Findings};
use gdn2_tune::search::{Strategy, search};
use gdn2_tune::sweep::{Budget, Machine, Setup, sweep};
use gdn2_tune::worker::{Pool, serve};

use crate::error::CliError;
use crate::select::{Overrides, Selection, pass};
use crate::tune_progress::Watch;
use crate::{Verdict, compiler, shape, tuned, write};

/// Find the best legal schedule for a GPU, with or without the GPU at hand
///
/// Sweeps chunk length, warps, value split and stages. Every candidate is compiled, run on fresh inputs and held against
/// the float64 reference before its time counts. The winner goes to tuning/GPU.json, where `gdn2 run` and `gdn2 emit`
/// find it. A sweep that was stopped goes on from its log.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "Examples:
  gdn2 tune rules/gdn2.gdn2 --pass forward --shape B=1,T=8192,H=16 --target h200 --device model --budget 5m
  gdn2 tune rules/kda.gdn2 --pass decode --shape B=64,T=1,H=16 --device cuda:0
  gdn2 tune rules/kda.gdn2 --pass forward --shape B=1,T=8192,H=16 --target h200 --why
  gdn2 tune calibrate --measured tuning/h200.log.jsonl --counted model.jsonl --out tuning/constants/h200.json")]
pub struct Args {
    #[command(subcommand)]
    command: Option<Sub>,
    /// Rule file; FILE#RULE where it holds several
    #[arg(value_name = "FILE[#RULE]", required = true)]
    rule: Option<Selection>,
    /// forward or decode
    #[arg(long, default_value = "forward", value_parser = pass)]
    pass: Pass,
    /// Sizes of the calls to tune for; HV, the value heads, is H unless given
    #[arg(long, value_name = "B=…,T=…,H=…[,HV=…]", required = true)]
    shape: Option<shape::Shape>,
    /// GPU to tune for: h100, h200, a100, l40s, rtx4090; a CUDA device is its own
    #[arg(long, value_name = "GPU")]
    target: Option<String>,
    /// cuda:N measures, model predicts from counts, vm counts cycles over the whole shape
    #[arg(long, default_value = "model", value_name = "DEVICE")]
    device: Engine,
    /// Wall-clock time, such as 90s, 10m or 1h
    #[arg(long, default_value = "10m", value_name = "TIME", value_parser = duration)]
    budget: Duration,
    /// grid, random, halving or guided
    #[arg(long, default_value = "grid")]
    search: Strategy,
    /// Look at no more than this many candidates
    #[arg(long, value_name = "N")]
    candidates: Option<usize>,
    /// Settles random choices
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Worker processes
    #[arg(long, value_name = "N", default_value_t = std::thread::available_parallelism().map_or(2, usize::from))]
    workers: usize,
    /// Longest that one candidate may take
    #[arg(long, default_value = "120s", value_name = "TIME", value_parser = duration)]
    timeout: Duration,
    /// Folder of the records
    #[arg(long, default_value = "tuning", value_name = "DIR")]
    records: PathBuf,
    /// Log to append to; by default GPU.log.jsonl in the folder of the records
    #[arg(long, value_name = "LOG.jsonl")]
    log: Option<PathBuf>,
    /// Run the search on the times in a log instead, and say how close it comes to the best of them
    #[arg(long, value_name = "LOG.jsonl")]
    replay: Option<PathBuf>,
    /// Only say which schedule a call gets, and why
    #[arg(long)]
    why: bool,
    /// Only print the candidates that are not legal: field, limit, value
    #[arg(long)]
    explain_illegal: bool,
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    compiler: compiler::Flags,
}

#[derive(clap::Subcommand)]
enum Sub {
    /// Refit the model's constants on measured times
    Calibrate {
        /// Log of a sweep on the GPU
        #[arg(long, value_name = "LOG.jsonl")]
        measured: PathBuf,
        /// Log of the same sweep with --device model
        #[arg(long, value_name = "LOG.jsonl")]
        counted: PathBuf,
        /// Constants file to write
        #[arg(long, value_name = "GPU.json")]
        out: PathBuf,
    },
    /// Evaluate candidates from standard input
    #[command(hide = true)]
    Worker {
        #[command(flatten)]
        compiler: compiler::Flags,
    },
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => 0,
    };
    let number = number.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds)).filter(|all| *all > 0);
    number.map(Duration::from_secs).ok_or_else(|| format!("`{text}` is no time such as 90s, 10m or 1h"))
}

impl Args {
    pub fn run(&self) -> Result<Verdict, CliError> {
        match &self.command {
            Some(Sub::Worker { compiler }) => {
                let mut evaluator = Evaluator::new(compiler.bare());
                serve(stdin().lock(), stdout().lock(), |request| evaluator.answer(request))?;
                Ok(Verdict::Good)
            }
            Some(Sub::Calibrate { measured, counted, out }) => refit(measured, counted, out),
            None => self.tune(),
        }
    }

    fn tune(&self) -> Result<Verdict, CliError> {
        let (Some(rule), Some(shape)) = (&self.rule, self.shape) else {
            return Err(CliError::Usage("a rule and a shape are needed".to_owned()));
        };
        let rule = self.overrides.apply(rule.rule()?)?;
        let gpu = match self.device {
            Engine::Cuda(ordinal) => Some(Cuda::open(ordinal as usize)?),
            Engine::Model | Engine::Vm => None,
        };
        let (target, arch) = self.target(gpu.as_ref())?;
        if self.explain_illegal {
            return explain_illegal(&rule, self.pass, arch);
        }
        let job = Job { rule, pass: self.pass, shape: of(shape)?, gpu: target.clone(), arch, engine: self.device };
        if self.why {
            return self.why(&job);
        }
        if let Some(log) = &self.replay {
            return self.replay(log, &job);
        }
        let version = self.compiler.bare().nvrtc()?.version();
        let constants = Constants::shipped(&target)?;
        let machine = Machine {
            driver: gpu.as_ref().map(|gpu| format!("CUDA {}", gpu.driver())),
            clock_mhz: match &gpu {
                Some(gpu) => gpu.clock_mhz()?,
                None => constants.clock_mhz(),
            },
            floor_micros: floor_micros(job.compulsory_bytes(), job.multiply_adds(), &constants),
        };
        let workers = Pool::new(self.worker()?, self.workers, self.timeout);
        // A GPU times one candidate at a time; the others are compiled meanwhile.
        let alone = Pool::new(self.worker()?, 1, self.timeout);
        let measured = gpu.is_some();
        std::fs::create_dir_all(&self.records)
            .map_err(|source| CliError::Write { path: self.records.clone(), source })?;
        let log = self.log.clone().unwrap_or_else(|| self.records.join(format!("{target}.log.jsonl")));
        let setup = Setup {
            pool: if measured { &alone } else { &workers },
            ahead: measured.then_some(&workers),
            log: &log,
            strategy: self.search,
            seed: self.seed,
            budget: Budget { time: Some(self.budget), candidates: self.candidates },
            compiler: format!("NVRTC {version}"),
            machine,
        };
        let mut watch = Watch::new(&log, self.budget);
        let swept = sweep(&job, &setup, &mut |event| watch.tell(event))?;
        drop(watch);
        let path = self.records.join(format!("{target}.json"));
        let mut records = tuned::read(&path)?.unwrap_or_default();
        records.insert(swept.record.clone());
        write::file(&path, records.to_text()?.as_bytes())?;
        let contents = Contents::read(&log).map_err(|source| CliError::Read { path: log.clone(), source })?;
        let identity = job.identity(&swept.record.provenance.space, &setup.compiler);
        let mut text = String::new();
        if let Some(search) = contents.searches.iter().find(|search| search.search == identity) {
            text = report::table(&Findings::of(&contents, search)?)?;
        }
        text.push_str(&format!("record: {}\nlog: {}, read it with gdn2 report\n", path.display(), log.display()));
        write::stdout(text.as_bytes())?;
        Ok(Verdict::Good)
    }

    fn target(&self, gpu: Option<&Cuda>) -> Result<(String, Arch), CliError> {
        let name = match (&self.target, gpu) {
            (Some(target), _) => target.clone(),
            (None, Some(gpu)) => {
                let name = gpu.name()?;
                gpu_named(&name).map(str::to_owned).ok_or_else(|| {
                    CliError::Usage(format!("`{name}` is none of the GPUs with records: name one with --target"))
                })?
            }
            (None, None) => return Err(CliError::Usage("--target is needed where no GPU says what it is".to_owned())),
        };
        let arch = GPUS.iter().find(|(gpu, _)| *gpu == name).map(|(_, arch)| *arch).ok_or_else(|| {
            let known = GPUS.map(|(gpu, _)| gpu).join(", ");
            CliError::Usage(format!("--target {name}: use one of {known}"))
        })?;
        match gpu {
            Some(gpu) if gpu.arch() != arch => Err(CliError::Usage(format!(
                "--target {name} is {arch}, the GPU is {}: measure on the GPU that is tuned for",
                gpu.arch()
            ))),
            _ => Ok((name, arch)),
        }
    }

    /// The command that starts a worker: this program again.
    fn worker(&self) -> Result<impl Fn() -> Command + Send + Sync + 'static, CliError> {
        let own = |source| CliError::Start { program: "gdn2".into(), source };
        let program = std::env::current_exe().map_err(own)?;
        let nvrtc = self.compiler.argument();
        Ok(move || {
            let mut command = Command::new(&program);
            command.args(["tune", "worker"]).args(&nvrtc);
            command
        })
    }

    fn why(&self, job: &Job) -> Result<Verdict, CliError> {
        let compiler = self.compiler.bare().nvrtc().ok().map(|nvrtc| format!("NVRTC {}", nvrtc.version()));
        let extents = Some(job.shape.extents());
        let choice =
            tuned::choose(&self.records, &job.gpu, &job.rule, job.pass, job.arch, extents, compiler.as_deref())?;
        write::stdout(format!("{} {} on {}: {choice}\n", job.rule.name, job.pass, job.gpu).as_bytes())?;
        Ok(Verdict::Good)
    }

    fn replay(&self, log: &Path, job: &Job) -> Result<Verdict, CliError> {
        let contents = Contents::read(log).map_err(|source| CliError::Read { path: log.to_owned(), source })?;
        let same = |other: &Job| {
            other.rule == job.rule && other.pass == job.pass && other.shape == job.shape && other.gpu == job.gpu
        };
        let found = contents.searches.iter().rfind(|search| same(&search.job));
        let Some(found) = found else {
            return Err(CliError::Usage(format!(
                "{} holds no search for this rule, pass, shape and GPU",
                log.display()
            )));
        };
        let whole = Replay::of(&contents, &found.search);
        let Some((best, micros)) = whole.best() else {
            return Err(CliError::Usage(format!("{}: nothing ran correctly in this search", log.display())));
        };
        let mut run = whole.limited(self.candidates.unwrap_or(usize::MAX));
        search(self.search, &whole.points(), None, self.seed, &mut run);
        let mut text = format!(
            "{} looked at {} of {} candidates\nbest of the log: {} at {micros:.2} µs\n",
            self.search,
            run.evaluations(),
            whole.micros.len(),
            whole.schedules[best]
        );
        if let Some((at, found)) = run.found() {
            text.push_str(&format!(
                "found:           {} at {found:.2} µs, {:.3} × the best\n",
                run.schedules[at],
                found / micros
            ));
        }
        write::stdout(text.as_bytes())?;
        Ok(Verdict::Good)
    }
}

/// The command line's shape as a job's.
fn of(shape: shape::Shape) -> Result<Shape, CliError> {
    let size = |name: &str, size: usize| {
        let size = u32::try_from(size).ok().filter(|size| *size > 0);
        size.ok_or_else(|| CliError::Usage(format!("--shape: {name} must be from 1 to {}", u32::MAX)))
    };
    Ok(Shape {
        batch: size("B", shape.batch)?,
        tokens: size("T", shape.tokens)?,
        key_heads: size("H", shape.heads)?,
        value_heads: size("HV", shape.value_heads)?,
    })
}

fn explain_illegal(rule: &Rule, pass: Pass, arch: Arch) -> Result<Verdict, CliError> {
    let candidates = space(rule, pass, arch)?;
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(["schedule", "field", "value", "limit"]);
    let mut illegal = 0;
    for schedule in &candidates {
        if let Err(refusal) = bind(rule, pass, *schedule, arch) {
            illegal += 1;
            table.add_row([schedule.to_string(), refusal.field, refusal.got, refusal.limit]);
        }
    }
    let text = format!("{table}\n{illegal} of {} candidates are not legal on {arch}\n", candidates.len());
    write::stdout(text.as_bytes())?;
    Ok(Verdict::Good)
}

fn refit(measured: &Path, counted: &Path, out: &Path) -> Result<Verdict, CliError> {
    let read = |path: &Path| Contents::read(path).map_err(|source| CliError::Read { path: path.to_owned(), source });
    let (measured, counted) = (read(measured)?, read(counted)?);
    let Some(search) = measured.searches.first() else {
        return Err(CliError::Usage("the measured log holds no search".to_owned()));
    };
    let pairs = pairs(&measured, &counted);
    if pairs.is_empty() {
        return Err(CliError::Usage(
            "the two logs share no candidate: run both with the same rule and shape".to_owned(),
        ));
    }
    let fitted = calibrate(&pairs, &Constants::shipped(&search.job.gpu)?);
    let mut json = serde_json::to_vec_pretty(&fitted.constants)?;
    json.push(b'\n');
    write::file(out, &json)?;
    let text = format!(
        "{} candidates: median error {:.1} % before, {:.1} % after; rank correlation {:.3}\nconstants: {}\n",
        fitted.pairs,
        100.0 * fitted.error_before,
        100.0 * fitted.error_after,
        fitted.rank_correlation,
        out.display()
    );
    write::stdout(text.as_bytes())?;
    Ok(Verdict::Good)
}
