//! What a record says of calls that it was not made for: its kernel, in a grid of their own.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use gdn2_codegen::abi::Extents;
use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::Pass;
use gdn2_codegen::lookup::{Question, REACH, Step};
use gdn2_codegen::record::{
    Basis, Bucket, Provenance, Record, Records, Time, Timed, rule_fingerprint, source_fingerprint,
};
use gdn2_codegen::schedule::{Forward, Matrix, Schedule};
use gdn2_codegen::space::{fingerprint, space};
use gdn2_dsl::{Rule, parse_file};

const ARCH: Arch = Arch::Sm90a;
const MADE_FOR: Bucket = Bucket { heads: 16, tokens: 8192 };
/// A kernel that is not the built-in one, in the segments that suit one long sequence of 16 heads.
const WINNER: &str = "chunk=32,value_split=2,stages=2,matrix=wgmma,segments=4";

fn rule(name: &str) -> Rule {
    let text = format!(
        "rule {name} {{ decay: scalar; erase: scalar; write: erase; key_dim: 64; value_dim: 128; dtype: bf16; }}"
    );
    parse_file(&text).unwrap().remove(0)
}

fn record(rule: &Rule, schedule: Schedule, bucket: Bucket) -> Record {
    Record {
        rule: rule.name.clone(),
        pass: Pass::Forward,
        bucket,
        winner: Timed { schedule, time: Time { micros: 100.0, spread: 0.01 } },
        built_in: None,
        built_in_failed: Some("left out".to_owned()),
        before: None,
        runner_up: None,
        shortlist: Vec::new(),
        correct: 1,
        tried: 1,
        provenance: Provenance {
            rule: rule_fingerprint(rule),
            space: fingerprint(&space(rule, Pass::Forward, ARCH).unwrap()),
            source: source_fingerprint(rule, Pass::Forward, schedule, ARCH).unwrap(),
            compiler: "NVRTC 13.0".to_owned(),
            arch: ARCH,
            driver: None,
            clock_mhz: 1980,
            basis: Basis::Measured,
        },
    }
}

/// What is left of a schedule without its grid.
fn kernel(schedule: Schedule) -> (u32, u32, Matrix) {
    let Schedule::Forward(Forward { scan, matrix, .. }) = schedule else { panic!("{schedule}") };
    (scan.chunk, scan.stages, matrix)
}

fn shapes() -> Vec<Extents> {
    let tokens = (0..=16).map(|power| 1u64 << power).chain([0, 3, 63, 65, 4097, 8191, 20_000]);
    let of = |total: u64, sequences: u64, heads: u64| Extents {
        sequences,
        total_tokens: total * sequences,
        key_heads: heads,
        value_heads: heads,
    };
    tokens.flat_map(|tokens| [(1, 2), (1, 16), (2, 16), (8, 16), (64, 32)].map(|(n, h)| of(tokens, n, h))).collect()
}

#[test]
fn a_record_gives_its_kernel_and_the_call_its_own_grid() {
    let rule = rule("mine");
    let winner = Schedule::from_overrides(&rule, Pass::Forward, ARCH, WINNER).unwrap();
    let mut records = Records::default();
    records.insert(record(&rule, winner, MADE_FOR));
    let question = |extents| Question { rule: &rule, pass: Pass::Forward, arch: ARCH, extents, compiler: None };
    let index = records.index(&question(None)).unwrap();
    let (mut near, mut far, mut divided) = (0, 0, 0);
    for extents in shapes() {
        let doublings = Bucket::of(extents).distance(MADE_FOR);
        let (schedule, step) = index.choose(Some(extents));
        assert_eq!(kernel(schedule), kernel(winner), "{extents:?}: another kernel");
        assert!(index.schedules().contains(&schedule), "{extents:?}: a kernel that is not made ready");
        match step {
            Step::Exact(_) => assert_eq!((doublings, schedule), (0, winner)),
            Step::Nearest(_) => {
                near += 1;
                assert!((1..=REACH).contains(&doublings) && schedule == winner, "{extents:?}");
            }
            Step::Kernel { of, doublings: said } => {
                far += 1;
                divided += usize::from(schedule.segments() > 1);
                assert!(of == MADE_FOR && said == doublings && doublings > 0, "{extents:?}");
                assert!(doublings > REACH || schedule != winner, "{extents:?}");
                let one_chunk = extents.total_tokens <= 32 * extents.sequences;
                let full = extents.sequences * extents.value_heads >= 132;
                assert!(!(one_chunk || full) || schedule.segments() == 1, "{extents:?} in {schedule}");
            }
            other => panic!("{extents:?}: {other:?}"),
        }
    }
    assert!(near > 1 && far > 20 && divided > 1, "{near} near, {far} far, {divided} of them divided");
    // Without a call at hand the record stands as it is.
    assert_eq!(index.choose(None), (winner, Step::Nearest(MADE_FOR)));
    // A search near it may begin with both.
    let far = Extents { sequences: 1, total_tokens: 64, key_heads: 16, value_heads: 16 };
    assert_eq!(index.neighbours(far), [winner, winner.whole()]);
}

#[test]
fn what_other_rules_won_with_is_a_kernel_not_their_grid() {
    let (mine, other) = (rule("mine"), rule("other").with_dims(128, 128).unwrap());
    let mut records = Records::default();
    for (bucket, segments) in [(MADE_FOR, 4), (Bucket { heads: 32, tokens: 8192 }, 2)] {
        let text = WINNER.replace("segments=4", &format!("segments={segments}"));
        let winner = Schedule::from_overrides(&other, Pass::Forward, ARCH, &text).unwrap();
        records.insert(record(&other, winner, bucket));
    }
    let choose = |tokens| {
        let extents = Some(Extents { sequences: 1, total_tokens: tokens, key_heads: 16, value_heads: 16 });
        let question = Question { rule: &mine, pass: Pass::Forward, arch: ARCH, extents, compiler: None };
        records.choose(&question).unwrap()
    };
    let (long, short) = (choose(8192), choose(64));
    assert_eq!((long.step, short.step), (Step::Common { wins: 2 }, Step::Common { wins: 2 }), "one kernel, two grids");
    assert!(long.schedule.segments() > 1 && short.schedule.segments() == 1, "{long}, {short}");
    assert_eq!(kernel(long.schedule), kernel(short.schedule));
}

#[test]
fn records_of_the_built_in_kernel_in_segments_say_nothing_of_other_rules() {
    let (mine, other) = (rule("mine"), rule("other").with_dims(128, 128).unwrap());
    let built_in = Schedule::default_for(&other, Pass::Forward, ARCH).unwrap();
    let Schedule::Forward(numbers) = built_in else { panic!("{built_in}") };
    let winner = Schedule::Forward(Forward { segments: 8, ..numbers });
    let mut kept = record(&other, winner, MADE_FOR);
    kept.built_in = Some(Timed { schedule: built_in, time: kept.winner.time });
    let mut records = Records::default();
    records.insert(kept);
    let question = Question { rule: &mine, pass: Pass::Forward, arch: ARCH, extents: None, compiler: None };
    assert_eq!(records.choose(&question).unwrap().step, Step::BuiltIn);
}
