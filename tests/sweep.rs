//! A share of the sweep in every run of the tests, another each time; the whole is `cargo run --bin sweep`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use gdn2_tests::seed::seed;
use gdn2_tests::sweep::{Kept, Share, Sweep, Verdict, points};
use rayon::prelude::*;
use std::io::Write as _;

/// Parts of a minute and a half of a processor: 6,000 points at 1.6 seconds.
const SHARES: u64 = 120;

#[test]
fn a_share_of_the_sweep_is_right() {
    let (sweep, kept) = (Sweep::new().unwrap(), Kept::nowhere());
    let share = Share { index: seed() % SHARES, of: SHARES };
    let again = format!("cargo run --release -p gdn2-tests --bin sweep -- --share {share} --seed {}", seed());
    let points: Vec<_> = points().unwrap().into_iter().filter(|point| share.takes(point)).collect();
    let _ = writeln!(std::io::stderr(), "{} points, the same again: {again}", points.len());
    let failures: Vec<String> = points
        .par_iter()
        .filter_map(|point| match sweep.judge(point, seed(), &kept).unwrap() {
            Verdict::Failed(why) => Some(format!("{point}: {why}")),
            Verdict::Passed | Verdict::Known => None,
        })
        .collect();
    assert!(!points.is_empty() && failures.is_empty(), "{again}\n{}", failures.join("\n"));
}
