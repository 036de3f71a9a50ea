//! Search strategies, and lookup between shapes, on times of forward passes on an H200: what the clock says of every legal
//! candidate (`examples/times.rs` writes the tables), so that nothing is compiled here. Every run draws fresh seeds.
#![allow(clippy::unwrap_used, missing_docs, reason = "a failed unwrap is a failed test")]

use gdn2_codegen::arch::Arch;
use gdn2_codegen::bind;
use gdn2_codegen::kernel::Pass;
use gdn2_codegen::lookup::Question;
use gdn2_codegen::record::{
    Basis, Bucket, Provenance, Record, Records, Time, Timed, rule_fingerprint, shipped, source_fingerprint,
};
use gdn2_codegen::schedule::Schedule;
use gdn2_codegen::space::{fingerprint, space};
use gdn2_tune::floor::least_micros;
use gdn2_tune::job::{Engine, Job, Shape};
use gdn2_tune::model::Constants;
use gdn2_tune::replay::Replay;
use gdn2_tune::ruling::SHORTLIST;
use gdn2_tune::search::{End, Strategy, search};
use std::path::{Path, PathBuf};

const SEEDS: u64 = 20;
const RULES: [&str; 2] = ["gdn", "deltanet"];
const GPU: &str = "h200";

/// Every legal candidate of a call with its time.
struct Table {
    job: Job,
    candidates: Vec<(Schedule, Option<f64>)>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The tables of a rule, one for each shape: `times -- TABLE RULE forward h200 b1 training prompt-512`.
fn tables(name: &str) -> Vec<Table> {
    read(name, &format!("{name}_forward_{GPU}.tsv"))
}

fn read(name: &str, file: &str) -> Vec<Table> {
    let text = std::fs::read_to_string(root().join(format!("rules/{name}.gdn2"))).unwrap();
    let rule = gdn2_dsl::parse_file(&text).unwrap().remove(0);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/times").join(file);
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines = text.lines().map(|line| line.split('\t').collect::<Vec<&str>>());
    let heads = lines.next().unwrap();
    let shape = |text: &str| {
        let numbers: Vec<u32> = text.split(',').map(|part| part.split_once('=').unwrap().1.parse().unwrap()).collect();
        let [batch, tokens, key_heads, value_heads] = numbers.try_into().unwrap();
        Shape { batch, tokens, key_heads, value_heads }
    };
    let job = |shape: Shape| Job {
        rule: rule.clone(),
        pass: Pass::Forward,
        shape,
        gpu: GPU.to_owned(),
        arch: Arch::Sm90a,
        engine: Engine::Model,
    };
    let mut tables: Vec<Table> =
        heads[1..].iter().map(|text| Table { job: job(shape(text)), candidates: Vec::new() }).collect();
    for cells in lines {
        let schedule = Schedule::from_overrides(&rule, Pass::Forward, Arch::Sm90a, cells[0]).unwrap();
        assert_eq!(schedule.to_string(), cells[0]);
        for (table, cell) in tables.iter_mut().zip(&cells[1..]) {
            table.candidates.push((schedule, cell.parse().ok()));
        }
    }
    tables
}

impl Table {
    fn best(&self) -> (Schedule, f64) {
        let timed = self.candidates.iter().filter_map(|(schedule, micros)| Some((*schedule, (*micros)?)));
        timed.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap()
    }

    /// The fastest few.
    fn shortlist(&self) -> Vec<Schedule> {
        let mut timed: Vec<(Schedule, f64)> =
            self.candidates.iter().filter_map(|(schedule, micros)| Some((*schedule, (*micros)?))).collect();
        timed.sort_by(|a, b| a.1.total_cmp(&b.1));
        timed.into_iter().take(SHORTLIST).map(|(schedule, _)| schedule).collect()
    }

    fn floors(&self) -> Vec<f64> {
        let constants = Constants::shipped(GPU).unwrap();
        let least = |schedule: Schedule| {
            let kernel = bind(&self.job.rule, self.job.pass, schedule, self.job.arch).unwrap();
            least_micros(&self.job, &kernel, &constants)
        };
        self.candidates.iter().map(|(schedule, _)| least(*schedule)).collect()
    }

    fn question(&self) -> Question<'_> {
        let extents = Some(self.job.shape.extents());
        Question { rule: &self.job.rule, pass: self.job.pass, arch: self.job.arch, extents, compiler: None }
    }

    /// The record that this table's best makes.
    fn record(&self) -> Record {
        let Job { rule, pass, arch, shape, .. } = &self.job;
        let (schedule, micros) = self.best();
        Record {
            rule: rule.name.clone(),
            pass: *pass,
            bucket: Bucket::of(shape.extents()),
            winner: Timed { schedule, time: Time { micros, spread: 0.1 } },
            built_in: None,
            built_in_failed: None,
            before: None,
            runner_up: None,
            shortlist: self.shortlist(),
            correct: 1,
            tried: 1,
            provenance: Provenance {
                rule: rule_fingerprint(rule),
                space: fingerprint(&space(rule, *pass, *arch).unwrap()),
                source: source_fingerprint(rule, *pass, schedule, *arch).unwrap(),
                compiler: "NVRTC 13.0".to_owned(),
                arch: *arch,
                driver: None,
                clock_mhz: 1980,
                basis: Basis::Predicted,
            },
        }
    }

    /// A replay that begins with what the call gets beside these records, the built-in schedule, and what they say of
    /// calls like it; and how many those are.
    fn replay(&self, records: &Records) -> (Replay, usize) {
        let question = self.question();
        let held = records.choose(&question).unwrap().schedule;
        let neighbours = records.index(&question).unwrap().neighbours(self.job.shape.extents());
        let own = Schedule::default_for(&self.job.rule, self.job.pass, self.job.arch).unwrap();
        let mut begin: Vec<usize> = Vec::new();
        let unrecorded = Records::default().choose(&question).unwrap().schedule;
        for schedule in [held, own, unrecorded].into_iter().chain(neighbours) {
            let place = self.candidates.iter().position(|(other, _)| *other == schedule);
            begin.extend(place.filter(|place| !begin.contains(place)));
        }
        let others = (0..self.candidates.len()).filter(|place| !begin.contains(place));
        let (count, floors) = (begin.len(), self.floors());
        let order: Vec<usize> = begin.iter().copied().chain(others).collect();
        let pick = |place: &usize| self.candidates[*place];
        let replay = Replay::new(
            order.iter().map(|place| pick(place).0).collect(),
            order.iter().map(|place| pick(place).1).collect(),
            Some(order.iter().map(|place| floors[*place]).collect()),
        );
        (replay, count)
    }
}

/// What as many seeds find, as multiples of the exhaustive best, the best first; and how many candidates they looked at.
fn found(replay: &Replay, begin: usize, strategy: Strategy, budget: usize, seed: u64) -> (Vec<f64>, usize) {
    let (_, best) = replay.best().unwrap();
    let mut most = 0;
    let mut one = |seed: u64| {
        let mut run = replay.limited(budget);
        search(strategy, &run.points(), begin, replay.floors.as_deref(), seed, &mut run);
        most = most.max(run.evaluations());
        run.found().map_or(f64::INFINITY, |(_, micros)| micros / best)
    };
    let mut ratios: Vec<f64> = (0..SEEDS).map(|own| one(seed.wrapping_add(own))).collect();
    ratios.sort_by(f64::total_cmp);
    assert!(most <= budget, "{most} looks, {budget} allowed");
    (ratios, most)
}

fn median(sorted: &[f64]) -> f64 {
    (sorted[sorted.len() / 2 - 1] + sorted[sorted.len() / 2]) / 2.0
}

/// A seed that no run had before, or GDN2_SEED.
fn seed() -> u64 {
    let fresh = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = std::env::var("GDN2_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(fresh);
    println!("repeat with GDN2_SEED={seed} cargo test --release -p gdn2-tune --test strategies -- --nocapture");
    seed
}

#[test]
fn a_tenth_of_the_candidates_comes_within_five_percent() {
    let seed = seed();
    let (mut ahead, mut pairs) = (0, 0);
    for table in RULES.iter().flat_map(|rule| tables(rule)) {
        let (replay, begin) = table.replay(&Records::default());
        let budget = replay.micros.len() / 10;
        let (guided, looks) = found(&replay, begin, Strategy::Guided, budget, seed);
        let (random, _) = found(&replay, begin, Strategy::Random, budget, seed);
        let both = format!(
            "{} {}: {looks} of {} looked at, median {:.3}, worst {:.3}; at random {:.3}, worst {:.3}",
            table.job.rule.name,
            table.job.shape,
            replay.micros.len(),
            median(&guided),
            guided[guided.len() - 1],
            median(&random),
            random[random.len() - 1],
        );
        println!("{both}");
        assert!(median(&guided) <= 1.05, "{both}");
        ahead += usize::from(median(&guided) <= median(&random));
        pairs += 1;
    }
    assert!(pairs == 3 * RULES.len() && ahead == pairs, "guided is as good as random in {ahead} of {pairs}");
}

#[test]
fn a_neighbours_record_comes_within_two_percent_at_a_twentieth() {
    let seed = seed();
    for rule in RULES {
        let tables = tables(rule);
        for table in &tables {
            let distance =
                |other: &&Table| Bucket::of(other.job.shape.extents()).distance(Bucket::of(table.job.shape.extents()));
            let others = tables.iter().filter(|other| other.job.shape != table.job.shape);
            let neighbour = others.min_by_key(distance).unwrap();
            let mut records = Records::default();
            records.insert(neighbour.record());
            let (replay, begin) = table.replay(&records);
            let budget = replay.micros.len() / 20;
            let (guided, looks) = found(&replay, begin, Strategy::Guided, budget, seed);
            let text = format!(
                "{rule} {} beside a record for {}, {} doublings away: {looks} of {} looked at, median {:.3}, worst {:.3}",
                table.job.shape,
                neighbour.job.shape,
                distance(&neighbour),
                replay.micros.len(),
                median(&guided),
                guided[guided.len() - 1],
            );
            println!("{text}");
            assert!(median(&guided) <= 1.02, "{text}");
        }
    }
}

/// Over 4, 16, 64 and 256 heads and fifteen lengths from 1 to 65,536 tokens, what a call gets from its neighbours' records,
/// without one of its own, is within a tenth of the best of all 48 grids and chunks on wgmma. The table, in twenty minutes:
/// `times -- TABLE rules/gdn.gdn2 forward h200 --of matrix=wgmma,stages=2 B=1,T=1,H=4,HV=4 …`.
#[test]
fn calls_without_a_record_come_within_a_tenth_of_their_own_tuning() {
    let tables = read("gdn", "gdn_forward_h200_shapes.tsv");
    assert!(tables.len() == 60 && tables.iter().all(|table| table.candidates.len() == 48));
    let (mut ratios, mut wrong) = (Vec::new(), Vec::new());
    for table in &tables {
        let bucket = |table: &Table| Bucket::of(table.job.shape.extents());
        let distance = |other: &&Table| bucket(other).distance(bucket(table));
        let others = || tables.iter().filter(|other| other.job.shape != table.job.shape);
        let nearest = others().map(|other| distance(&other)).min().unwrap();
        // Records further away say nothing, and a text is printed for each that is there.
        let mut records = Records::default();
        others().filter(|other| distance(other) == nearest).for_each(|other| records.insert(other.record()));
        let choice = records.choose(&table.question()).unwrap();
        let (best, micros) = table.best();
        let own = table.candidates.iter().find(|(schedule, _)| *schedule == choice.schedule);
        let ratio = own.and_then(|(_, micros)| *micros).unwrap() / micros;
        if ratio > 1.1 {
            wrong.push(format!("{}: {ratio:.3}, {choice}, best {best}", table.job.shape));
        }
        ratios.push(ratio);
    }
    ratios.sort_by(f64::total_cmp);
    println!("{} shapes, median {:.3}, worst {:.3}", ratios.len(), median(&ratios), ratios[ratios.len() - 1]);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A search that may look at everything ends by itself, near the best.
#[test]
fn a_search_ends_where_no_look_is_expected_to_gain() {
    let seed = seed();
    for table in RULES.iter().flat_map(|rule| tables(rule)) {
        let (replay, begin) = table.replay(&Records::default());
        let mut run = replay.limited(usize::MAX);
        let end = search(Strategy::Guided, &run.points(), begin, replay.floors.as_deref(), seed, &mut run);
        let (_, best) = replay.best().unwrap();
        let (_, found) = run.found().unwrap();
        let (looks, all, ratio) = (run.evaluations(), replay.micros.len(), found / best);
        println!("{} {}: {looks} of {all} looked at, {ratio:.3}, {end:?}", table.job.rule.name, table.job.shape);
        assert!(looks <= all / 4 && !matches!(end, End::Spent), "{looks} of {all}, {end:?}");
        assert!(ratio <= 1.05, "{ratio}");
    }
}

/// No candidate is faster than the least it can take, in the tables and in the committed records of every pass.
#[test]
fn nothing_is_faster_than_the_least_it_can_take() {
    let (mut least, mut all) = (0, 0);
    for table in RULES.iter().flat_map(|rule| tables(rule)) {
        let (_, best) = table.best();
        for ((schedule, micros), floor) in table.candidates.iter().zip(table.floors()) {
            let Some(micros) = micros else { continue };
            assert!(floor <= *micros, "{} {} {schedule}: {micros} < {floor}", table.job.rule.name, table.job.shape);
            least += usize::from(floor > best);
            all += 1;
        }
    }
    println!("{least} of {all} candidates are slower than the best of their call whatever their kernel is");
    assert!(least > 0, "the least says nothing");
    for gpu in ["h200", "h100", "a100"] {
        let constants = Constants::shipped(gpu).unwrap();
        for record in shipped(gpu).iter() {
            let path = root().join(format!("rules/{}.gdn2", record.rule));
            let rule = gdn2_dsl::parse_file(&std::fs::read_to_string(path).unwrap()).unwrap().remove(0);
            let Bucket { heads, tokens } = record.bucket;
            // The smallest call of the bucket.
            let shape = Shape {
                batch: 1,
                tokens: (tokens / 2 + 1) as u32,
                key_heads: (heads / 2 + 1) as u32,
                value_heads: (heads / 2 + 1) as u32,
            };
            let (gpu, arch) = (gpu.to_owned(), record.provenance.arch);
            let job = Job { rule, pass: record.pass, shape, gpu, arch, engine: Engine::Model };
            for timed in [Some(record.winner), record.built_in, record.runner_up].into_iter().flatten() {
                let Ok(kernel) = bind(&job.rule, job.pass, timed.schedule, arch) else { continue };
                let floor = least_micros(&job, &kernel, &constants);
                assert!(floor <= timed.time.micros, "{} {}: {timed:?} < {floor}", record.rule, record.bucket);
            }
        }
    }
}
