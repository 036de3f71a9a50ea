//! `gdn2 hardware-check`: everything there is to learn on a GPU in the minutes one has it.
//!
//! Each part is commands a person could type, run as processes of their own with a limit: one that hangs, crashes or
//! takes the CUDA context down costs itself. What a part found is on disk before the next one begins.

mod clock;
mod correctness;
mod findings;
mod kept;
mod page;
mod python;
mod step;
mod tuning;

use std::path::{Path, PathBuf};

use gdn2_codegen::arch::Arch;
use gdn2_runtime::device::Device;
use gdn2_runtime::device::cuda::Cuda;
use gdn2_runtime::device::launch::Gpu as _;
use serde_json::Value;

use self::clock::Clock;
use self::findings::{Findings, Part};
use self::kept::Kept;
use self::step::{Ended, Step};
use crate::error::CliError;
use crate::select::Selection;
use crate::{Verdict, terminal, write};

/// Check, compare and tune everything on a GPU, in the minutes one has it
///
/// In order of worth: what the clock must know of the hardware (`gdn2 micro`); the virtual machine's opcodes against it;
/// every shipped rule, pass and path against float64, each twice; the Python package on PyTorch's tensors; the peers that
/// can be imported, side by side, decode among them; tuning; the clock's constants refitted. A part gets a share of the minutes, and what it leaves over goes to the next. --device vm rehearses all of it: the same
/// steps and files, marked as a rehearsal, and no time in them.
///
/// DIR gets report.md and report.json, correctness.jsonl, pytorch.jsonl, peers.jsonl, tuning.jsonl and kept.tar, the one file to attach to
/// an issue: fixtures, tuning records and model constants, which `gdn2 records import` checks and merges.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  gdn2 hardware-check --device vm --minutes 3 --out rehearsal
  gdn2 hardware-check --device cuda:0 --minutes 9 --out results --cases ../shared/oracle tests/cases")]
pub struct Args {
    /// cuda:N, or vm to rehearse
    #[arg(long, value_name = "DEVICE")]
    device: String,
    /// Wall-clock minutes for everything
    #[arg(long, default_value = "9", value_name = "N", value_parser = minutes)]
    minutes: f64,
    /// Folder for the results
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Case files, or folders of them
    #[arg(long, num_args = 1.., default_value = "tests/cases", value_name = "PATH")]
    cases: Vec<PathBuf>,
    /// Folder of the rule files
    #[arg(long, default_value = "rules", value_name = "DIR")]
    rules: PathBuf,
    /// The process that calls the peers
    #[arg(long, default_value = "benchmarks/peers.py", value_name = "SCRIPT.py")]
    peers: PathBuf,
    /// The process that calls the Python package on PyTorch's tensors
    #[arg(long, default_value = "benchmarks/in_pytorch.py", value_name = "SCRIPT.py")]
    pytorch: PathBuf,
    /// Our C library, for those processes
    #[arg(long, default_value = "target/release/libgdn2_c.so", value_name = "LIBRARY")]
    library: PathBuf,
    /// Python that runs them
    #[arg(long, default_value = "python3", value_name = "PROGRAM")]
    python: PathBuf,
    /// Settles the random inputs
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
}

/// What every part is told.
struct Setting<'a> {
    args: &'a Args,
    /// No GPU: the virtual machine stands in for it.
    rehearsal: bool,
    clock: Clock,
    kept: Kept,
}

fn minutes(text: &str) -> Result<f64, String> {
    let minutes: f64 = text.parse().map_err(|_| format!("`{text}` is no number of minutes"))?;
    if (0.1..=600.0).contains(&minutes) { Ok(minutes) } else { Err("use 0.1 to 600".to_owned()) }
}

impl Args {
    pub fn run(&self) -> Result<Verdict, CliError> {
        let device: Device = self.device.parse()?;
        let gpu = match &device {
            Device::Cuda(gpu) => Some(gpu),
            Device::Vm(_) => None,
            Device::Cpu(_) => return Err(CliError::Usage("--device: use cuda:N, or vm to rehearse".to_owned())),
        };
        std::fs::create_dir_all(&self.out).map_err(|source| CliError::Write { path: self.out.clone(), source })?;
        let setting =
            Setting { args: self, rehearsal: gpu.is_none(), clock: Clock::start(self.minutes), kept: Kept::new()? };
        let mut findings = Findings::new(setting.rehearsal, gpu.map(about).transpose()?);
        // Parts in order of worth, each with the share of all minutes after which it must be over.
        self.part(&setting, &mut findings, "micro", 0.08, micro)?;
        self.part(&setting, &mut findings, "conformance", 0.16, conformance)?;
        self.part(&setting, &mut findings, "correctness", 0.36, correctness::part)?;
        self.part(&setting, &mut findings, "pytorch", 0.46, python::pytorch)?;
        self.part(&setting, &mut findings, "peers", 0.73, python::peers)?;
        self.part(&setting, &mut findings, "tuning", 0.90, tuning::part)?;
        self.part(&setting, &mut findings, "calibration", 0.97, tuning::calibration)?;
        write::stdout(page::summary(&findings).as_bytes())?;
        let good = findings.parts.iter().all(|part| part.good);
        Ok(if good { Verdict::Good } else { Verdict::Bad })
    }

    fn part(
        &self,
        setting: &Setting<'_>,
        findings: &mut Findings,
        name: &'static str,
        until: f64,
        run: fn(&Setting<'_>, Clock) -> Result<Part, CliError>,
    ) -> Result<(), CliError> {
        terminal::note(&format!("{name}: {}", setting.clock.spent()));
        let clock = setting.clock.until(until);
        let before = setting.clock.seconds();
        let mut part = run(setting, clock).unwrap_or_else(|error| Part::failed(error.to_string()));
        (part.name, part.seconds) = (name, setting.clock.seconds() - before);
        findings.parts.push(part);
        let report = findings.json()?;
        setting.kept.pack(&self.out.join("kept.tar"), report.as_bytes())?;
        write::file(&self.out.join("report.json"), report.as_bytes())?;
        write::file(&self.out.join("report.md"), page::markdown(findings).as_bytes())
    }
}

/// What the clock's explanations disagree about. On a GPU without Hopper's products there is nothing to ask.
fn micro(setting: &Setting<'_>, clock: Clock) -> Result<Part, CliError> {
    if let Device::Cuda(gpu) = setting.args.device.parse()?
        && gpu.arch() != Arch::Sm90a
    {
        let summary = "Hopper's products are not on this GPU".to_owned();
        return Ok(Part { good: true, summary, ..Part::default() });
    }
    let ended = Step::gdn2("micro", ["micro", "--json"])?.with("--device", &setting.args.device).run(clock)?;
    let printed: Value = serde_json::from_str(&ended.output).unwrap_or(Value::Null);
    match printed["rows"].as_array() {
        Some(rows) if ended.success => {
            let summary = format!("{} questions", rows.len());
            Ok(Part { good: true, summary, rows: rows.clone(), ..Part::default() })
        }
        _ => Ok(Part { good: ended.timed_out, ..Part::failed(verdict(&ended)) }),
    }
}

/// The opcode kernels; what the hardware gave becomes fixtures.
fn conformance(setting: &Setting<'_>, clock: Clock) -> Result<Part, CliError> {
    let fixtures = setting.kept.folder("gdn2-vm/fixtures")?;
    let step = Step::gdn2("conformance", ["conformance", "--json"])?
        .with("--device", &setting.args.device)
        .with("--out", &fixtures);
    let ended = step.run(clock)?;
    Ok(Part::of_json(&ended))
}

/// What a report must say of the GPU it is about.
fn about(gpu: &Cuda) -> Result<findings::Gpu, CliError> {
    let identity = gpu.identity()?;
    Ok(findings::Gpu {
        name: gpu.name()?,
        records: identity.records(),
        arch: identity.arch,
        driver: gpu.driver().to_string(),
        clock_mhz: gpu.clock_mhz()?,
    })
}

/// The rule files of a folder, in order of their names.
fn rule_files(folder: &Path) -> Result<Vec<PathBuf>, CliError> {
    let entries = std::fs::read_dir(folder).map_err(|source| CliError::Read { path: folder.to_owned(), source })?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "gdn2"));
    files.sort();
    // What no kernel takes has nothing to check on a GPU; a file with mistakes is for its step to report.
    files.retain(|path| {
        let rules = Selection::file(path.clone()).rules();
        rules.map_or(true, |rules| rules.iter().all(|rule| gdn2_codegen::takes(rule).is_ok()))
    });
    Ok(files)
}

/// A process that ended well, or why it did not.
fn verdict(ended: &Ended) -> String {
    match ended {
        Ended { timed_out: true, seconds, .. } => format!("stopped after {seconds:.0} s, its share of the time"),
        Ended { success: true, .. } => "passed".to_owned(),
        Ended { complaint, .. } => complaint.clone(),
    }
}
