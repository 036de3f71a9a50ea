//! Every shipped rule, pass and path against float64, each twice on poisoned outputs.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::clock::Clock;
use super::findings::{Part, line, row};
use super::step::{Step, lanes};
use super::{Setting, rule_files, verdict};
use crate::error::CliError;

const PASSES: [&str; 3] = ["forward", "decode", "backward"];

const FIRST: [&str; 3] = ["gdn", "kda", "gdn2"];

/// Schedules beside the built-in one, by pass: the paths a shape may be sent down.
const PATHS: [(&str, &str); 8] = [
    ("forward", "matrix=mma"),
    ("forward", "matrix=mma,chunk=16"),
    ("forward", "matrix=mma,chunk=32"),
    ("forward", "matrix=wgmma,chunk=16"),
    ("forward", "matrix=wgmma,chunk=32"),
    ("forward", "matrix=wgmma,segments=3"),
    ("backward", "chunk=32"),
    ("backward", "recompute=1"),
];

/// Runs the steps on as many lanes as there are cores to compile on.
pub fn part(setting: &Setting<'_>, clock: Clock) -> Result<Part, CliError> {
    let path = setting.args.out.join("correctness.jsonl");
    let mut log = File::create(&path).map_err(|source| CliError::Write { path: path.clone(), source })?;
    let mut part = Part { good: true, ..Part::default() };
    let (mut passed, mut failed, mut unreached) = (0, 0, 0);
    let width = std::thread::available_parallelism().map_or(2, usize::from);
    lanes(&steps(setting)?, width.min(8), clock, |step, ended| {
        let Some(ended) = ended else {
            unreached += 1;
            part.complaints.push(format!("{}: not reached in time", step.name));
            return Ok(());
        };
        let printed: Value = serde_json::from_str(&ended.output).unwrap_or(Value::Null);
        passed += printed["passed"].as_u64().unwrap_or(0);
        failed += printed["failed"].as_u64().unwrap_or(0);
        let found = row(&ended, &printed);
        let written = writeln!(log, "{found}").and_then(|()| log.flush());
        written.map_err(|source| CliError::Write { path: path.clone(), source })?;
        if !ended.success {
            part.good &= ended.timed_out;
            let rows = printed["rows"].as_array().into_iter().flatten();
            let mut why: Vec<String> = rows.filter(|row| row["verdict"] == "failed").map(line).collect();
            if why.is_empty() {
                why.push(verdict(&ended));
            }
            part.complaints.extend(why.into_iter().map(|why| format!("{}: {why}", ended.name)));
        }
        part.rows.push(found);
        Ok(())
    })?;
    part.summary = format!("{passed} passed, {failed} failed, {unreached} steps not reached");
    Ok(part)
}

/// Most telling first.
fn steps(setting: &Setting<'_>) -> Result<Vec<Step>, CliError> {
    let mut steps = Vec::new();
    let verify = |name: String, pass: &str| {
        let step = Step::gdn2(name, ["verify", "--json", "--twice", "--pass", pass])?;
        let step = step.with("--device", &setting.args.device);
        Ok::<Step, CliError>(if setting.rehearsal {
            step.with("--arch", "sm_90a").with("--vm-check", "basic")
        } else {
            step
        })
    };
    let cases = |step: Step| setting.args.cases.iter().fold(step.and("--cases"), |step, path| step.and(path));
    for pass in PASSES {
        steps.push(cases(verify(format!("cases, {pass}"), pass)?));
    }
    let seed = setting.args.seed.to_string();
    let mut rules = rule_files(&setting.args.rules)?;
    // The rules that most people come for.
    rules.sort_by_key(|path| !FIRST.iter().any(|name| path.file_stem().is_some_and(|stem| stem == *name)));
    let draws = |rule: &PathBuf, pass: &str| {
        let name = rule.file_stem().unwrap_or_default().to_string_lossy();
        Ok::<Step, CliError>(verify(format!("{name}, {pass}"), pass)?.and(rule).with("--draws", &seed))
    };
    for rule in &rules {
        for pass in PASSES {
            steps.push(draws(rule, pass)?);
        }
    }
    for (pass, schedule) in PATHS {
        let step = verify(format!("cases, {pass}, {schedule}"), pass)?;
        steps.push(cases(step.with("--schedule", schedule)));
    }
    steps.push(cases(verify("cases, decode in runs of 4".to_owned(), "decode")?.with("--tokens-per-launch", "4")));
    let sanitizer = found("compute-sanitizer").filter(|_| !setting.rehearsal);
    if let (Some(sanitizer), Some(rule)) = (sanitizer, rules.first()) {
        for tool in ["memcheck", "racecheck", "synccheck"] {
            let mut step = draws(rule, "forward")?.under(&sanitizer, &["--error-exitcode", "9", "--tool", tool]);
            step.name = format!("compute-sanitizer {tool}");
            steps.push(step);
        }
    }
    Ok(steps)
}

/// A program on the path.
fn found(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| Path::is_file(file))
}
