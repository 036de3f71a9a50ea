//! Whether what a hardware check left can be believed: each complaint a line.

use std::collections::BTreeMap;

use gdn2_codegen::arch::Arch;
use gdn2_codegen::gpu::{GPUS, KNOWN, gpu_of_file};
use gdn2_codegen::record::{Basis, Record, Records, rule_fingerprint, source_fingerprint};
use gdn2_dsl::Rule;
use gdn2_tune::model::Constants;
use safetensors::SafeTensors;
use serde::Deserialize;
use serde_json::Value;

use super::archive::REPORT;

/// Multiprocessor clocks that a GPU may have, MHz.
const CLOCKS: std::ops::RangeInclusive<u32> = 200..=4_000;

/// What was found, as `report.json` has it.
#[derive(Debug, Deserialize)]
pub struct Report {
    /// UTC.
    pub date: String,
    /// Of the program.
    pub version: String,
    /// No GPU was there.
    pub rehearsal: bool,
    /// Where it ran.
    pub gpu: Option<Gpu>,
    parts: Vec<Part>,
}

/// A GPU.
#[derive(Debug, Deserialize)]
pub struct Gpu {
    /// As the driver says it.
    pub name: String,
    /// The name of its records.
    records: String,
    /// Its architecture.
    arch: Arch,
    /// The newest CUDA that the driver supports.
    pub driver: String,
    /// Highest clock of its multiprocessors.
    pub clock_mhz: u32,
}

#[derive(Debug, Deserialize)]
struct Part {
    name: String,
    good: bool,
    summary: String,
    rows: Vec<Value>,
}

/// What can be merged.
#[derive(Debug, Default)]
pub struct Kept {
    /// Tuning records by GPU.
    pub records: BTreeMap<String, Records>,
    /// Files to be put in their place: fixtures, constants.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// Reads the report and checks everything.
pub fn checked(files: &BTreeMap<String, Vec<u8>>, rules: &[Rule]) -> (Option<Report>, Kept, Vec<String>) {
    let (mut kept, mut wrong) = (Kept::default(), Vec::new());
    let report: Option<Report> = match files.get(REPORT).map(|bytes| serde_json::from_slice(bytes)) {
        Some(Ok(report)) => Some(report),
        Some(Err(error)) => {
            wrong.push(format!("{REPORT}: {error}"));
            None
        }
        None => {
            wrong.push(format!("no {REPORT} in it"));
            None
        }
    };
    let Some(known) = &report else { return (None, kept, wrong) };
    wrong.extend(of_gpu(known));
    wrong.extend(of_parts(known));
    for (name, bytes) in files.iter().filter(|(name, _)| *name != REPORT) {
        let parts: Vec<&str> = name.split('/').collect();
        let complaints = match parts[..] {
            ["tuning", file] => {
                let gpu = file.strip_suffix(".json").unwrap_or_default();
                let (records, damage) = Records::parse(bytes);
                let mut complaints: Vec<String> = damage.iter().map(ToString::to_string).collect();
                complaints.extend(records.iter().flat_map(|record| of_record(record, gpu, known, rules)));
                kept.records.insert(gpu.to_owned(), records);
                complaints
            }
            ["tuning", "constants", file] => {
                kept.files.insert(name.clone(), bytes.clone());
                of_constants(bytes, file.strip_suffix(".json").unwrap_or_default())
            }
            ["gdn2-vm", "fixtures", file] if file.ends_with(".safetensors") => {
                kept.files.insert(name.clone(), bytes.clone());
                of_fixtures(bytes)
            }
            _ => vec!["nothing that a check leaves".to_owned()],
        };
        wrong.extend(complaints.into_iter().map(|complaint| format!("{name}: {complaint}")));
    }
    (report, kept, wrong)
}

fn of_gpu(report: &Report) -> Vec<String> {
    let mut wrong = Vec::new();
    match (&report.gpu, report.rehearsal) {
        (None, false) => wrong.push("the report names no GPU, and says that it is no rehearsal".to_owned()),
        (Some(_), true) => wrong.push("the report is a rehearsal's, and names a GPU".to_owned()),
        _ => {}
    }
    let Some(gpu) = &report.gpu else { return wrong };
    if gpu_of_file(&format!("{}.json", gpu.records)).is_none() {
        wrong.push(format!("`{}` is no name of records", gpu.records));
    }
    let known = KNOWN.iter().find(|known| known.gpu == gpu.records);
    if known.is_some_and(|known| known.arch != gpu.arch || !known.names.contains(&gpu.name.as_str())) {
        wrong.push(format!("GPU `{}`, {}: not the one whose records are {}", gpu.name, gpu.arch, gpu.records));
    }
    if !CLOCKS.contains(&gpu.clock_mhz) {
        wrong.push(format!("a clock of {} MHz: {} to {} can be", gpu.clock_mhz, CLOCKS.start(), CLOCKS.end()));
    }
    let major = gpu.driver.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_none_or(|major| major < 12) {
        wrong.push(format!("driver for CUDA `{}`: kernels need 12 or newer", gpu.driver));
    }
    wrong
}

fn of_parts(report: &Report) -> Vec<String> {
    let mut wrong = Vec::new();
    for name in ["conformance", "correctness"] {
        match report.parts.iter().find(|part| part.name == name) {
            None => wrong.push(format!("no part `{name}`: nothing says that kernels are right there")),
            Some(part) if !part.good => wrong.push(format!("{name}: {}", part.summary)),
            Some(_) => {}
        }
    }
    let rows = report.parts.iter().filter(|part| part.name == "correctness").flat_map(|part| &part.rows);
    let tensors: Vec<&Value> = rows.flat_map(|step| step["rows"].as_array().into_iter().flatten()).collect();
    let passed = tensors.iter().filter(|row| row["verdict"] == "passed").count();
    if passed == 0 {
        wrong.push("correctness: no tensor passed".to_owned());
    }
    for row in tensors {
        // What passed did so by its numbers.
        let contradicts = match (row["error"].as_f64(), row["limit"].as_f64()) {
            (Some(error), Some(limit)) => error > limit,
            _ => true,
        };
        if row["verdict"] == "failed" || row["verdict"] == "passed" && contradicts {
            wrong.push(format!(
                "correctness: {} {} {}: {}, error {} of at most {}",
                row["case"], row["kernel"], row["tensor"], row["verdict"], row["error"], row["limit"]
            ));
        }
    }
    wrong
}

fn of_record(record: &Record, gpu: &str, report: &Report, rules: &[Rule]) -> Vec<String> {
    let mut wrong = Vec::new();
    let provenance = &record.provenance;
    let mut complain = |what: String| wrong.push(format!("{} {} {}: {what}", record.rule, record.pass, record.bucket));
    let arch = GPUS.iter().find(|(name, _)| *name == gpu).map(|(_, arch)| *arch);
    let arch = report.gpu.as_ref().map(|gpu| gpu.arch).or(arch);
    if arch != Some(provenance.arch) {
        complain(format!("for {}, which is not {gpu}'s architecture", provenance.arch));
    }
    if (provenance.basis == Basis::Measured) == report.rehearsal {
        complain(format!("times are {:?}", provenance.basis).to_lowercase());
    }
    let times = [Some(record.winner), record.built_in, record.runner_up];
    if times.iter().flatten().any(|timed| !(timed.time.micros.is_finite() && timed.time.micros > 0.0)) {
        complain("a time that is none".to_owned());
    }
    if let Some(of) = &report.gpu {
        if of.records != gpu {
            complain(format!("the check ran on {}", of.name));
        }
        if f64::from(provenance.clock_mhz) > 1.05 * f64::from(of.clock_mhz) || !CLOCKS.contains(&provenance.clock_mhz) {
            complain(format!("measured at {} MHz, of at most {}", provenance.clock_mhz, of.clock_mhz));
        }
        // As `gdn2 tune` has it.
        if provenance.driver != Some(format!("CUDA {}", of.driver)) {
            let measured = provenance.driver.as_deref().unwrap_or("unknown");
            complain(format!("measured with driver {measured}, the check ran with CUDA {}", of.driver));
        }
    }
    match rules.iter().find(|rule| rule_fingerprint(rule) == provenance.rule) {
        None => complain("its rule is none of those here".to_owned()),
        Some(rule) => {
            let now = source_fingerprint(rule, record.pass, record.winner.schedule, provenance.arch);
            if now.as_ref() != Some(&provenance.source) {
                complain("its kernel is not what is generated here".to_owned());
            }
        }
    }
    wrong
}

fn of_constants(bytes: &[u8], gpu: &str) -> Vec<String> {
    let constants: Constants = match serde_json::from_slice(bytes) {
        Ok(constants) => constants,
        Err(error) => return vec![error.to_string()],
    };
    let mut wrong = Vec::new();
    if constants.gpu != gpu {
        wrong.push(format!("constants of {}", constants.gpu));
    }
    let bad = constants.values.iter().filter(|(_, sourced)| !(sourced.value.is_finite() && sourced.value >= 0.0));
    wrong.extend(bad.map(|(name, sourced)| format!("{name} is {}", sourced.value)));
    wrong
}

fn of_fixtures(bytes: &[u8]) -> Vec<String> {
    let tensors = match SafeTensors::deserialize(bytes) {
        Ok(tensors) => tensors,
        Err(error) => return vec![error.to_string()],
    };
    let known = gdn2_vm::conformance::kernels();
    let unknown = tensors.names().into_iter().filter(|name| !known.iter().any(|kernel| kernel.name == **name));
    unknown.map(|name| format!("`{name}` is no conformance kernel")).collect()
}
