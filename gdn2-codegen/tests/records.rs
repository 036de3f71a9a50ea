//! The committed tuning records are of this tree, and each says something: its calls get what it says, which is another
//! schedule than they would get without it, and a faster one.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use gdn2_codegen::abi::Extents;
use gdn2_codegen::arch::Arch;
use gdn2_codegen::bind;
use gdn2_codegen::gpu::GPUS;
use gdn2_codegen::kernel::Pass;
use gdn2_codegen::lookup::{Question, Step};
use gdn2_codegen::record::{
    Basis, Bucket, Provenance, Record, Records, Time, Timed, rule_fingerprint, shipped, source_fingerprint,
};
use gdn2_codegen::schedule::Schedule;
use gdn2_codegen::space::{fingerprint, space};
use gdn2_dsl::{Rule, parse_file};

const RULES: [(&str, &str); 3] = [
    ("gdn", include_str!("../../rules/gdn.gdn2")),
    ("kda", include_str!("../../rules/kda.gdn2")),
    ("gdn2", include_str!("../../rules/gdn2.gdn2")),
];

const fn extents(sequences: u64, tokens: u64) -> Extents {
    Extents { sequences, total_tokens: sequences * tokens, key_heads: 16, value_heads: 16 }
}

/// A call of a bucket.
fn call(Bucket { heads, tokens }: Bucket) -> Extents {
    let value_heads = heads.min(16);
    Extents {
        sequences: heads / value_heads,
        total_tokens: heads / value_heads * tokens,
        key_heads: value_heads,
        value_heads,
    }
}

/// What is wrong with a record of a file, if anything.
fn fault(records: &Records, record: &Record, arch: Arch, rules: &[Rule]) -> Option<String> {
    let Some(rule) = rules.iter().find(|rule| rule.name == record.rule) else {
        return Some("no shipped rule has its name".to_owned());
    };
    let question = Question { rule, pass: record.pass, arch, extents: Some(call(record.bucket)), compiler: None };
    let choice = records.choose(&question).unwrap();
    if choice.step != Step::Exact(record.bucket) {
        return Some(format!("its calls get {choice}"));
    }
    let mut others = Records::default();
    records.iter().filter(|other| *other != record).for_each(|other| others.insert(other.clone()));
    let without = others.choose(&question).unwrap();
    if without.schedule == record.winner.schedule && record.provenance.basis != Basis::Measured {
        return Some(format!("without it its calls get {without}, too"));
    }
    match record.before {
        None => Some("it does not say what its calls got before".to_owned()),
        Some(before) if before.time.micros < record.winner.time.micros => {
            Some("its calls were faster before".to_owned())
        }
        Some(_) if record.built_in.is_none() && record.built_in_failed.is_none() => {
            Some("it does not say what became of the built-in schedule".to_owned())
        }
        Some(_) => None,
    }
}

fn rules() -> Vec<Rule> {
    RULES.iter().map(|(_, text)| parse_file(text).unwrap().remove(0)).collect()
}

#[test]
fn every_committed_record_is_fresh_and_says_something() {
    let mut faults = Vec::new();
    for (gpu, arch) in GPUS {
        let records = shipped(gpu);
        for record in records.iter() {
            if let Some(fault) = fault(&records, record, arch, &rules()) {
                let Record { rule, pass, bucket, .. } = record;
                faults.push(format!(
                    "{rule} {pass} for {bucket} on {gpu}: {fault}\n  renew it with gdn2 tune rules/{rule}.gdn2 --pass {pass} \
                     --target {gpu}, or remove it"
                ));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The test above notices each fault that it is there for.
#[test]
fn faults_of_records_are_noticed() {
    let (rules, arch, pass) = (rules(), Arch::Sm90a, Pass::Decode);
    let own = Schedule::default_for(&rules[0], pass, arch).unwrap();
    let legal = |schedule: &Schedule| gdn2_codegen::bind(&rules[0], pass, *schedule, arch).is_ok();
    let space = space(&rules[0], pass, arch).unwrap();
    let other = space.iter().copied().find(|schedule| *schedule != own && legal(schedule)).unwrap();
    let timed = |schedule, micros| Timed { schedule, time: Time { micros, spread: 0.1 } };
    let good = Record {
        rule: rules[0].name.clone(),
        pass,
        bucket: Bucket { heads: 1024, tokens: 1 },
        winner: timed(other, 10.0),
        built_in: Some(timed(own, 20.0)),
        built_in_failed: None,
        before: Some(timed(own, 20.0)),
        runner_up: None,
        shortlist: Vec::new(),
        correct: 2,
        tried: 2,
        provenance: Provenance {
            rule: rule_fingerprint(&rules[0]),
            space: fingerprint(&space),
            source: source_fingerprint(&rules[0], pass, other, arch).unwrap(),
            compiler: "NVRTC 13.0".to_owned(),
            arch,
            driver: None,
            clock_mhz: 1980,
            basis: Basis::Predicted,
        },
    };
    let said = |change: &dyn Fn(&mut Record)| {
        let (mut record, mut records) = (good.clone(), Records::default());
        change(&mut record);
        records.insert(record.clone());
        fault(&records, &record, arch, &rules).unwrap_or_default()
    };
    assert_eq!(said(&|_| {}), "");
    let source = |schedule| source_fingerprint(&rules[0], pass, schedule, arch).unwrap();
    assert!(said(&|record| record.provenance.source = "another".to_owned()).contains("its calls get"));
    assert!(said(&|record| record.rule = "none".to_owned()).contains("no shipped rule"));
    assert!(said(&|record| record.before = None).contains("what its calls got before"));
    assert!(said(&|record| record.before = Some(timed(own, 9.0))).contains("faster before"));
    assert!(said(&|record| record.built_in = None).contains("became of the built-in"));
    let useless = said(&|record| {
        record.winner = timed(own, 10.0);
        record.provenance.source = source(own);
    });
    assert!(useless.contains("without it its calls get"), "{useless}");
}

/// Without a record: 16 heads fill a GPU in segments, 128 do alone; two more launches must pay.
#[test]
fn few_heads_are_divided_where_no_record_says_how() {
    let records = Records::default();
    for (name, text) in RULES {
        let rule: Rule = parse_file(text).unwrap().remove(0);
        let segments = |arch: Arch, extents: Option<Extents>| {
            let question = Question { rule: &rule, pass: Pass::Forward, arch, extents, compiler: None };
            let choice = records.choose(&question).unwrap();
            assert_eq!(choice.step, Step::BuiltIn, "{name}");
            let index = records.index(&question).unwrap();
            assert!(index.schedules().contains(&choice.schedule), "{name}: {choice}");
            choice.schedule.segments()
        };
        // On wgmma with 132 multiprocessors, on mma.sync with 108.
        for (extents, wanted) in [
            (extents(1, 8192), [8, 6]),
            // Where each channel decays at its own rate, chunks take twice as long and what divides them costs less beside them.
            (extents(1, 2048), [if name == "gdn" { 5 } else { 8 }, 6]),
            (extents(1, 1024), [if name == "gdn" { 1 } else { 8 }, 6]),
            (extents(1, 0), [1, 1]),
            (extents(0, 0), [1, 1]),
            (extents(4, 8192), [1, 1]),
            (extents(8, 8192), [1, 1]),
            (extents(64, 128), [1, 1]),
        ] {
            let got = [Arch::Sm90a, Arch::Sm80].map(|arch| segments(arch, Some(extents)));
            assert_eq!(got, wanted, "{name}: {extents:?}");
        }
        assert_eq!(segments(Arch::Sm90a, None), 1, "{name}");
    }
}

/// On every architecture and at every head dim, few heads and many, short sequences and long: what a call gets is legal.
#[test]
fn what_calls_get_without_a_record_is_legal_everywhere() {
    let records = Records::default();
    let calls: Vec<Extents> = [(1, 1), (1, 12), (4, 16), (64, 16)]
        .into_iter()
        .flat_map(|(sequences, heads)| {
            [1, 100, 1000, 2048, 65536].map(|tokens| Extents {
                sequences,
                total_tokens: sequences * tokens,
                key_heads: heads,
                value_heads: heads,
            })
        })
        .collect();
    let mut divided = 0;
    for (name, text) in RULES {
        let shipped: Rule = parse_file(text).unwrap().remove(0);
        for key_dim in (16..=256).step_by(16) {
            for value_dim in [16, 80, 512] {
                let rule = Rule { key_dim, value_dim, ..shipped.clone() };
                for (arch, pass) in
                    Arch::ALL.into_iter().flat_map(|arch| [(arch, Pass::Forward), (arch, Pass::Backward)])
                {
                    let question = Question { rule: &rule, pass, arch, extents: None, compiler: None };
                    // Head dims that no kernel of an architecture has room for are refused before.
                    let Ok(index) = records.index(&question) else { continue };
                    if bind(&rule, pass, index.built_in(), arch).is_err() {
                        continue;
                    }
                    for extents in &calls {
                        let (schedule, _) = index.choose(Some(*extents));
                        divided += usize::from(schedule.segments() > 1);
                        let bound = bind(&rule, pass, schedule, arch);
                        assert!(bound.is_ok(), "{name} {key_dim} x {value_dim} {pass:?} {arch} {schedule}: {bound:?}");
                    }
                }
            }
        }
    }
    assert!(divided > 1000, "{divided} calls are divided");
}
