//! What binds and what is refused: defaults on every architecture, and each limit from both sides.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::{Illegal, Kernel, Pass};
use gdn2_codegen::schedule::{Forward, Matrix, Scan, Schedule, ScheduleError};
use gdn2_codegen::{bind, render};
use gdn2_dsl::{Dtype, Rule, granularity_combinations};

fn rules(key_dim: u32, value_dim: u32) -> Vec<Rule> {
    let rule = |combination: gdn2_dsl::Combination| combination.rule(key_dim, value_dim, Dtype::Bf16).unwrap();
    granularity_combinations().into_iter().map(rule).collect()
}

/// GDN-2 at these dims, the rule that needs most.
fn widest(key_dim: u32, value_dim: u32) -> Rule {
    rules(key_dim, value_dim).pop().unwrap()
}

fn try_bind(rule: &Rule, numbers: Forward, arch: Arch) -> Result<Kernel, Illegal> {
    bind(rule, Pass::Forward, Schedule::Forward(numbers), arch)
}

fn refused(rule: &Rule, numbers: Forward, arch: Arch) -> String {
    try_bind(rule, numbers, arch).unwrap_err().field
}

#[test]
fn every_combination_binds_by_default_everywhere() {
    for (key_dim, value_dim) in [(16, 16), (48, 80), (64, 64), (128, 128), (128, 208), (256, 512)] {
        for rule in rules(key_dim, value_dim) {
            for (arch, text) in Arch::ALL.into_iter().flat_map(|arch| [(arch, ""), (arch, "matrix=mma")]) {
                let schedule = Schedule::from_overrides(&rule, Pass::Forward, arch, text).unwrap();
                let kernel = bind(&rule, Pass::Forward, schedule, arch)
                    .unwrap_or_else(|refusal| panic!("{} on {arch}, {schedule}: {refusal}", rule.name));
                let launch = &kernel.launches[0];
                assert!(launch.shared_bytes <= arch.limits().shared_per_block);
                // On wgmma tiles start where a swizzle does, and barriers have eight bytes.
                let wgmma = matches!(schedule, Schedule::Forward(numbers) if numbers.matrix == Matrix::Wgmma);
                let alignment = if wgmma { 8 } else { 16 };
                assert!(launch.shared.iter().all(|region| region.offset % alignment == 0));
                for pair in launch.shared.windows(2) {
                    let end = pair[0].offset + pair[0].bytes;
                    assert!(end == pair[1].offset || wgmma && end < pair[1].offset, "{} overlaps", pair[1].name);
                }
            }
        }
    }
}

/// A name that a kernel's parameter has may not be declared again: no compiler takes that.
#[test]
fn no_kernel_declares_a_parameter_again() {
    let forms = ["none", "scalar", "scalar = {}", "channel", "channel = {}"];
    for (decay, erase) in forms.iter().flat_map(|decay| forms.map(|erase| (decay, erase))) {
        let tied = erase.starts_with("scalar").then_some("erase");
        for write in forms.into_iter().chain(tied) {
            let (decay, gates) =
                (decay.replace("{}", "-softplus(x)"), [erase, write].map(|gate| gate.replace("{}", "sigmoid(x)")));
            let text = format!(
                "rule own {{ k: l2norm; q: l2norm; decay: {decay}; erase: {}; write: {}; key_dim: 64; value_dim: 64; \
                 dtype: bf16; }}",
                gates[0], gates[1]
            );
            let rule = gdn2_dsl::parse_file(&text).unwrap().remove(0);
            for (pass, arch) in
                [Pass::Forward, Pass::Backward].into_iter().flat_map(|pass| [(pass, Arch::Sm80), (pass, Arch::Sm90a)])
            {
                let schedule = Schedule::from_overrides(&rule, pass, arch, "").unwrap();
                let kernel = bind(&rule, pass, schedule, arch).unwrap();
                let text = render(&kernel).text;
                for launch in &kernel.launches {
                    let (_, body) = text.split_once(&format!("{}(", launch.entry)).unwrap();
                    let body = body.split("extern \"C\"").next().unwrap();
                    for param in &launch.params {
                        let again = format!("auto {} =", param.name);
                        assert!(!body.contains(&again), "{} on {arch}: `{again}`: {rule}", launch.entry);
                    }
                }
            }
        }
    }
}

#[test]
fn each_limit_holds_from_both_sides() {
    let rule = widest(128, 128);
    let numbers =
        Forward { scan: Scan { chunk: 64, value_split: 1, warps: 8, stages: 2 }, matrix: Matrix::Mma, segments: 1 };
    let arch = Arch::Sm90a;
    try_bind(&rule, numbers, arch).unwrap();
    try_bind(&rule, Forward { scan: Scan { value_split: 2, warps: 4, ..numbers.scan }, ..numbers }, arch).unwrap();

    assert_eq!(refused(&rule, Forward { scan: Scan { chunk: 48, ..numbers.scan }, ..numbers }, arch), "chunk");
    assert_eq!(refused(&rule, Forward { scan: Scan { stages: 3, ..numbers.scan }, ..numbers }, arch), "stages");
    assert_eq!(refused(&rule, Forward { scan: Scan { stages: 0, ..numbers.scan }, ..numbers }, arch), "stages");
    assert_eq!(refused(&rule, Forward { scan: Scan { warps: 7, ..numbers.scan }, ..numbers }, arch), "warps");
    assert_eq!(refused(&rule, Forward { scan: Scan { warps: 33, ..numbers.scan }, ..numbers }, arch), "warps");
    assert_eq!(refused(&rule, Forward { scan: Scan { warps: 0, ..numbers.scan }, ..numbers }, arch), "warps");
    assert_eq!(
        refused(&rule, Forward { scan: Scan { value_split: 9, ..numbers.scan }, ..numbers }, arch),
        "value_split"
    );
    assert_eq!(
        refused(&rule, Forward { scan: Scan { value_split: 7, ..numbers.scan }, ..numbers }, arch),
        "value_split"
    );
    assert_eq!(
        refused(&rule, Forward { scan: Scan { value_split: 0, ..numbers.scan }, ..numbers }, arch),
        "value_split"
    );
    // 230,912 bytes fit Hopper's 232,448; two buffers do not fit Ampere's 166,912, one does.
    assert_eq!(refused(&rule, numbers, Arch::Sm80), "shared memory");
    try_bind(&rule, Forward { scan: Scan { stages: 1, ..numbers.scan }, ..numbers }, Arch::Sm80).unwrap();
    // 256 threads leave 255 registers each; 288 leave 224, and K = 256 at chunk 64 wants 232.
    let tall = rules(256, 128).remove(0);
    try_bind(&tall, Forward { scan: Scan { stages: 1, ..numbers.scan }, ..numbers }, arch).unwrap();
    assert_eq!(
        refused(&tall, Forward { scan: Scan { stages: 1, warps: 9, ..numbers.scan }, ..numbers }, arch),
        "registers"
    );
}

#[test]
fn wgmma_binds_where_it_can_and_says_why_elsewhere() {
    let arch = Arch::Sm90a;
    for (key_dim, value_dim) in [(16, 64), (64, 64), (96, 128), (128, 128), (128, 192), (128, 256)] {
        for rule in rules(key_dim, value_dim) {
            let schedule = Schedule::from_overrides(&rule, Pass::Forward, arch, "matrix=wgmma").unwrap();
            let kernel = bind(&rule, Pass::Forward, schedule, arch)
                .unwrap_or_else(|refusal| panic!("{}, {schedule}: {refusal}", rule.name));
            let launch = &kernel.launches[0];
            assert!(launch.shared_bytes <= arch.limits().shared_per_block);
            // Tiles that wgmma reads start where a swizzle does.
            let tile = |name: &str| ["q", "k", "b", "g", "e", "p", "m"].contains(&name);
            assert!(launch.shared.iter().all(|region| !tile(&region.name) || region.offset % 1024 == 0));
            for pair in launch.shared.windows(2) {
                assert!(pair[0].offset + pair[0].bytes <= pair[1].offset, "{} overlaps", pair[1].name);
            }
        }
    }
    let rule = widest(128, 128);
    let numbers =
        Forward { scan: Scan { chunk: 64, value_split: 1, warps: 8, stages: 1 }, matrix: Matrix::Wgmma, segments: 1 };
    try_bind(&rule, numbers, arch).unwrap();
    try_bind(&rule, Forward { scan: Scan { value_split: 2, warps: 4, ..numbers.scan }, ..numbers }, arch).unwrap();
    for other in Arch::ALL.into_iter().filter(|other| *other != arch) {
        assert_eq!(refused(&rule, numbers, other), "matrix");
    }
    assert_eq!(refused(&rule, Forward { scan: Scan { chunk: 128, ..numbers.scan }, ..numbers }, arch), "chunk");
    assert_eq!(refused(&rule, Forward { scan: Scan { stages: 3, ..numbers.scan }, ..numbers }, arch), "stages");
    assert_eq!(
        refused(&rule, Forward { scan: Scan { value_split: 3, ..numbers.scan }, ..numbers }, arch),
        "value_split"
    );
    assert_eq!(refused(&rule, Forward { scan: Scan { warps: 4, ..numbers.scan }, ..numbers }, arch), "warps");
    // Gates as float32 leave room for a second stage at K = 128, not at K = 192.
    try_bind(&rule, Forward { scan: Scan { stages: 2, ..numbers.scan }, ..numbers }, arch).unwrap();
    assert_eq!(
        refused(&widest(192, 64), Forward { scan: Scan { warps: 4, stages: 2, ..numbers.scan }, ..numbers }, arch),
        "shared memory"
    );
    let refusal =
        try_bind(&widest(128, 80), Forward { scan: Scan { warps: 5, ..numbers.scan }, ..numbers }, arch).unwrap_err();
    assert_eq!((refusal.field.as_str(), refusal.got.as_str()), ("value_dim", "80"));
    let wide = rules(128, 256).remove(0);
    assert_eq!(refused(&wide, Forward { scan: Scan { warps: 16, ..numbers.scan }, ..numbers }, arch), "registers");
    let tall = rules(256, 64).remove(0);
    assert_eq!(refused(&tall, Forward { scan: Scan { warps: 4, ..numbers.scan }, ..numbers }, arch), "registers");
    assert_eq!(
        refused(&tall, Forward { scan: Scan { warps: 4, chunk: 32, ..numbers.scan }, ..numbers }, arch),
        "chunk"
    );
    try_bind(&tall, Forward { scan: Scan { warps: 4, chunk: 16, ..numbers.scan }, ..numbers }, arch).unwrap();
    // 512 threads are launched with 128 registers each: a product of 192 columns takes 126, one of 208 takes 134.
    let short = Forward { scan: Scan { chunk: 16, ..numbers.scan }, ..numbers };
    try_bind(&rules(192, 128).remove(0), short, arch).unwrap();
    assert_eq!(refused(&rules(208, 128).remove(0), short, arch), "registers");
}

#[test]
fn a_pass_takes_its_own_schedule() {
    let rule = widest(64, 64);
    let schedule = Schedule::default_for(&rule, Pass::Decode, Arch::Sm80).unwrap();
    assert_eq!(bind(&rule, Pass::Forward, schedule, Arch::Sm80).unwrap_err().field, "pass");
}

#[test]
fn overrides_are_kept_and_the_rest_made_to_fit() {
    let rule = widest(128, 128);
    for chunk in [16, 32, 64] {
        for arch in [Arch::Sm80, Arch::Sm90a] {
            let text = format!("chunk={chunk}");
            let Schedule::Forward(numbers) = Schedule::from_overrides(&rule, Pass::Forward, arch, &text).unwrap()
            else {
                panic!("a forward schedule");
            };
            assert_eq!(numbers.scan.chunk, chunk);
            try_bind(&rule, numbers, arch).unwrap();
        }
    }
    let parse = |text: &str| Schedule::from_overrides(&rule, Pass::Forward, Arch::Sm80, text);
    let given = "chunk=32,value_split=2,warps=4,stages=1";
    assert_eq!(parse(" stages=1, warps = 4,value-split=2,chunk=32 ").unwrap().to_string(), given);
    assert!(matches!(parse("chunks=64"), Err(ScheduleError::UnknownField { .. })));
    assert!(matches!(parse("chunk=big"), Err(ScheduleError::BadValue { .. })));
    assert!(matches!(parse("chunk"), Err(ScheduleError::BadValue { .. })));
    assert!(matches!(parse("warps=0"), Err(ScheduleError::BadValue { .. })));
    assert!(matches!(parse("warps=4,warps=8"), Err(ScheduleError::Twice(_))));
    assert!(matches!(parse("matrix=1"), Err(ScheduleError::BadWord { .. })));
    assert_eq!(parse("matrix=mma").unwrap(), parse("").unwrap());
    assert!(parse("matrix=wgmma").unwrap().to_string().ends_with(",matrix=wgmma"));
}

#[test]
fn text_is_complete_and_a_function_of_the_kernel() {
    for rule in rules(64, 64) {
        let schedule = Schedule::default_for(&rule, Pass::Forward, Arch::Sm80).unwrap();
        let kernel = bind(&rule, Pass::Forward, schedule, Arch::Sm80).unwrap();
        let source = render(&kernel);
        assert_eq!(source, render(&kernel));
        let problem = source.text.lines().find(|line| line.contains("#error") || line.contains("#include"));
        assert_eq!(problem, None, "{}", rule.name);
        for param in &kernel.launches[0].params {
            assert!(source.text.contains(&param.name), "{} is in no signature", param.name);
        }
    }
}
