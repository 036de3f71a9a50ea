//! The evidence for the bars of random draws, both ways: right kernels never fail, wrong ones do.

use clap::Parser;
use gdn2_codegen::arch::Arch;
use gdn2_dsl::bars::Verdict;
use gdn2_dsl::{Draw, parse_file};
use gdn2_runtime::artifact::Compiler;
use gdn2_runtime::toolchain::Search;
use gdn2_tests::evidence::{Choice, PLANTED, Planted, Ready, Seen, rules};
use gdn2_tests::root;
use gdn2_tests::seed::{mixed, seed};
use rayon::prelude::*;
use std::process::ExitCode;

/// Draws of right kernels, or with --planted of wrong ones, judged by the bars of each draw
#[derive(Parser)]
struct Args {
    /// Draws, three to a kernel
    #[arg(long, default_value_t = 300)]
    draws: u64,
    /// Plant errors, and count the seeds of 20 that notice
    #[arg(long)]
    planted: bool,
    /// Only planted errors whose name has this in it
    #[arg(long, default_value = "", hide_default_value = true)]
    only: String,
    /// Seeds for each planted error
    #[arg(long, default_value_t = 20)]
    seeds: u64,
    /// Same seed, same draws
    #[arg(long)]
    seed: Option<u64>,
    /// Kernels at a time; all processors without it
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    threads: usize,
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

fn run(args: &Args) -> Result<bool, String> {
    let compiler = Compiler::new(Search::from_environment(None, None));
    let seed = args.seed.unwrap_or_else(seed);
    println!("seed {seed}");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(args.threads).build().map_err(|error| error.to_string())?;
    pool.install(|| if args.planted { wrong(args, &compiler, seed) } else { right(args, &compiler, seed) })
}

/// Many draws: whether none failed.
fn right(args: &Args, compiler: &Compiler, seed: u64) -> Result<bool, String> {
    let rules = rules()?;
    let nvrtc = compiler.nvrtc().map_err(|error| error.to_string())?;
    let one = |number: u64| -> Result<Vec<Seen>, String> {
        let choice = Choice::of(&rules, seed, number)?;
        let what =
            format!("{} K={} V={} {}", choice.rule.name, choice.rule.key_dim, choice.rule.value_dim, choice.rule.dtype);
        let what = format!("{number}: {what} {} {} {}", choice.arch, choice.pass, choice.schedule);
        let ready = Ready::new(nvrtc, &choice.rule, choice.arch, choice.pass, choice.schedule, str::to_owned);
        let ready = ready.map_err(|error| format!("{what}: {error}"))?;
        let mut all = Vec::new();
        for draw in Draw::telling(mixed(seed ^ 1, number)) {
            let seen = ready.judge(&draw).map_err(|error| format!("{what}: {error}"))?;
            for seen in seen.iter().filter(|seen| seen.verdict == Verdict::Failed) {
                println!("{what}: FAILED {seen:?} {draw:?}");
            }
            all.extend(seen);
        }
        Ok(all)
    };
    let said = |number: u64| one(number).inspect_err(|error| println!("NO VERDICT {error}"));
    let per_kernel: Vec<Result<Vec<Seen>, String>> = (0..args.draws.div_ceil(3)).into_par_iter().map(said).collect();
    let (kernels, without) = (per_kernel.len(), per_kernel.iter().filter(|seen| seen.is_err()).count());
    let seen: Vec<Seen> = per_kernel.into_iter().flatten().flatten().collect();
    let count = |verdict: Verdict| seen.iter().filter(|seen| seen.verdict == verdict).count();
    let quantile = |mut values: Vec<f64>, part: f64| {
        values.sort_by(f64::total_cmp);
        values.get((values.len().saturating_sub(1) as f64 * part) as usize).copied().unwrap_or(f64::NAN)
    };
    let bars = || seen.iter().map(|seen| seen.bar).collect::<Vec<f64>>();
    let errors = || seen.iter().map(|seen| seen.error / seen.bar).collect::<Vec<f64>>();
    println!(
        "{} draws of {kernels} kernels, {without} kernels without a verdict, {} tensors: {} passed, {} untested, \
         {} ill-conditioned, {} failed",
        3 * kernels,
        seen.len(),
        count(Verdict::Passed),
        count(Verdict::Untested),
        count(Verdict::Unjudged),
        count(Verdict::Failed)
    );
    println!(
        "bars, in usual bars: median {:.2}, 90 % {:.2}, 99 % {:.2}, largest {:.2}; error over its bar: median {:.2}, 99 % {:.2}",
        quantile(bars(), 0.5),
        quantile(bars(), 0.9),
        quantile(bars(), 0.99),
        quantile(bars(), 1.0),
        quantile(errors(), 0.5),
        quantile(errors(), 0.99)
    );
    Ok(count(Verdict::Failed) + without == 0)
}

/// Planted errors: whether each was noticed in 19 seeds of 20.
fn wrong(args: &Args, compiler: &Compiler, seed: u64) -> Result<bool, String> {
    let nvrtc = compiler.nvrtc().map_err(|error| error.to_string())?;
    let noticed = |planted: &Planted| -> Result<(u64, u64), String> {
        let path = root().join("rules").join(format!("{}.gdn2", planted.rule));
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let rule = parse_file(&text).map_err(|error| format!("{error:?}"))?.remove(0);
        let rule = rule.with_dims(64, 64).map_err(|error| error.to_string())?;
        let changed = std::cell::Cell::new(false);
        let change = |text: &str| {
            changed.set(text.contains(planted.right));
            text.replace(planted.right, planted.wrong)
        };
        let ready = Ready::new(nvrtc, &rule, Arch::Sm80, planted.pass, "", change);
        let ready = ready.map_err(|error| format!("{}: {error}", planted.what))?;
        if !changed.get() {
            return Err(format!("{}: the kernel's text has no `{}`", planted.what, planted.right));
        }
        let wrong = |draw: &Draw| {
            ready.judge(draw).map_or(true, |seen| seen.iter().any(|seen| seen.verdict == Verdict::Failed))
        };
        let noticed = (0..args.seeds).filter(|number| Draw::telling(mixed(seed, *number)).iter().any(wrong)).count();
        Ok((noticed as u64, args.seeds))
    };
    let wanted: Vec<&Planted> = PLANTED.iter().filter(|planted| planted.what.contains(&args.only)).collect();
    let results: Vec<_> = wanted.into_par_iter().map(|planted| (planted, noticed(planted))).collect();
    let mut good = true;
    for (planted, result) in results {
        match result {
            Ok((noticed, of)) => {
                good &= noticed * 20 >= of * 19;
                println!("{noticed:>2} of {of}  {} {}: {}", planted.rule, planted.pass, planted.what);
            }
            Err(error) => {
                good = false;
                println!("no verdict: {error}");
            }
        }
    }
    Ok(good)
}
