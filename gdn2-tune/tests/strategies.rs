//! Search strategies on recorded times of three rules: every legal forward candidate on H200, predicted by the time
//! model (`gdn2 tune --device model`), counts left out of the logs.
#![allow(clippy::unwrap_used, missing_docs, reason = "a failed unwrap is a failed test")]

use gdn2_tune::log::Contents;
use gdn2_tune::replay::Replay;
use gdn2_tune::search::{Strategy, search};
use std::path::Path;

const SEEDS: u64 = 20;

fn recorded(rule: &str) -> Replay {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/logs/{rule}_forward_h200.jsonl"));
    let contents = Contents::read(&path).unwrap();
    assert_eq!((contents.searches.len(), contents.damage.as_slice()), (1, [].as_slice()));
    Replay::of(&contents, &contents.searches[0].search)
}

/// What 20 seeds find, as multiples of the exhaustive best, best seed first.
fn found(log: &Replay, strategy: Strategy, prior: Option<&[f64]>, budget: usize) -> Vec<f64> {
    let (_, best) = log.best().unwrap();
    let one = |seed: u64| {
        let mut run = log.limited(budget);
        search(strategy, &run.points(), 1, prior, seed, &mut run);
        assert!(run.evaluations() <= budget, "{} looks, {budget} allowed", run.evaluations());
        run.found().map_or(f64::INFINITY, |(_, micros)| micros / best)
    };
    let mut ratios: Vec<f64> = (0..SEEDS).map(one).collect();
    ratios.sort_by(f64::total_cmp);
    ratios
}

fn median(sorted: &[f64]) -> f64 {
    (sorted[sorted.len() / 2 - 1] + sorted[sorted.len() / 2]) / 2.0
}

/// The same log with the slowest schedule in the built-in one's place: a search that is given nothing.
fn from_the_slowest(log: &Replay) -> Replay {
    let valid = log.micros.iter().enumerate().filter_map(|(at, micros)| Some((at, (*micros)?)));
    let (slowest, _) = valid.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    let mut log = log.clone();
    log.schedules.swap(0, slowest);
    log.micros.swap(0, slowest);
    log
}

fn within_five_percent(ratios: &[f64]) -> usize {
    ratios.iter().filter(|ratio| **ratio <= 1.05).count()
}

#[test]
fn a_quarter_of_the_candidates_comes_within_five_percent() {
    for rule in ["gdn", "kda", "gdn2"] {
        let log = recorded(rule);
        for (start, log) in [("the built-in schedule", log.clone()), ("the slowest", from_the_slowest(&log))] {
            let quarter = log.micros.len() / 4;
            let (guided, random) =
                (found(&log, Strategy::Guided, None, quarter), found(&log, Strategy::Random, None, quarter));
            let say = |name: &str, ratios: &[f64]| {
                let (within, worst) = (within_five_percent(ratios), ratios[ratios.len() - 1]);
                format!("{name}: {within} of {SEEDS} within 5 %, median {:.3}, worst {worst:.3}", median(ratios))
            };
            let both = format!(
                "{rule} from {start}, {quarter} of {}: {}; {}",
                log.micros.len(),
                say("guided", &guided),
                say("random", &random)
            );
            println!("{both}");
            assert!(median(&guided) <= 1.05, "{both}");
            assert!(within_five_percent(&guided) >= within_five_percent(&random), "{both}");
        }
    }
}

/// A prior that is off by the model's own error band, either way, still halves what has to be looked at.
#[test]
fn a_rough_prior_halves_the_looks() {
    for rule in ["gdn", "kda", "gdn2"] {
        let log = from_the_slowest(&recorded(rule));
        let slowest = log.micros.iter().flatten().copied().fold(0.0, f64::max);
        let off = |at: usize| if ((at * 7919) % 13).is_multiple_of(2) { 1.4 } else { 1.0 / 1.4 };
        let rough = |(at, micros): (usize, &Option<f64>)| off(at) * micros.unwrap_or(2.0 * slowest);
        let prior: Vec<f64> = log.micros.iter().enumerate().map(rough).collect();
        let eighth = log.micros.len() / 8;
        let (with, without) =
            (found(&log, Strategy::Guided, Some(&prior), eighth), found(&log, Strategy::Guided, None, eighth));
        println!(
            "{rule}, {eighth} of {}: median {:.3}, without the prior {:.3}",
            log.micros.len(),
            median(&with),
            median(&without)
        );
        assert!(median(&with) <= 1.05, "{rule}: {with:?}");
        assert!(within_five_percent(&with) >= within_five_percent(&without), "{rule}: {with:?}, {without:?}");
    }
}
