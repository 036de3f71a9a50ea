//! Verdicts on tensors, as a table, as JSON and as an exit code.

use comfy_table::{CellAlignment, ContentArrangement, Table};
use gdn2_codegen::abi::Tensor;
use gdn2_codegen::kernel::{Illegal, Pass};
use gdn2_codegen::schedule::Schedule;
use gdn2_dsl::bars::{Bar, Deviation, MOST_BARS, NEGLIGIBLE, Verdict as Found};
use gdn2_runtime::engine::{Engine, Outcome, Run, RunError};
use gdn2_runtime::judge::{Judged as Compared, judge, judge_named};
use gdn2_runtime::nvrtc::NvrtcError;
use gdn2_runtime::tensors::{Array, Case, CaseError};
use serde_json::json;
use std::collections::BTreeMap;

use crate::Verdict;
use crate::error::CliError;
use crate::grid;

/// The lines of a table, with a heading before the first row of each run of rows that share one.
fn under_headings(table: &Table, headings: &[&str]) -> String {
    let mut text = String::new();
    let mut last = None;
    for (at, line) in table.lines().enumerate() {
        let heading = at.checked_sub(1).and_then(|row| headings.get(row));
        if let Some(heading) = heading.filter(|heading| last != Some(**heading)) {
            text += &format!("{heading}\n");
            last = Some(*heading);
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// What a pass gives, as far as there are bars for it.
pub fn results(pass: Pass) -> &'static [Tensor] {
    match pass {
        Pass::Backward => {
            &[Tensor::DQ, Tensor::DK, Tensor::DV, Tensor::DG, Tensor::DB, Tensor::DW, Tensor::DInitialState]
        }
        Pass::Forward | Pass::ForwardForBackward | Pass::Decode => &[Tensor::O, Tensor::FinalState],
    }
}

/// What became of the cases looked at.
#[derive(Default)]
pub struct Rows {
    rows: Vec<Row>,
    /// Whether every case is run a second time, which must give the same bits.
    twice: bool,
    /// Findings of the virtual machine; `None` until something has run.
    found: Option<usize>,
}

struct Row {
    case: String,
    kernel: String,
    judged: Judged,
}

enum Judged {
    /// A tensor beside its expectation.
    Tensor { tensor: String, deviation: Deviation, bar: Bar, verdict: Found },
    /// The schedule cannot serve the case.
    Illegal(Illegal),
    /// There is no tensor to judge.
    Failed(String),
}

impl Rows {
    /// No rows yet.
    pub fn new(twice: bool) -> Rows {
        Rows { rows: Vec::new(), twice, found: None }
    }

    /// Runs a case and judges each expected output by its bar. Only what concerns every case alike, such as a compiler
    /// that is nowhere, is an error.
    pub fn judge(&mut self, name: &str, case: &Case, engine: &Engine, run: &Run<'_>) -> Result<(), CliError> {
        self.judge_by(name, case, engine, run, |_| {
            let bars = results(run.pass).iter().map(|tensor| Ok(case.bar(*tensor)?.map(|bar| (*tensor, bar))));
            bars.filter_map(Result::transpose).collect()
        })
    }

    /// The same by bars that may depend on the kernel's schedule.
    pub fn judge_by(
        &mut self,
        name: &str,
        case: &Case,
        engine: &Engine,
        run: &Run<'_>,
        bars: impl FnOnce(Option<Schedule>) -> Result<BTreeMap<Tensor, Bar>, CaseError>,
    ) -> Result<(), CliError> {
        let outcome = match engine.run(run, case) {
            Ok(outcome) => outcome,
            // A pass without kernels for a whole rule is no schedule among others.
            Err(RunError::Illegal(illegal)) if gdn2_codegen::takes(run.rule).is_ok() => {
                self.push(name, run.rule.name.clone(), Judged::Illegal(illegal));
                return Ok(());
            }
            Err(error @ (RunError::Schedule(_) | RunError::Nvrtc(NvrtcError::Missing { .. }))) => {
                return Err(error.into());
            }
            Err(error) => {
                self.fail(name, &error.to_string());
                return Ok(());
            }
        };
        let kernel = match outcome.kernel {
            Some((arch, schedule)) => format!("{} {} {arch} {schedule}", run.rule.name, run.pass),
            None => format!("{} native", run.rule.name),
        };
        let findings = outcome.reports.iter().flat_map(|report| &report.findings);
        *self.found.get_or_insert(0) += findings.clone().count();
        findings.for_each(|finding| self.fail(name, &finding.to_string()));
        let bars = match bars(outcome.kernel.map(|(_, schedule)| schedule)) {
            Ok(bars) => bars,
            Err(error) => {
                self.fail(name, &error.to_string());
                return Ok(());
            }
        };
        if self.twice {
            self.repeat(name, case, engine, run, &outcome);
        }
        let (mut compared, mut told) = (0, 0);
        for (tensor, bar) in bars {
            match judge(tensor, &outcome, case, bar) {
                Ok(None) => continue,
                Ok(Some(judged)) => {
                    told += usize::from(!matches!(judged.verdict, Found::Untested | Found::Unjudged));
                    let Compared { tensor, deviation, bar, verdict } = judged;
                    let tensor = tensor.name().to_owned();
                    self.push(name, kernel.clone(), Judged::Tensor { tensor, deviation, bar, verdict });
                }
                Err(error) => {
                    told += 1;
                    self.fail(name, &error.to_string());
                }
            }
            compared += 1;
        }
        for own in run.rule.prologue.named().into_iter().filter(|_| run.pass == Pass::Backward) {
            let tensor = format!("d{}", own.name);
            match judge_named(&tensor, &outcome, case) {
                Ok(None) => continue,
                Ok(Some((deviation, bar, verdict))) => {
                    told += usize::from(!matches!(verdict, Found::Untested | Found::Unjudged));
                    self.push(name, kernel.clone(), Judged::Tensor { tensor, deviation, bar, verdict });
                }
                Err(error) => {
                    told += 1;
                    self.fail(name, &error.to_string());
                }
            }
            compared += 1;
        }
        if compared == 0 {
            self.fail(name, "the file holds nothing to compare this pass's results with");
        } else if told == 0 {
            self.fail(name, "no tensor of it tells right from wrong: draw or write another");
        }
        Ok(())
    }

    /// Runs a case again; a tensor with other bits is a failure.
    fn repeat(&mut self, name: &str, case: &Case, engine: &Engine, run: &Run<'_>, first: &Outcome) {
        let second = match engine.run(run, case) {
            Ok(second) => second,
            Err(error) => return self.fail(name, &format!("second run: {error}")),
        };
        for (tensor, array) in &first.tensors {
            let bits = |array: &Array| array.data.iter().map(|value| value.to_bits()).collect::<Vec<u32>>();
            let again = second.tensors.get(tensor).map(bits).unwrap_or_default();
            let different = bits(array).iter().zip(&again).position(|(one, two)| one != two);
            if let Some(index) = different {
                self.fail(name, &format!("{}: element {index} has other bits in a second run", tensor.name()));
            }
        }
    }

    /// What the virtual machine found; `None` where nothing has run.
    pub fn found(&self) -> Option<usize> {
        self.found
    }

    /// A case that came to nothing.
    pub fn fail(&mut self, case: &str, reason: &str) {
        self.push(case, String::new(), Judged::Failed(reason.to_owned()));
    }

    fn push(&mut self, case: &str, kernel: String, judged: Judged) {
        self.rows.push(Row { case: case.to_owned(), kernel, judged });
    }

    fn count(&self, wanted: fn(&Judged) -> bool) -> usize {
        self.rows.iter().filter(|row| wanted(&row.judged)).count()
    }

    fn passed(&self) -> usize {
        self.count(|judged| matches!(judged, Judged::Tensor { verdict: Found::Passed, .. }))
    }

    fn failed(&self) -> usize {
        self.count(|judged| matches!(judged, Judged::Tensor { verdict: Found::Failed, .. } | Judged::Failed(_)))
    }

    /// Bad when anything failed.
    pub fn verdict(&self) -> Verdict {
        if self.failed() == 0 { Verdict::Good } else { Verdict::Bad }
    }

    /// A table, each kernel named before its rows, then what was refused or came to nothing in full, then the counts.
    pub fn table(&self) -> String {
        let mut table = grid::table(["case", "tensor", "error", "bar", ""]);
        // A line to a row.
        table.set_content_arrangement(ContentArrangement::Disabled);
        let mut notes = String::new();
        let mut kernels: Vec<&str> = Vec::new();
        for row in &self.rows {
            match &row.judged {
                Judged::Tensor { tensor, deviation, bar, verdict } => {
                    let error = error_text(deviation);
                    let bar = format!("{:.4}", bar.bar);
                    kernels.push(&row.kernel);
                    table.add_row([&row.case, tensor, &error, &bar, short(*verdict)]);
                }
                Judged::Illegal(illegal) => {
                    notes += &format!("{}: illegal: {}, {}, {}\n", row.case, illegal.field, illegal.limit, illegal.got);
                }
                Judged::Failed(reason) => notes += &format!("{}: FAIL: {reason}\n", row.case),
            }
        }
        for column in [2, 3] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut text = String::new();
        if table.row_count() > 0 {
            text += &under_headings(&table, &kernels);
        }
        let found = |wanted: Found| {
            self.rows
                .iter()
                .filter(|row| matches!(&row.judged, Judged::Tensor { verdict, .. } if *verdict == wanted))
                .count()
        };
        let (untested, unjudged) = (found(Found::Untested), found(Found::Unjudged));
        if untested > 0 {
            notes += &format!("{untested} untested: every number of the reference is below {NEGLIGIBLE:e}\n");
        }
        if unjudged > 0 {
            notes += &format!(
                "{unjudged} ill-conditioned: rounding the operands alone may cost more than {MOST_BARS} bars there\n"
            );
        }
        text + &notes + &format!("{} passed, {} failed\n", self.passed(), self.failed())
    }

    /// The same for machines.
    pub fn json(&self) -> serde_json::Value {
        let rows = self.rows.iter().map(|row| match &row.judged {
            Judged::Tensor { tensor, deviation, bar, verdict } => json!({
                "case": row.case, "kernel": row.kernel, "tensor": tensor,
                // NaN has no JSON form and becomes null.
                "error": deviation.relative, "largest": deviation.largest, "bar": bar.bar, "limit": bar.limit,
                "verdict": long(*verdict),
            }),
            Judged::Illegal(illegal) => json!({
                "case": row.case, "kernel": row.kernel, "verdict": "illegal",
                "field": illegal.field, "limit": illegal.limit, "got": illegal.got,
            }),
            Judged::Failed(reason) => json!({ "case": row.case, "verdict": "failed", "reason": reason }),
        });
        json!({ "rows": rows.collect::<Vec<_>>(), "passed": self.passed(), "failed": self.failed() })
    }
}

fn error_text(deviation: &Deviation) -> String {
    match deviation.unfit {
        Some(index) => format!("unfit at {index}"),
        None => format!("{:.5}", deviation.relative),
    }
}

/// In a table.
fn short(found: Found) -> &'static str {
    match found {
        Found::Passed => "pass",
        Found::Untested => "untested",
        Found::Unjudged => "ill-conditioned",
        Found::Failed => "FAIL",
    }
}

/// For machines.
fn long(found: Found) -> &'static str {
    match found {
        Found::Passed => "passed",
        Found::Untested => "untested",
        Found::Unjudged => "ill-conditioned",
        Found::Failed => "failed",
    }
}
