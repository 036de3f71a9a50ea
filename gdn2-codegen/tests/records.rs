//! The committed tuning records are of this tree: each is what a call of its shape gets, and none is missing but those of
//! a forward pass on wgmma that nothing has predicted since its kernel changed.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use gdn2_codegen::abi::Extents;
use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::Pass;
use gdn2_codegen::lookup::{Question, Step};
use gdn2_codegen::record::{Bucket, GPUS, Records, rule_fingerprint, shipped};
use gdn2_dsl::{Rule, parse_file};

const RULES: [(&str, &str); 3] = [
    ("gdn", include_str!("../../rules/gdn.gdn2")),
    ("kda", include_str!("../../rules/kda.gdn2")),
    ("gdn2", include_str!("../../rules/gdn2.gdn2")),
];

/// Passes with the shapes that their records are for, and how they are written. Where a sequence can be split, forward has
/// two: one that leaves most of a GPU idle unless it is, and one that fills it. Backward has none: those that there were
/// rested on counts of the wrong launches.
const PASSES: [(Pass, Extents, &str); 3] = [
    (Pass::Forward, extents(1, 8192), "B=1,T=8192,H=16"),
    (Pass::Forward, extents(8, 8192), "B=8,T=8192,H=16"),
    (Pass::Decode, extents(64, 1), "B=64,T=1,H=16"),
];

const fn extents(sequences: u64, tokens: u64) -> Extents {
    Extents { sequences, total_tokens: sequences * tokens, key_heads: 16, value_heads: 16 }
}

#[test]
fn every_committed_record_is_fresh() {
    let mut stale = Vec::new();
    for gpu in ["h200", "h100", "a100"] {
        let arch = GPUS.iter().find(|(name, _)| *name == gpu).unwrap().1;
        let records = shipped(gpu);
        for (name, text) in RULES {
            let rule: Rule = parse_file(text).unwrap().remove(0);
            let splits = |sequences: u64| sequences == 1 || arch.limits().wgmma.is_some();
            for (pass, extents, shape) in
                PASSES.into_iter().filter(|(pass, e, _)| *pass != Pass::Forward || splits(e.sequences))
            {
                let question = Question { rule: &rule, pass, arch, extents: Some(extents), compiler: None };
                let choice = records.choose(&question).unwrap();
                let unpredicted = pass == Pass::Forward
                    && arch.limits().wgmma.is_some()
                    && !records.iter().any(|record| {
                        (record.rule.as_str(), record.pass, record.bucket) == (name, pass, Bucket::of(extents))
                    });
                if choice.step != Step::Exact(Bucket::of(extents)) && !unpredicted {
                    stale.push(format!(
                        "{name} {pass} on {gpu} gets {choice}\n  renew it: gdn2 tune rules/{name}.gdn2 --pass {pass} --shape {shape} \
                         --target {gpu} --device model"
                    ));
                }
            }
            let asked =
                |pass: Pass, bucket: Bucket| PASSES.iter().any(|(p, e, _)| (*p, Bucket::of(*e)) == (pass, bucket));
            for record in records.iter().filter(|record| record.rule == name) {
                assert_eq!(record.provenance.rule, rule_fingerprint(&rule), "{name} is another rule now: {gpu}.json");
                assert!(asked(record.pass, record.bucket), "{name} {} {} in {gpu}.json", record.pass, record.bucket);
                let told = record.built_in.is_some() || record.built_in_failed.is_some();
                assert!(told, "{name} {} in {gpu}.json does not say what became of the built-in schedule", record.pass);
            }
        }
    }
    assert!(stale.is_empty(), "{} records are stale or missing:\n{}", stale.len(), stale.join("\n"));
}

/// Without a record: 16 heads fill a GPU in segments, 128 do alone; short sequences are not worth two more launches.
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
        for (extents, wanted) in [
            (extents(1, 8192), 8),
            (extents(1, 2048), 5),
            (extents(1, 1024), 1),
            (extents(1, 0), 1),
            (extents(0, 0), 1),
            (extents(4, 8192), 1),
            (extents(8, 8192), 1),
            (extents(64, 128), 1),
        ] {
            assert_eq!(segments(Arch::Sm90a, Some(extents)), wanted, "{name}: {extents:?}");
            assert_eq!(segments(Arch::Sm80, Some(extents)), 1, "{name}: {extents:?}");
        }
        assert_eq!(segments(Arch::Sm90a, None), 1, "{name}");
    }
}
