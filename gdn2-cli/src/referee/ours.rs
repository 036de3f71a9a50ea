//! Our own kernels.

use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::Pass;
use gdn2_dsl::bars::Verdict;
use gdn2_dsl::{Draw, Regime, Rule};
use gdn2_runtime::device::Device;
use gdn2_runtime::device::vm::Settings;
use gdn2_runtime::drawn::bars;
use gdn2_runtime::engine::{Engine, Run};
use gdn2_runtime::judge::judge;
use gdn2_runtime::tensors::Case;
use gdn2_vm::Check;

use super::row::{Cost, Found, Judged, Row};
use crate::error::CliError;
use crate::floor;
use crate::rows::results;

/// Heads of the calls.
const HEADS: usize = 2;

/// A pass of a rule, in the schedule that a call gets.
pub fn row(engine: &Engine, rule: &Rule, pass: Pass, arch: Arch, tokens: usize, seed: u64) -> Result<Row, CliError> {
    let draw = Draw { regime: Regime::Mild, ..Draw::new(1, tokens, HEADS, HEADS, seed) };
    let case = Case::drawn(rule, &draw, pass == Pass::Backward)?;
    let device = Device::Vm(Settings { check: Check::Full, count: true, ..Settings::default() });
    let run = Run { arch: Some(arch), ..Run::new(rule, pass, &device) };
    let shape = format!("B=1,T={tokens},H={HEADS},K={},V={}", rule.key_dim, rule.value_dim);
    let mut row =
        Row::new("gdn2".to_owned(), format!("{} {pass} on {arch}", rule.name), rule.name.clone(), pass, shape);
    let outcome = match engine.run(&run, &case) {
        Ok(outcome) => outcome,
        Err(error) => {
            row.stopped = Some(error.to_string());
            return Ok(row);
        }
    };
    let Some((_, schedule)) = outcome.kernel else { return Ok(row) };
    row.schedule = Some(schedule.to_string());
    for (tensor, bar) in bars(rule, &draw, &case, &schedule)? {
        if !results(pass).contains(&tensor) {
            continue;
        }
        if let Some(judged) = judge(tensor, &outcome, &case, bar)? {
            row.results.push(Judged {
                tensor: tensor.name().to_owned(),
                error: judged.deviation.relative,
                bar: bar.bar,
                passed: judged.verdict != Verdict::Failed,
            });
        }
    }
    // Backward's outcome begins with the forward pass that keeps what it reads; its price is the forward's.
    let kept = match pass {
        Pass::Backward => engine.training(&run)?.forward.map_or(0, |forward| forward.kernel.launches.len()),
        _ => 0,
    };
    let reports = outcome.reports.get(kept..).unwrap_or_default();
    let found = outcome.reports.iter().flat_map(|report| &report.findings);
    row.findings =
        found.map(|finding| Found { entry: rule.name.clone(), finding: finding.clone(), argued: None }).collect();
    row.left_out = outcome.reports.iter().map(|report| report.left_out).sum();
    row.launches = reports.len();
    let (pairs, heads) = ((tokens * HEADS) as u64, HEADS as u64);
    row.cost = Cost::of(reports, pairs, floor::bytes(rule, pass, pairs, 2 * heads));
    Ok(row)
}
