//! `gdn2 tune`: the best legal schedule for a GPU.

mod calibrate;
mod found;
mod illegal;
mod keep;
mod merge;
mod progress;
mod several;
mod why;

use std::io::{stdin, stdout};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use gdn2_runtime::device::cuda::Cuda;
use gdn2_runtime::device::launch::Gpu;
use gdn2_runtime::toolchain::Nvdisasm;
use gdn2_tune::evaluate::Evaluator;
use gdn2_tune::job::{Engine, Job};
use gdn2_tune::log::Contents;
use gdn2_tune::model::{Constants, floor_micros};
use gdn2_tune::replay::Replay;
use gdn2_tune::report::{self, Findings};
use gdn2_tune::ruling::SHORTLIST;
use gdn2_tune::search::{Strategy, search};
use gdn2_tune::sweep::{Budget, Machine, Setup, SweepError, Swept, sweep};
use gdn2_tune::worker::{Pool, serve};

use self::progress::Watch;
use crate::asked::Asked;
use crate::error::CliError;
use crate::gpu::Target;
use crate::select::{Overrides, Selection};
use crate::target::positive;
use crate::{Verdict, compiler, write};

/// Part of the budget that the clock may spend on ordering candidates before they are timed.
const MODEL_SHARE: f64 = 0.25;

/// Find the best legal schedules for a GPU, with or without the GPU at hand
///
/// Sweeps chunk length, warps, value split, stages, matrix instruction, segments, and what backward recomputes. A candidate
/// is compiled, run on fresh inputs and held against the float64 reference before it can win; by the clock, only the five
/// fastest and what calls get are run. The search begins with what the call gets today, the built-in schedule and what
/// records of calls near it say. It passes over candidates whose least possible time is more than the best so far, and
/// ends where another look is expected to gain less than 1 % of it. A winner that beats what the call gets, by more than times may be off, goes to
/// tuning/GPU.json, where `gdn2 run` and `gdn2 emit` find it; else nothing is written. A sweep that was stopped goes on
/// from its log.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "Examples:
  gdn2 tune rules/gdn2.gdn2 --pass forward --shape B=1,T=8192,H=16 --target h200 --device model --budget 5m
  gdn2 tune rules/kda.gdn2 --pass decode --shape B=64,T=1,H=16 --device cuda:0
  gdn2 tune --target h200 --budget 2h
  gdn2 tune src/lib.rs#kda --pass training --shape training --shape b8 --target h200
  gdn2 tune --seen seen.txt --target h200
  gdn2 tune --target h200 --check
  gdn2 tune rules/kda.gdn2 --pass forward --shape B=1,T=8192,H=16 --target h200 --why
  gdn2 tune rules/kda.gdn2 --shape B=1,T=8192,H=16 --target h200 --explain-illegal
  gdn2 tune calibrate --measured tuning/h200.log.jsonl")]
pub struct Args {
    #[command(subcommand)]
    command: Option<Sub>,
    /// Rule file or Rust source; FILE#RULE where it holds several. A crate or folder stands for all its rules: those of
    /// rules/*.gdn2, else *.gdn2, and those that macros in src/**/*.rs name. Without it, the folder that you are in
    #[arg(value_name = "FILE[#RULE]|FOLDER")]
    rule: Option<Selection>,
    /// forward, decode, forward-for-backward, backward, or training for the last two; any number of times. Unless given,
    /// forward for shapes that are given, else the passes that the named shapes stand for
    #[arg(long, value_parser = found::passes)]
    pass: Vec<found::Asked>,
    /// Sizes of the calls to tune for, or the name of a shape, any number of times; HV, the value heads, is H unless
    /// given. Without any, the dense shapes that have names
    #[arg(long, value_name = "B=…,T=…,H=…[,HV=…]|NAME")]
    shape: Vec<Asked>,
    /// A file of calls that a program wrote down through `kernels.seen_shapes()`, any number of times: each is tuned for, with
    /// a share of the budget that grows with how often it was made
    #[arg(long, value_name = "FILE")]
    seen: Vec<PathBuf>,
    /// GPU to tune for: h200, h100, h20, a100, a40, l40s, rtx4090, rtx5090, one with constants among the records, or a
    /// file of constants; a CUDA device is what its driver says
    #[arg(long, value_name = "GPU|FILE.json")]
    target: Option<String>,
    /// cuda:N measures, model predicts by the clock, vm counts cycles over the whole shape
    #[arg(long, default_value = "model", value_name = "DEVICE")]
    device: Engine,
    /// Wall-clock time of all calls, such as 90s, 10m or 1h: each gets a share as large as the time that it takes at least
    #[arg(long, default_value = "10m", value_name = "TIME", value_parser = duration)]
    budget: Duration,
    /// guided (default) looks at a quarter of the candidates at most, where it expects most of them; grid and random at
    /// all as far as the budget goes; halving at all briefly, at the better ones longer
    #[arg(long)]
    search: Option<Strategy>,
    /// Look at no more than this many candidates
    #[arg(long, value_name = "N", value_parser = positive)]
    candidates: Option<usize>,
    /// Settles random choices
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Worker processes, 1024 at most
    #[arg(long, value_name = "N", default_value_t = threads(), value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: u16,
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
    /// Only say which schedule a call gets and why, and how long the clock says that this very call takes
    #[arg(long)]
    why: bool,
    /// Only say what each call gets, and fail where a record of theirs is stale: for CI
    #[arg(long, conflicts_with_all = ["why", "replay", "explain_illegal"])]
    check: bool,
    /// Print JSON instead of text
    #[arg(long, conflicts_with_all = ["why", "replay", "explain_illegal"])]
    json: bool,
    /// Only print what makes candidates illegal: field, limit, values
    #[arg(long)]
    explain_illegal: bool,
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    compiler: compiler::Flags,
}

#[derive(clap::Subcommand)]
enum Sub {
    /// Refit a GPU's constants on measured times
    ///
    /// A sweep on a GPU leaves both in its log: what was simulated and what the GPU took. The constants go to
    /// constants/GPU.json beside the log, where the next sweep finds them.
    #[command(after_help = "Example:
  gdn2 tune rules/kda.gdn2 --shape B=1,T=8192,H=16 --device cuda:0
  gdn2 tune calibrate --measured tuning/h200.log.jsonl")]
    Calibrate {
        /// Log of a sweep with --device cuda:N
        #[arg(long, value_name = "LOG.jsonl")]
        measured: PathBuf,
        /// Log of a sweep with --device model, where it is another
        #[arg(long, value_name = "LOG.jsonl")]
        counted: Option<PathBuf>,
        /// Constants file to write, instead of constants/GPU.json beside the log
        #[arg(long, value_name = "GPU.json")]
        out: Option<PathBuf>,
    },
    /// Join the logs of several machines: a search goes on from all they looked at
    #[command(after_help = "Example:
  gdn2 tune merge first.jsonl second.jsonl --out tuning/h200.log.jsonl")]
    Merge {
        /// The logs
        #[arg(value_name = "LOG.jsonl", required = true)]
        logs: Vec<PathBuf>,
        /// The log to write
        #[arg(long, value_name = "LOG.jsonl")]
        out: PathBuf,
    },
    /// Evaluate candidates from standard input
    #[command(hide = true)]
    Worker {
        #[arg(long)]
        records: PathBuf,
        #[command(flatten)]
        compiler: compiler::Flags,
    },
}

/// The longest time that may be asked for: 30 days, in seconds.
const LONGEST: u64 = 30 * 24 * 3600;

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => 0,
    };
    let number = number.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds));
    let number = number.filter(|all| (1..=LONGEST).contains(all));
    number.map(Duration::from_secs).ok_or_else(|| format!("`{text}` is no time such as 90s, 10m or 1h, up to 720h"))
}

/// A worker for each processor there is.
fn threads() -> u16 {
    std::thread::available_parallelism().map_or(2, |threads| threads.get().min(1024) as u16)
}

impl Args {
    pub fn run(&self) -> Result<Verdict, CliError> {
        match &self.command {
            Some(Sub::Worker { records, compiler }) => {
                let search = compiler.search();
                let mut evaluator = Evaluator::new(compiler.bare(), Some(records.clone()), search.cache.as_deref())
                    .with_disassembler(Nvdisasm::find(&search).ok());
                serve(stdin().lock(), stdout().lock(), |request| evaluator.answer(request))?;
                Ok(Verdict::Good)
            }
            Some(Sub::Calibrate { measured, counted, out }) => {
                calibrate::refit(measured, counted.as_deref().unwrap_or(measured), out.as_deref())
            }
            Some(Sub::Merge { logs, out }) => merge::merge(logs, out),
            None => self.tune(),
        }
    }

    fn tune(&self) -> Result<Verdict, CliError> {
        let gpu = match self.device {
            Engine::Cuda(ordinal) => Some(Cuda::open(ordinal as usize)?),
            Engine::Model | Engine::Vm => None,
        };
        let target = self.target(gpu.as_ref().map(|gpu| gpu as &dyn Gpu))?;
        let (jobs, times): (Vec<Job>, Vec<f64>) = self.calls(&target)?.into_iter().unzip();
        if self.check {
            return self.check(&jobs, &target);
        }
        if self.explain_illegal {
            return illegal::explain(&jobs);
        }
        if self.why {
            jobs.iter().try_for_each(|job| self.why(job, &target))?;
            return Ok(Verdict::Good);
        }
        let one = match jobs.as_slice() {
            [job] => Some(job),
            _ => None,
        };
        if let Some(log) = &self.replay {
            let job = one.ok_or_else(|| CliError::Usage("--replay takes one rule, pass and shape".to_owned()))?;
            return self.replay(log, job);
        }
        std::fs::create_dir_all(&self.records)
            .map_err(|source| CliError::Write { path: self.records.clone(), source })?;
        target.keep(&self.records)?;
        match one {
            Some(job) => self.one(job, &target, gpu.as_ref()),
            None => self.several(jobs.into_iter().zip(times).collect(), &target, gpu.as_ref()),
        }
    }

    /// Tunes for one call and prints all that the search found.
    fn one(&self, job: &Job, target: &Target, gpu: Option<&Cuda>) -> Result<Verdict, CliError> {
        let swept = self.sweep(job, target, gpu, self.budget)?;
        let kept = self.keep(job, &swept)?;
        let log = self.log(&target.gpu);
        let contents = Contents::read(&log).map_err(|source| CliError::Read { path: log.clone(), source })?;
        let found = contents.searches.iter().find(|search| search.search == swept.search);
        if self.json {
            let report = found.map(|search| report::json(&Findings::of(&contents, search, Some(&self.records))?));
            let (basis, calls) = (keep::named(self.device.basis()), [several::call(job, &kept)]);
            let json = serde_json::json!({
                "gpu": target.gpu, "times": basis, "calls": calls, "written": kept.written,
                "report": report.transpose()?,
            });
            write::stdout(format!("{json:#}\n").as_bytes())?;
            return Ok(Verdict::Good);
        }
        let mut text = String::new();
        if let Some(search) = found {
            text = report::table(&Findings::of(&contents, search, Some(&self.records))?)?;
        }
        let (ended, kept, log) = (&kept.ended, &kept.text, log.display());
        text.push_str(&format!("the search ended: {ended}\n{kept}\nlog: {log}, read it with gdn2 report\n"));
        write::stdout(text.as_bytes())?;
        Ok(Verdict::Good)
    }

    /// Sweeps; where candidates are timed, the clock has its say first, for it orders them.
    fn sweep(&self, job: &Job, target: &Target, gpu: Option<&Cuda>, time: Duration) -> Result<Swept, CliError> {
        let version = self.compiler.bare().nvrtc()?.version();
        // A GPU can be measured without a model of it; nothing else can.
        let constants = match gpu {
            Some(_) => target.constants.clone(),
            None => Some(target.constants()?.clone()),
        };
        let floor = |constants: &Constants| floor_micros(job.compulsory_bytes(), job.multiply_adds(), constants);
        let machine = Machine {
            driver: gpu.map(|gpu| format!("CUDA {}", gpu.driver())),
            clock_mhz: match gpu {
                Some(gpu) => gpu.clock_mhz()?,
                None => constants.as_ref().map_or(0, Constants::clock_mhz),
            },
            floor_micros: constants.as_ref().map_or(0.0, floor),
        };
        let workers = Pool::new(self.worker()?, usize::from(self.workers), self.timeout);
        // A GPU times one candidate at a time; the others are compiled meanwhile.
        let alone = Pool::new(self.worker()?, 1, self.timeout);
        let log = self.log(&job.gpu);
        let begun = Instant::now();
        let setup = Setup {
            pool: &workers,
            ahead: None,
            log: &log,
            begin: self.begin(job, &format!("NVRTC {version}"))?,
            strategy: self.strategy(),
            seed: self.seed,
            budget: Budget { time: Some(time), candidates: self.candidates },
            checks: SHORTLIST,
            compiler: format!("NVRTC {version}"),
            constants,
            machine,
        };
        let run = |job: &Job, setup: &Setup| {
            let mut watch = Watch::new(&log, setup.budget.time.unwrap_or(time), job.engine);
            sweep(job, setup, &mut |event| watch.tell(event))
        };
        if job.engine == Engine::Model {
            return Ok(run(job, &setup)?);
        }
        if setup.constants.is_some() {
            let predicted = Job { engine: Engine::Model, ..job.clone() };
            let budget = Budget { time: Some(time.mul_f64(MODEL_SHARE)), candidates: None };
            let machine = Machine { driver: None, ..setup.machine.clone() };
            // What orders measurements need not be right: the GPU says.
            let checks = 0;
            match run(&predicted, &Setup { strategy: Strategy::Random, budget, machine, checks, ..setup.clone() }) {
                // Without a prediction the candidates are timed in their own order.
                Ok(_) | Err(SweepError::NoWinner { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let measured = gpu.is_some();
        let budget = Budget { time: Some(time.saturating_sub(begun.elapsed())), ..setup.budget };
        let pool = if measured { &alone } else { &workers };
        Ok(run(job, &Setup { pool, ahead: measured.then_some(&workers), budget, ..setup.clone() })?)
    }

    fn strategy(&self) -> Strategy {
        self.search.unwrap_or(Strategy::Guided)
    }

    fn log(&self, target: &str) -> PathBuf {
        self.log.clone().unwrap_or_else(|| self.records.join(format!("{target}.log.jsonl")))
    }

    /// The GPU to tune for. One that is at hand is what its driver says: what it measures is no other GPU's.
    fn target(&self, gpu: Option<&dyn Gpu>) -> Result<Target, CliError> {
        let Some(gpu) = gpu else {
            let Some(named) = &self.target else {
                return Err(CliError::Usage("name the GPU to tune for, such as --target h200".to_owned()));
            };
            return Target::named(named, &self.records);
        };
        let identity = gpu.identity()?;
        let own = Target::at_hand(identity.records(), gpu.arch(), &self.records)?;
        let Some(named) = self.target.as_ref().filter(|named| **named != own.gpu) else { return Ok(own) };
        let named = Target::named(named, &self.records)?;
        match (&named.gpu, named.arch) == (&own.gpu, own.arch) {
            true => Ok(named),
            false => Err(CliError::Usage(format!(
                "--target {} is {}, the GPU here is {} ({}, {} multiprocessors, {}): measure on the GPU that is tuned for, or \
                 leave --target out",
                named.gpu, named.arch, own.gpu, identity.name, identity.multiprocessors, own.arch
            ))),
        }
    }

    /// The command that starts a worker: this program again.
    fn worker(&self) -> Result<impl Fn() -> Command + Send + Sync + 'static, CliError> {
        let own = |source| CliError::Start { program: "gdn2".into(), source };
        let program = std::env::current_exe().map_err(own)?;
        let (nvrtc, records) = (self.compiler.argument(), self.records.clone());
        Ok(move || {
            let mut command = Command::new(&program);
            command.args(["tune", "worker", "--records"]).arg(&records).args(&nvrtc);
            command
        })
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
        let strategy = self.strategy();
        search(strategy, &whole.points(), 1, None, self.seed, &mut run);
        let mut text = format!(
            "{strategy} looked at {} of {} candidates\nbest of the log: {} at {micros:.2} µs\n",
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
