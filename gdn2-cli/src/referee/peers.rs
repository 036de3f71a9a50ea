//! Other projects' kernels, as benchmarks/referee.py bundles them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gdn2_codegen::abi::Tensor;
use gdn2_codegen::kernel::Pass;
use gdn2_dsl::bars::{Bar, Deviation, Verdict, bar};
use gdn2_runtime::files::{self, Limit};
use gdn2_runtime::tensors::Case;
use serde::Deserialize;

use super::row::{Cost, Found, Judged, Row};
use crate::error::CliError;
use crate::floor;
use crate::vm::{self, Ran, usage};

const SAYS: Limit = Limit { kind: "a peer.json", bytes: 1 << 20 };
const ARGUED: Limit = Limit { kind: "a file of arguments", bytes: 1 << 20 };

/// One call of another project's.
pub struct Bundle {
    folder: PathBuf,
    says: Says,
}

impl Bundle {
    /// Its name.
    pub fn call(&self) -> &str {
        &self.says.call
    }
}

/// peer.json
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Says {
    by: String,
    call: String,
    compiled_by: String,
    rule: String,
    pass: String,
    shape: String,
    run: PathBuf,
    reference: PathBuf,
    /// The buffers that results are in, to the tensors of the case.
    outputs: BTreeMap<String, String>,
    /// Launches at the beginning that are of another call, which is priced apart.
    #[serde(default)]
    before: usize,
}

/// What is to be said of findings.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Argument {
    /// Kernel.
    entry: String,
    /// Which rule of the checks.
    rule: String,
    /// Real, without effect, or a false alarm, and why.
    why: String,
}

/// The bundles below a folder, by name.
pub fn bundles(folder: &Path) -> Result<Vec<Bundle>, CliError> {
    let failed = |source| CliError::Read { path: folder.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let folder = entry.map_err(failed)?.path();
        let path = folder.join("peer.json");
        if !path.is_file() {
            continue;
        }
        let bytes = files::read_regular(&path, SAYS).map_err(|source| CliError::Read { path: path.clone(), source })?;
        let says = serde_json::from_slice(&bytes).map_err(|error| usage(format!("{}: {error}", path.display())))?;
        found.push(Bundle { folder, says });
    }
    if found.is_empty() {
        let why = "no bundle in it, a folder with a peer.json: build some with benchmarks/referee.py";
        return Err(usage(format!("{}: {why}", folder.display())));
    }
    found.sort_by(|a, b| a.folder.cmp(&b.folder));
    Ok(found)
}

/// The arguments of a file; none where it is not there and nothing needs it.
pub fn argued(path: &Path, needed: bool) -> Result<Vec<Argument>, CliError> {
    if !path.is_file() && !needed {
        return Ok(Vec::new());
    }
    let bytes = files::read_regular(path, ARGUED).map_err(|source| CliError::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes).map_err(|error| usage(format!("{}: {error}", path.display())))
}

/// Runs a bundle and judges what it gives.
pub fn row(bundle: &Bundle, argued: &[Argument]) -> Result<Row, CliError> {
    let Says { by, call, compiled_by, rule, pass, shape, run, reference, outputs, before } = &bundle.says;
    let pass: Pass = crate::select::pass(pass).map_err(|error| usage(format!("{call}: pass: {error}")))?;
    let case = Case::load(&bundle.folder.join(reference))?;
    let path = bundle.folder.join(run);
    let ran = vm::Args::judging(path.clone()).ran(&path)?;
    let mut row = Row::new(format!("{by} by {compiled_by}"), call.clone(), rule.clone(), pass, shape.clone());
    row.launches = ran.launches.len().saturating_sub(*before);
    let mut reports = Vec::new();
    for launched in &ran.launches {
        match &launched.ended {
            Ok(report) => {
                row.findings.extend(report.findings.iter().map(|finding| {
                    Found {
                        entry: launched.entry.clone(),
                        finding: finding.clone(),
                        argued: argued
                            .iter()
                            .find(|one| one.entry == launched.entry && one.rule == finding.rule.to_string())
                            .map(|one| one.why.clone()),
                    }
                }));
                row.left_out += report.left_out;
                reports.push(report);
            }
            Err(trap) => row.stopped = Some(format!("{}: {}", launched.entry, trap.fault)),
        }
    }
    let sizes = |tensor: Tensor| case.tensors.get(&tensor).map(|array| array.shape.clone()).unwrap_or_default();
    let [batch, tokens, heads, _] = sizes(Tensor::V)[..] else {
        return Err(usage(format!("{}: v must have four axes", bundle.folder.join(reference).display())));
    };
    let sequences = sizes(Tensor::FinalState).first().copied().unwrap_or(batch);
    let (tokens, heads, sequences) = ((batch * tokens) as u64, heads as u64, sequences as u64);
    row.cost = Cost::of(
        reports.into_iter().skip(*before),
        tokens * heads,
        floor::bytes(&case.rule()?, pass, tokens * heads, 2 * sequences * heads),
    );
    if row.stopped.is_none() {
        for (place, name) in outputs {
            row.results.push(judged(&ran, place, name, &case)?);
        }
    }
    Ok(row)
}

/// A result of a bundle beside its reference.
fn judged(ran: &Ran, place: &str, name: &str, case: &Case) -> Result<Judged, CliError> {
    let tensor = case.tensors.iter().find(|(tensor, _)| tensor.name() == name);
    let (Some((_, expected)), Some(buffer), Some(most)) = (tensor, ran.buffers.get(place), bar(name)) else {
        return Err(usage(format!(
            "peer.json: outputs: `{place}`: `{name}`: no such buffer, tensor of the case, or bar"
        )));
    };
    let got = buffer
        .numbers(&ran.memory)
        .ok_or_else(|| usage(format!("`{place}` is {:?}, results are of a dtype with numbers", buffer.dtype)))?;
    if got.len() != expected.data.len() {
        return Err(usage(format!("`{place}` has {} numbers, `{name}` {}", got.len(), expected.data.len())));
    }
    let reference: Vec<f64> = expected.data.iter().copied().map(f64::from).collect();
    let deviation = Deviation::of(got.into_iter(), &reference);
    let passed = deviation.verdict(Bar::fixed(most), reference.len()) != Verdict::Failed;
    Ok(Judged { tensor: name.to_owned(), error: deviation.relative, bar: most, passed })
}
