//! A rule's kernels on fresh random inputs: what gradcheck and verify share.

use std::time::{SystemTime, UNIX_EPOCH};

use gdn2_codegen::kernel::Pass;
use gdn2_dsl::Draw;
use gdn2_dsl::bars::{Bar, bar};
use gdn2_runtime::drawn::bars;
use gdn2_runtime::engine::{Engine, Run};
use gdn2_runtime::tensors::Case;

use crate::error::CliError;
use crate::progress::Progress;
use crate::rows::{Rows, results};

/// What each of the telling draws is about.
const DRAWS: [&str; 3] = ["ragged", "packed strong", "reset"];

/// Judges the run's rule on the telling draws of a seed.
pub fn judge(rows: &mut Rows, engine: &Engine, run: &Run<'_>, seed: u64) -> Result<(), CliError> {
    let progress = Progress::new("checking", DRAWS.len());
    for (name, draw) in DRAWS.into_iter().zip(Draw::telling(seed)) {
        progress.step(name);
        let mut case = Case::drawn(run.rule, &draw, run.pass == Pass::Backward)?;
        case.set_named_bars(run.rule, &draw)?;
        rows.judge_by(name, &case, engine, run, |schedule| match schedule {
            Some(schedule) => bars(run.rule, &draw, &case, &schedule),
            // The CPU goes token by token, and nothing is rounded on the way.
            None => Ok(results(run.pass).iter().filter_map(|it| Some((*it, Bar::fixed(bar(it.name())?)))).collect()),
        })?;
    }
    Ok(())
}

/// A seed from the clock.
pub fn fresh() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
