//! Runs the sweep, or a share of it, and keeps what it found.

use clap::Parser;
use gdn2_tests::sweep::{Kept, Share, Sweep, Verdict, points};
use rayon::prelude::*;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Every rule, head dim, architecture, pass and schedule on the virtual machine with full checks, against float64
#[derive(Parser)]
struct Args {
    /// Which part of how many, such as 17/120; without it everything
    #[arg(long, value_name = "I/N", default_value = "0/1", hide_default_value = true)]
    share: Share,
    /// File of verdicts: read first, added to
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
    /// Only points whose name has this in it
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    only: String,
    /// Same seed, same inputs; without it other ones every time
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Points at a time; all processors without it
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    threads: usize,
    /// Say what there is to do and do nothing
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether every point was good.
fn run(args: &Args) -> Result<bool, String> {
    let wanted = |point: &gdn2_tests::sweep::Point| args.share.takes(point) && point.to_string().contains(&args.only);
    let mut points = points()?;
    points.retain(wanted);
    // By hash: what is done first has something of everything.
    points.sort_by_key(gdn2_tests::sweep::Point::number);
    if args.list {
        points.iter().for_each(|point| println!("{point}"));
        println!("{} points", points.len());
        return Ok(true);
    }
    let kept = args.resume.as_deref().map_or_else(|| Ok(Kept::nowhere()), Kept::open);
    let kept = kept.map_err(|error| error.to_string())?;
    let seed = args.seed.unwrap_or_else(gdn2_tests::seed::seed);
    let sweep = Sweep::new()?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(args.threads).build().map_err(|error| error.to_string())?;
    let (done, passed, failed) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    println!("{} points, share {}, seed {seed}", points.len(), args.share);
    let one = |point: &gdn2_tests::sweep::Point| {
        let begun = Instant::now();
        let verdict = sweep.judge(point, seed, &kept).map_err(|error| error.to_string())?;
        let done = done.fetch_add(1, Ordering::Relaxed) + 1;
        match verdict {
            Verdict::Known => {}
            Verdict::Passed => {
                passed.fetch_add(1, Ordering::Relaxed);
                println!("{done}: {point}: passed in {:.1} s", begun.elapsed().as_secs_f64());
            }
            Verdict::Failed(why) => {
                failed.fetch_add(1, Ordering::Relaxed);
                println!(
                    "{done}: {point}: FAILED: {why}\n  again: cargo run --release -p gdn2-tests --bin sweep -- --only '{point}' --seed {seed}"
                );
            }
        }
        Ok::<(), String>(())
    };
    pool.install(|| points.par_iter().try_for_each(one))?;
    let [passed, failed] = [passed, failed].map(AtomicUsize::into_inner);
    println!("{} known before, {passed} passed, {failed} failed", points.len() - passed - failed);
    Ok(failed == 0)
}
