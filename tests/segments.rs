//! The forward pass in segments: against the definition, against the same pass in one, and what it costs.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use gdn2_codegen::abi::{Factor, Tensor};
use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::Pass;
use gdn2_dsl::bars::Deviation;
use gdn2_dsl::{Draw, Dtype, Regime, Rule, granularity_combinations};
use gdn2_runtime::device::Device;
use gdn2_runtime::device::vm::Settings;
use gdn2_runtime::engine::{Engine, Run, Training, execute, gradients};
use gdn2_runtime::problem::Problem;
use gdn2_runtime::tensors::Case;
use gdn2_tests::agrees::agrees;
use gdn2_tests::draws::{draws, numbers, rules, runner};
use gdn2_tests::named::in_bf16;
use gdn2_tests::seed::seed_of;
use gdn2_tests::{checked, engine};
use gdn2_vm::Counters;
use proptest::prelude::*;
use rayon::prelude::*;

fn run<'a>(rule: &'a Rule, schedule: &'a str, device: &'a Device) -> Run<'a> {
    let arch = if schedule.contains("matrix=mma") { Arch::Sm80 } else { Arch::Sm90a };
    Run { arch: Some(arch), schedule, ..Run::new(rule, Pass::Forward, device) }
}

/// Long enough for chunks in every segment: grouped heads; packed with empty and short sequences under strong decay; and
/// what is hardest to hold exactly, without decay or near it.
fn long_draws(seed: u64) -> [Draw; 3] {
    [
        Draw::new(1, 709, 1, 2, seed),
        Draw {
            cu_seqlens: Some(vec![0, 0, 1, 131, 131, 700, 717]),
            regime: Regime::Strong,
            ..Draw::new(1, 717, 1, 1, seed.wrapping_add(1))
        },
        Draw {
            regime: Regime::None,
            near_identical_keys: true,
            initial_state: false,
            ..Draw::new(1, 705, 1, 1, seed.wrapping_add(2))
        },
    ]
}

/// All 30 combinations of gates, on wgmma and on mma.sync, chunks of 16 and of 64 in 1, 2, 3 and 8 segments: each combination
/// in one of the eight ways on wgmma, each third in one of those with several segments on mma.sync; in all of them with
/// GDN2_TEST_EVERY_KERNEL set.
#[test]
fn every_combination_in_segments() {
    let every = std::env::var_os("GDN2_TEST_EVERY_KERNEL").is_some();
    let (engine, device) = (engine(), checked());
    let share = seed_of(0) % 3;
    println!("on mma.sync: the combinations with remainder {share} of three");
    let mut kernels: Vec<(Rule, String)> = Vec::new();
    for (index, combination) in granularity_combinations().into_iter().enumerate() {
        let rule = combination.rule(64, 64, if index % 2 == 0 { Dtype::Bf16 } else { Dtype::F16 }).unwrap();
        for (choice, (chunk, segments)) in [16, 64].into_iter().flat_map(|c| [1, 2, 3, 8].map(|s| (c, s))).enumerate() {
            if every || choice == index % 8 {
                kernels.push((rule.clone(), format!("matrix=wgmma,chunk={chunk},segments={segments}")));
            }
        }
        for (choice, (chunk, segments)) in [16, 64].into_iter().flat_map(|c| [2, 3, 8].map(|s| (c, s))).enumerate() {
            if every || (index as u64 % 3 == share && choice == index / 3 % 6) {
                kernels.push((rule.clone(), format!("matrix=mma,chunk={chunk},segments={segments}")));
            }
        }
    }
    let failures: Vec<String> = kernels
        .par_iter()
        .flat_map_iter(|(rule, schedule)| {
            let draws = long_draws(u64::from(rule.key_dim)).into_iter().enumerate();
            let check = |(place, draw): (usize, Draw)| match agrees(
                &engine,
                &run(rule, schedule, &device),
                &draw,
                place == 1,
            ) {
                Ok(served) => (!served).then(|| format!("{} {schedule}: illegal", rule.name)),
                Err(error) => Some(error),
            };
            draws.filter_map(check).collect::<Vec<_>>()
        })
        .collect();
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn any_rule_any_draw_in_segments() {
    let (engine, device) = (engine(), checked());
    let schedules = ["2", "3", "8", "16", "3,chunk=16", "5,chunk=16", "8,chunk=32", "4,stages=1", "3,value_split=2"];
    let schedules = ["wgmma", "mma"].iter().flat_map(|m| schedules.map(|more| format!("matrix={m},segments={more}")));
    let schedules: Vec<String> = schedules.collect();
    let strategy = (rules(), draws(), prop::sample::select(schedules), any::<bool>());
    runner(20)
        .run(&strategy, |(rule, draw, schedule, slots)| {
            // Keys of any dim up to 256, values on wgmma in blocks of 64 rows.
            let blocks = 64 * (1 + rule.value_dim / 16 % 4);
            let value_dim = if schedule.contains("wgmma") { blocks } else { rule.value_dim };
            let rule = Rule { value_dim, ..rule };
            let served = agrees(&engine, &run(&rule, &schedule, &device), &draw, slots).map_err(TestCaseError::fail)?;
            if served { Ok(()) } else { Err(TestCaseError::reject("illegal schedule")) }
        })
        .unwrap();
}

/// Errors of o and of the final state.
fn errors(engine: &Engine, rule: &Rule, schedule: &str, case: &Case) -> [f64; 2] {
    let device = Device::vm();
    let outcome = engine.run(&run(rule, schedule, &device), case).unwrap();
    [Tensor::O, Tensor::FinalState].map(|tensor| {
        let got = outcome.tensors[&tensor].data.iter().copied().map(f64::from);
        Deviation::of(got, &numbers(case, tensor)).relative
    })
}

#[test]
fn eight_segments_are_as_exact_as_one() {
    let engine = engine();
    for rule in in_bf16() {
        for regime in [Regime::Mild, Regime::None] {
            let case = Case::drawn(&rule, &Draw { regime, ..Draw::new(1, 1024, 1, 1, seed_of(11)) }, false).unwrap();
            for matrix in ["wgmma", "mma"] {
                let [one, eight] = [1, 8].map(|segments| {
                    errors(&engine, &rule, &format!("matrix={matrix},chunk=64,segments={segments}"), &case)
                });
                let what = format!("{} {regime:?} on {matrix}", rule.name);
                println!("{what}: o and final state {one:.5?} in one, {eight:.5?} in eight");
                for (one, eight) in one.into_iter().zip(eight) {
                    assert!(eight <= 1.1 * one, "{what}: {eight} in eight segments, {one} in one");
                }
            }
        }
    }
}

#[test]
fn states_kept_in_segments_serve_backward() {
    let (engine, device) = (engine(), checked());
    let [.., rule] = in_bf16();
    let rule = rule.with_dims(64, 64).unwrap();
    let draw = Draw { cu_seqlens: Some(vec![0, 70, 70, 450]), ..Draw::new(1, 450, 1, 1, seed_of(3)) };
    let case = Case::drawn_inputs(&rule, &draw, true).unwrap();
    let problem = Problem::new(&rule, &case).unwrap();
    let backward = Run { pass: Pass::Backward, ..run(&rule, "chunk=64", &device) };
    let kept = |schedule: &str| {
        let forward =
            engine.artifact(&Run { pass: Pass::ForwardForBackward, ..run(&rule, schedule, &device) }).unwrap();
        let training = Training { forward: Some(forward), ..engine.training(&backward).unwrap() };
        let outcome = gradients(&backward, Some(&training), &problem).unwrap();
        assert!(outcome.reports.iter().all(|report| report.findings.is_empty()), "{schedule}");
        outcome.tensors
    };
    for matrix in ["wgmma", "mma"] {
        let [one, three] = [1, 3].map(|segments| kept(&format!("chunk=64,matrix={matrix},segments={segments}")));
        for (tensor, one) in one {
            let one: Vec<f64> = one.data.into_iter().map(f64::from).collect();
            let difference = Deviation::of(three[&tensor].data.iter().copied().map(f64::from), &one);
            assert!(difference.passes(0.003), "{matrix} {}: {difference:?}", tensor.name());
        }
    }
}

/// The first blocks of the grid are those of the longest sequences: with fewer blocks, only they are served.
#[test]
fn longest_packed_sequences_start_first() {
    let (engine, device) = (engine(), Device::vm());
    let [rule, ..] = in_bf16();
    let rule = rule.with_dims(16, 64).unwrap();
    let run = run(&rule, "matrix=wgmma,chunk=16,segments=3", &device);
    let offsets = vec![0, 5, 75, 75, 145, 276];
    let case =
        Case::drawn_inputs(&rule, &Draw { cu_seqlens: Some(offsets), ..Draw::new(1, 276, 1, 2, seed_of(3)) }, false);
    let case = case.unwrap();
    let problem = Problem::new(&rule, &case).unwrap();
    let mut artifact = engine.artifact(&run).unwrap();
    let times = artifact.kernel.launches.last().unwrap().grid.times;
    let longest = [145..276, 5..75, 75..145];
    for sequences in 1..=3 {
        let grid = &mut artifact.kernel.launches.last_mut().unwrap().grid;
        (grid.factors, grid.times) = (vec![Factor::ValueHeads], sequences as u64 * times);
        let outcome = execute(&run, Some(&artifact), &problem).unwrap();
        for (token, o) in outcome.tensors[&Tensor::O].data.chunks_exact(2 * 64).enumerate() {
            let written = o.iter().all(|number| number.is_finite());
            let served = longest[..sequences].iter().any(|range| range.contains(&token));
            assert_eq!(written, served, "{sequences}: token {token}");
        }
    }
}

/// Counts of each launch over a sequence of one head.
fn counted(engine: &Engine, rule: &Rule, schedule: &str, tokens: usize) -> Vec<Counters> {
    let device = Device::Vm(Settings { count: true, ..Settings::default() });
    let run = Run { final_state: false, ..run(rule, schedule, &device) };
    let draw = Draw { initial_state: false, ..Draw::new(1, tokens, 1, 1, 5) };
    let outcome = engine.run(&run, &Case::drawn_inputs(rule, &draw, false).unwrap()).unwrap();
    outcome.reports.into_iter().map(|report| report.counters.unwrap()).collect()
}

#[test]
fn no_register_is_spilled_and_no_product_waits_for_another() {
    let (engine, device) = (engine(), Device::vm());
    for rule in in_bf16() {
        let artifact = engine.artifact(&run(&rule, "matrix=wgmma,segments=8", &device)).unwrap();
        assert_eq!(artifact.resources.len(), 3, "{}", rule.name);
        for taken in &artifact.resources {
            assert_eq!((taken.spill_stores, taken.spill_loads), (0, 0), "{}", taken.entry);
        }
        assert!(!artifact.log.contains("serialized"), "{}: {}", rule.name, artifact.log);
    }
}

/// Of K = V = 128 in eight segments of eight chunks: every segment's state goes through memory in whole sectors, and nothing
/// else is read or written than what one segment does and the maps read again.
#[test]
fn eight_segments_cost_what_their_maps_do() {
    const SEGMENTS: u64 = 8;
    /// Sectors of a state, or of A.
    const STATE: u64 = 128 * 128 * 4 / 32;
    /// How often the joining launch reads each A: for every four values.
    const JOINS: u64 = 128 / 4;
    /// Segments that are mapped from zeros, and those that are also mapped from the identity.
    const MAPS: (u64, u64) = (SEGMENTS - 1, SEGMENTS - 2);
    let engine = engine();
    for rule in in_bf16() {
        let counted = |segments: u64| counted(&engine, &rule, &format!("matrix=wgmma,segments={segments}"), 4096);
        let [whole] = <[Counters; 1]>::try_from(counted(1)).unwrap();
        let [maps, join, parts] = <[Counters; 3]>::try_from(counted(SEGMENTS)).unwrap();
        let sectors = |counters: &Counters| (counters.global_read_sectors, counters.global_write_sectors);
        let instructions = |counters: &Counters| counters.instructions.iter().map(|row| row.executed).sum::<u64>();
        let fmas = |counters: &Counters| {
            let products = counters.instructions.iter().filter(|row| row.instruction.contains("wgmma"));
            products.map(|row| row.matrix_fmas).sum::<u64>()
        };
        for (name, counters) in [("whole", &whole), ("maps", &maps), ("join", &join), ("parts", &parts)] {
            let ((read, written), done, fmas) = (sectors(counters), instructions(counters), fmas(counters));
            println!("{} {name}: {read} sectors read, {written} written, {done} instructions, {fmas} FMA", rule.name);
        }
        let (read, written) = sectors(&whole);
        assert_eq!(sectors(&parts), (read + SEGMENTS * STATE, written), "{}", rule.name);
        // Seven more starts; GDN has 650,000 instructions in 64 chunks.
        assert!(instructions(&parts) <= instructions(&whole) / 100 * 104, "{}", rule.name);
        assert_eq!(fmas(&parts), fmas(&whole), "{}", rule.name);
        // Starts and B once, each A for every four values.
        assert_eq!(sectors(&join), (MAPS.0 * STATE + MAPS.1 * JOINS * STATE, MAPS.1 * STATE), "{}", rule.name);
        assert_eq!(sectors(&maps).1, (1 + MAPS.0 + MAPS.1) * STATE, "{}", rule.name);
        let passes = MAPS.0 + MAPS.1;
        assert!(sectors(&maps).0 * SEGMENTS <= read * passes, "{}", rule.name);
        assert!(instructions(&maps) * SEGMENTS <= instructions(&whole) * passes, "{}", rule.name);
        // Of the five products of a chunk those with S and with M, and the update: 5/8 of the work. Where keys are scored
        // by products as well, keys with keys of keys with keys and queries: 6/10.
        let (mine, all) = if rule.name == "gdn" { (6, 10) } else { (5, 8) };
        assert_eq!(fmas(&maps) * SEGMENTS * all, fmas(&whole) * passes * mine, "{}", rule.name);
    }
}

/// The same on mma.sync, where the block that makes B of a segment makes A of the same factors: seven of eight segments are
/// read once more, and what A costs is products.
#[test]
fn eight_segments_on_mma_read_seven_once_more() {
    const SEGMENTS: u64 = 8;
    const STATE: u64 = 128 * 128 * 4 / 32;
    let engine = engine();
    for rule in in_bf16() {
        let counted =
            |segments: u64| counted(&engine, &rule, &format!("matrix=mma,chunk=32,segments={segments}"), 2048);
        let [whole] = <[Counters; 1]>::try_from(counted(1)).unwrap();
        let [maps, join, parts] = <[Counters; 3]>::try_from(counted(SEGMENTS)).unwrap();
        let sectors = |counters: &Counters| (counters.global_read_sectors, counters.global_write_sectors);
        let instructions = |counters: &Counters| counters.instructions.iter().map(|row| row.executed).sum::<u64>();
        for (name, counters) in [("whole", &whole), ("maps", &maps), ("join", &join), ("parts", &parts)] {
            let ((read, written), done) = (sectors(counters), instructions(counters));
            println!("{} on mma, {name}: {read} sectors read, {written} written, {done} instructions", rule.name);
        }
        let (read, written) = sectors(&whole);
        assert_eq!(sectors(&parts), (read + SEGMENTS * STATE, written), "{}", rule.name);
        // Starts and B of all but the last, A of all but the first and the last.
        assert_eq!(sectors(&maps).1, (1 + 7 + 6) * STATE, "{}", rule.name);
        assert!(sectors(&maps).0 * SEGMENTS <= read * 7, "{}", rule.name);
        // Eight starts and ends.
        assert!(instructions(&parts) * 10 <= instructions(&whole) * 11, "{}", rule.name);
        // A and B of a segment with one set of factors and no outputs: little more than the segment itself.
        assert!(instructions(&maps) * SEGMENTS * 10 <= instructions(&whole) * 7 * 14, "{}", rule.name);
    }
}
