//! `gdn2 tune`: the best legal schedule for a GPU.

use std::io::{stdin, stdout};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use gdn2_codegen::arch::Arch;
use gdn2_codegen::bind;
use gdn2_codegen::kernel::Pass;
use gdn2_codegen::lookup::{Choice, Question, Step};
use gdn2_codegen::record::{Basis, Bucket, GPUS, Record, Timed, gpu_named, rule_fingerprint};
use gdn2_codegen::schedule::Schedule;
use gdn2_codegen::space::space;
use gdn2_dsl::Rule;
use gdn2_runtime::device::cuda::Cuda;
use gdn2_runtime::files;
use gdn2_runtime::toolchain::Nvdisasm;
use gdn2_tune::evaluate::Evaluator;
use gdn2_tune::job::{Engine, Job};
use gdn2_tune::log::Contents;
use gdn2_tune::model::{Constants, ConstantsError, calibrate, floor_micros, pairs};
use gdn2_tune::replay::Replay;
use gdn2_tune::report::{self, Findings};
use gdn2_tune::ruling::Ruling;
use gdn2_tune::search::{Strategy, search};
use gdn2_tune::sweep::{Begin, Budget, Machine, Setup, SweepError, Swept, sweep};
use gdn2_tune::worker::{Pool, serve};

use crate::asked::Asked;
use crate::error::CliError;
use crate::predict::prepared;
use crate::select::{Overrides, Selection, pass};
use crate::target::positive;
use crate::tune_progress::Watch;
use crate::{Verdict, compiler, tuned, write};

/// Part of the budget that the clock may spend on ordering candidates before they are timed.
const MODEL_SHARE: f64 = 0.25;

/// Find the best legal schedule for a GPU, with or without the GPU at hand
///
/// Sweeps chunk length, warps, value split, stages, matrix instruction, and what backward recomputes. Every candidate is compiled, run on fresh inputs and held against
/// the float64 reference before its time counts. The search begins with what the call gets today, the built-in schedule
/// and what records of calls near it say. A winner that beats what the call gets, by more than times may be off, goes to
/// tuning/GPU.json, where `gdn2 run` and `gdn2 emit` find it; else nothing is written. A sweep that was stopped goes on
/// from its log.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "Examples:
  gdn2 tune rules/gdn2.gdn2 --pass forward --shape B=1,T=8192,H=16 --target h200 --device model --budget 5m
  gdn2 tune rules/kda.gdn2 --pass decode --shape B=64,T=1,H=16 --device cuda:0
  gdn2 tune rules/kda.gdn2 --pass forward --shape B=1,T=8192,H=16 --target h200 --why
  gdn2 tune rules/kda.gdn2 --shape B=1,T=8192,H=16 --target h200 --explain-illegal
  gdn2 tune calibrate --measured tuning/h200.log.jsonl")]
pub struct Args {
    #[command(subcommand)]
    command: Option<Sub>,
    /// Rule file; FILE#RULE where it holds several
    #[arg(value_name = "FILE[#RULE]", required = true)]
    rule: Option<Selection>,
    /// forward, backward or decode
    #[arg(long, default_value = "forward", value_parser = pass)]
    pass: Pass,
    /// Sizes of the calls to tune for, or the name of a shape; HV, the value heads, is H unless given
    #[arg(long, value_name = "B=…,T=…,H=…[,HV=…]|NAME", required = true)]
    shape: Option<Asked>,
    /// GPU to tune for: h200, h100, h20, a100, a40, l40s, rtx4090, rtx5090; a CUDA device is its own
    #[arg(long, value_name = "GPU")]
    target: Option<String>,
    /// cuda:N measures, model predicts by the clock, vm counts cycles over the whole shape
    #[arg(long, default_value = "model", value_name = "DEVICE")]
    device: Engine,
    /// Wall-clock time, such as 90s, 10m or 1h
    #[arg(long, default_value = "10m", value_name = "TIME", value_parser = duration)]
    budget: Duration,
    /// guided (default) looks at a quarter of the candidates, where it expects most of them; grid and random at all as
    /// far as the budget goes; halving at all briefly, at the better ones longer
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
                refit(measured, counted.as_deref().unwrap_or(measured), out.as_deref())
            }
            None => self.tune(),
        }
    }

    fn tune(&self) -> Result<Verdict, CliError> {
        let (Some(rule), Some(asked)) = (&self.rule, &self.shape) else {
            return Err(CliError::Usage("a rule and a shape are needed".to_owned()));
        };
        if !asked.lengths.is_empty() {
            return Err(CliError::Usage("packed sequences are predicted, not tuned for: use a dense shape".to_owned()));
        }
        let rule = asked.of(self.overrides.apply(rule.rule()?)?)?;
        gdn2_codegen::takes(&rule)?;
        let gpu = match self.device {
            Engine::Cuda(ordinal) => Some(Cuda::open(ordinal as usize)?),
            Engine::Model | Engine::Vm => None,
        };
        let (target, arch) = self.target(gpu.as_ref())?;
        if self.explain_illegal {
            return explain_illegal(&rule, self.pass, arch);
        }
        let job = Job { rule, pass: self.pass, shape: asked.shape, gpu: target.clone(), arch, engine: self.device };
        if self.why {
            return self.why(&job);
        }
        if let Some(log) = &self.replay {
            return self.replay(log, &job);
        }
        std::fs::create_dir_all(&self.records)
            .map_err(|source| CliError::Write { path: self.records.clone(), source })?;
        let swept = self.sweep(&job, gpu.as_ref())?;
        let path = self.records.join(format!("{target}.json"));
        let kept = self.keep(&path, &job, &swept)?;
        let log = self.log(&target);
        let contents = Contents::read(&log).map_err(|source| CliError::Read { path: log.clone(), source })?;
        let mut text = String::new();
        if let Some(search) = contents.searches.iter().find(|search| search.search == swept.search) {
            text = report::table(&Findings::of(&contents, search, Some(&self.records))?)?;
        }
        text.push_str(&format!("{kept}\nlog: {}, read it with gdn2 report\n", log.display()));
        write::stdout(text.as_bytes())?;
        Ok(Verdict::Good)
    }

    /// Puts a record into its file where one is due, and says what became of it. Other tuners that share the folder wait
    /// meanwhile, so that none writes over what another has added; what calls get is looked up again, for one of them may
    /// have changed it.
    fn keep(&self, path: &Path, job: &Job, swept: &Swept) -> Result<String, CliError> {
        let _held = match files::hold(&self.records) {
            Ok(held) => Some(held),
            Err(error) => {
                let folder = self.records.display();
                eprintln!("warning: {folder} cannot be locked ({error}): do not tune into it twice at the same time");
                None
            }
        };
        let compiler = swept.searched.compiler.as_str();
        let holder = self.choice(job, Some(compiler))?;
        let Some(ruling) = swept.searched.ruling(holder.schedule) else {
            return Ok("no record: nothing ran correctly".to_owned());
        };
        let record = match ruling {
            Ruling::Record(record) => *record,
            Ruling::Nothing(why) => return Ok(format!("no record: {why}")),
        };
        let mut records = tuned::read(path)?.unwrap_or_default();
        let mine = |old: &&Record| {
            (old.pass, old.bucket) == (record.pass, record.bucket) && old.provenance.rule == record.provenance.rule
        };
        let fresh = holder.step == Step::Exact(record.bucket);
        if let Some(old) = records.iter().find(mine).filter(|_| fresh)
            && old.provenance.basis.worth() > record.provenance.basis.worth()
        {
            let basis = named(old.provenance.basis);
            return Ok(format!(
                "record: {} keeps the {basis} winner: only a time worth as much replaces it",
                path.display()
            ));
        }
        let (winner, before) = (record.winner, record.before);
        records.insert(record);
        write::file(path, records.to_text()?.as_bytes())?;
        let gain = match before {
            Some(before) if before.schedule == winner.schedule => "calls get what they got before".to_owned(),
            Some(before) => {
                format!("{} before, {} now", report::micros(before.time.micros), report::micros(winner.time.micros))
            }
            None => format!("what calls got before, {}, cannot win", holder.schedule),
        };
        Ok(format!("record: {}, {gain}", path.display()))
    }

    /// What a call gets, and why.
    fn choice(&self, job: &Job, compiler: Option<&str>) -> Result<Choice, CliError> {
        let extents = Some(job.shape.extents());
        tuned::choose(&self.records, &job.gpu, &job.rule, job.pass, job.arch, extents, compiler)
    }

    /// What a search of a job begins with.
    fn begin(&self, job: &Job, compiler: &str) -> Result<Begin, CliError> {
        let Choice { schedule, step, .. } = self.choice(job, Some(compiler))?;
        let Job { rule, pass, arch, shape, .. } = job;
        let extents = Some(shape.extents());
        let question = Question { rule, pass: *pass, arch: *arch, extents, compiler: Some(compiler) };
        let neighbours = tuned::of(&self.records, &job.gpu)?.index(&question)?.neighbours(shape.extents());
        Ok(Begin { holder: schedule, from: step.to_string(), neighbours })
    }

    /// Sweeps; where candidates are timed, the clock has its say first, for it orders them.
    fn sweep(&self, job: &Job, gpu: Option<&Cuda>) -> Result<Swept, CliError> {
        let version = self.compiler.bare().nvrtc()?.version();
        let constants = match Constants::of(&job.gpu, Some(&self.records)) {
            Ok(constants) => Some(constants),
            // A GPU can be measured without a model of it.
            Err(ConstantsError::UnknownGpu { .. }) if gpu.is_some() => None,
            Err(error) => return Err(error.into()),
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
            budget: Budget { time: Some(self.budget), candidates: self.candidates },
            compiler: format!("NVRTC {version}"),
            constants,
            machine,
        };
        let run = |job: &Job, setup: &Setup| {
            let mut watch = Watch::new(&log, setup.budget.time.unwrap_or(self.budget), job.engine);
            sweep(job, setup, &mut |event| watch.tell(event))
        };
        if job.engine == Engine::Model {
            return Ok(run(job, &setup)?);
        }
        if setup.constants.is_some() {
            let predicted = Job { engine: Engine::Model, ..job.clone() };
            let budget = Budget { time: Some(self.budget.mul_f64(MODEL_SHARE)), candidates: None };
            let machine = Machine { driver: None, ..setup.machine.clone() };
            match run(&predicted, &Setup { strategy: Strategy::Random, budget, machine, ..setup.clone() }) {
                // Without a prediction the candidates are timed in their own order.
                Ok(_) | Err(SweepError::NoWinner { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let measured = gpu.is_some();
        let budget = Budget { time: Some(self.budget.saturating_sub(begun.elapsed())), ..setup.budget };
        let pool = if measured { &alone } else { &workers };
        Ok(run(job, &Setup { pool, ahead: measured.then_some(&workers), budget, ..setup.clone() })?)
    }

    fn strategy(&self) -> Strategy {
        self.search.unwrap_or(Strategy::Guided)
    }

    fn log(&self, target: &str) -> PathBuf {
        self.log.clone().unwrap_or_else(|| self.records.join(format!("{target}.log.jsonl")))
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
            (None, None) => return Err(CliError::Usage("name the GPU to tune for, such as --target h200".to_owned())),
        };
        let arch = arch_of(&name)?;
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
        let (nvrtc, records) = (self.compiler.argument(), self.records.clone());
        Ok(move || {
            let mut command = Command::new(&program);
            command.args(["tune", "worker", "--records"]).arg(&records).args(&nvrtc);
            command
        })
    }

    /// What a call gets and why; what the clock says of this very call; what the record that was used was chosen by.
    fn why(&self, job: &Job) -> Result<Verdict, CliError> {
        let compiler = self.compiler.bare().nvrtc().ok().map(|nvrtc| format!("NVRTC {}", nvrtc.version()));
        let choice = self.choice(job, compiler.as_deref())?;
        let mut text = format!("{} {} on {}, {}: {choice}\n", job.rule.name, job.pass, job.gpu, job.shape);
        let own = Schedule::default_for(&job.rule, job.pass, job.arch)?;
        let timed = |schedule| self.clocked(job, schedule).unwrap_or_else(|why| format!("no time ({why})"));
        text += &format!("  this call by the clock: {}\n", timed(choice.schedule));
        if own != choice.schedule {
            text += &format!("  in the built-in schedule, {own}: {}\n", timed(own));
        }
        let used = match choice.step {
            Step::Exact(bucket) | Step::Nearest(bucket) | Step::Kernel { of: bucket, .. } => Some(bucket),
            Step::Common { .. } | Step::BuiltIn => None,
        };
        if let Some(bucket) = used {
            let (rule, records) = (rule_fingerprint(&job.rule), tuned::of(&self.records, &job.gpu)?);
            let asked = |record: &&Record| (record.pass, record.bucket) == (job.pass, bucket);
            let record = records.iter().filter(asked).find(|record| record.provenance.rule == rule);
            let away = bucket.distance(Bucket::of(job.shape.extents()));
            text += &record.map_or_else(String::new, |record| background(record, away));
        }
        write::stdout(text.as_bytes())?;
        Ok(Verdict::Good)
    }

    /// What the clock says of a schedule for the job's own call, or why it says nothing.
    fn clocked(&self, job: &Job, schedule: Schedule) -> Result<String, String> {
        let constants = Constants::of(&job.gpu, Some(&self.records)).map_err(|error| error.to_string())?;
        let disassembler = Nvdisasm::find(&self.compiler.search()).map_err(|error| error.to_string())?;
        let mut prepared = prepared(&self.compiler.bare(), &disassembler, &constants, job, schedule)?;
        let timing = prepared.time(job.shape, &[]).map_err(|error| error.to_string())?;
        let [time, low, high] = [timing.micros(), timing.low(), timing.high()].map(report::micros);
        Ok(format!("{time} predicted, from {low} to {high}"))
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

/// The architecture of a GPU with records.
pub fn arch_of(gpu: &str) -> Result<Arch, CliError> {
    GPUS.iter().find(|(name, _)| *name == gpu).map(|(_, arch)| *arch).ok_or_else(|| {
        let known = GPUS.map(|(gpu, _)| gpu).join(", ");
        CliError::Usage(format!("--target {gpu}: use one of {known}"))
    })
}

/// What a record was chosen by, for its own calls and in its own search.
fn background(record: &Record, away: u32) -> String {
    let Record { bucket, winner, before, built_in, correct, tried, provenance, .. } = record;
    let time = |timed: &Timed| report::micros(timed.time.micros);
    let basis = match provenance.basis {
        Basis::Measured => "measured".to_owned(),
        Basis::Counted => "counted, no measurement".to_owned(),
        Basis::Predicted => {
            format!("predicted by the clock, error band ±{:.0} %", 100.0 * winner.time.spread)
        }
    };
    let beside = match (before, built_in) {
        (Some(before), _) if before.schedule != winner.schedule => {
            format!("its calls got {} before, which takes {}", before.schedule, time(before))
        }
        (_, Some(own)) if own.schedule == winner.schedule => {
            "the built-in schedule, which nothing clearly beats".to_owned()
        }
        (_, Some(own)) => format!("the built-in schedule takes {}", time(own)),
        (_, None) => match &record.built_in_failed {
            Some(why) => format!("the built-in schedule cannot win, {why}"),
            None => {
                "the built-in schedule is not in the record, which is older than the field that says why".to_owned()
            }
        },
    };
    let away = match away {
        0 => String::new(),
        1 => ", one doubling away".to_owned(),
        more => format!(", {more} doublings away"),
    };
    format!(
        "  record for {bucket}{away}: {} {basis}; {beside}\n  {correct} of {tried} candidates ran correctly; {}\n",
        time(winner),
        provenance.compiler
    )
}

/// A basis in a word.
fn named(basis: Basis) -> &'static str {
    match basis {
        Basis::Measured => "measured",
        Basis::Predicted => "predicted",
        Basis::Counted => "counted",
    }
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

fn refit(measured: &Path, counted: &Path, out: Option<&Path>) -> Result<Verdict, CliError> {
    let read = |path: &Path| Contents::read(path).map_err(|source| CliError::Read { path: path.to_owned(), source });
    let (timed, counts) = (read(measured)?, read(counted)?);
    let pairs = pairs(&timed, &counts);
    let Some(gpu) = pairs.first().map(|pair| pair.gpu.clone()) else {
        return Err(CliError::Usage(format!(
            "{} holds no candidate that was both measured and counted: sweep it with gdn2 tune --device cuda:0, and where \
             it was counted by a sweep of its own with --device model, name that log by --counted",
            measured.display()
        )));
    };
    let folder = measured.parent().unwrap_or(Path::new("."));
    let fitted = calibrate(&pairs, &Constants::of(&gpu, Some(folder))?)?;
    let mut json = serde_json::to_vec_pretty(&fitted.constants)?;
    json.push(b'\n');
    let out = out.map_or_else(|| folder.join("constants").join(format!("{gpu}.json")), Path::to_owned);
    if let Some(parent) = out.parent() {
        std::fs::create_dir_all(parent).map_err(|source| CliError::Write { path: parent.to_owned(), source })?;
    }
    write::file(&out, &json)?;
    if !pairs.iter().all(|pair| pair.measured_by_gpu) {
        eprintln!(
            "warning: no GPU took these times, the virtual machine counted them: constants fit for a rehearsal only"
        );
    }
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
