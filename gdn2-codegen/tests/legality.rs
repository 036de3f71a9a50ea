//! Every rule of legality from both sides: a schedule just inside and one just outside, and no refusal for a reason that
//! has no such pair.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use gdn2_codegen::arch::Arch;
use gdn2_codegen::bind;
use gdn2_codegen::kernel::{Illegal, Kernel, LaunchRole, Pass};
use gdn2_codegen::schedule::{self as numbers, Schedule};
use gdn2_codegen::space::space;
use gdn2_dsl::{Dtype, Rule, granularity_combinations};
use std::collections::{BTreeMap, BTreeSet};

/// One rule of legality and the schedules on both sides of it. What a schedule leaves out is chosen to fit.
struct Edge {
    field: &'static str,
    pass: Pass,
    arch: Arch,
    /// Key dim and value dim.
    dims: (u32, u32),
    inside: &'static str,
    outside: &'static str,
    /// Where the other side is not another schedule, but another architecture or other dims.
    elsewhere: Option<(Arch, (u32, u32))>,
}

const fn edge(field: &'static str, pass: Pass, dims: (u32, u32), inside: &'static str, outside: &'static str) -> Edge {
    Edge { field, pass, arch: Arch::Sm90a, dims, inside, outside, elsewhere: None }
}

use Pass::{Backward, Decode, Forward};

const WARPGROUP: &str = "chunk=64,value_split=1,warps=4,stages=1,matrix=wgmma";

const EDGES: &[Edge] = &[
    edge("chunk", Forward, (64, 64), "chunk=128", "chunk=256"),
    edge("chunk", Forward, (64, 64), "chunk=64", "chunk=63"),
    edge("stages", Forward, (64, 64), "stages=2", "stages=3"),
    // 1,024 threads leave 64 registers each, which K = 16 at chunk 16 takes to the last.
    edge("warps", Forward, (16, 16), "chunk=16,warps=32", "chunk=16,warps=33"),
    edge("warps", Forward, (128, 128), "value_split=1,warps=8", "value_split=1,warps=7"),
    edge("value_split", Forward, (128, 128), "value_split=8", "value_split=9"),
    // Eight value tiles in five blocks would be two each, and the fifth block empty.
    edge("value_split", Forward, (128, 128), "value_split=4", "value_split=5"),
    // 256 threads leave 255 registers each, 288 leave 224; K = 256 at chunk 64 wants 232.
    edge("registers", Forward, (256, 128), "chunk=64,stages=1,warps=8", "chunk=64,stages=1,warps=9"),
    edge(
        "chunk",
        Forward,
        (128, 128),
        "chunk=64,value_split=1,warps=8,matrix=wgmma",
        "chunk=128,value_split=1,warps=8,matrix=wgmma",
    ),
    edge(
        "stages",
        Forward,
        (64, 64),
        "stages=2,value_split=1,warps=4,matrix=wgmma",
        "stages=3,value_split=1,warps=4,matrix=wgmma",
    ),
    // M is 64: the value dim is whole blocks of 64 rows, a split leaves whole blocks, and each block is four warps.
    Edge { elsewhere: Some((Arch::Sm90a, (128, 80))), ..edge("value_dim", Forward, (128, 64), WARPGROUP, WARPGROUP) },
    // sm_90a alone has warpgroup instructions.
    Edge { elsewhere: Some((Arch::Sm120, (128, 64))), ..edge("matrix", Forward, (128, 64), WARPGROUP, WARPGROUP) },
    edge(
        "value_split",
        Forward,
        (128, 128),
        "value_split=2,warps=4,matrix=wgmma",
        "value_split=3,warps=4,matrix=wgmma",
    ),
    edge("warps", Forward, (128, 128), "value_split=1,warps=8,matrix=wgmma", "value_split=1,warps=7,matrix=wgmma"),
    edge(
        "segments",
        Forward,
        (128, 64),
        "chunk=64,value_split=1,warps=4,stages=1,matrix=wgmma,segments=16",
        "chunk=64,value_split=1,warps=4,stages=1,matrix=wgmma,segments=17",
    ),
    edge("segments", Forward, (64, 64), "matrix=mma,segments=16", "matrix=mma,segments=17"),
    // From three segments on a warp holds rows of A beside those of the state: K = 256 at chunk 16 wants 184 of the 255
    // registers of 256 threads, with A 312.
    edge(
        "registers",
        Forward,
        (256, 128),
        "chunk=16,warps=8,stages=1,matrix=mma,segments=2",
        "chunk=16,warps=8,stages=1,matrix=mma,segments=3",
    ),
    edge(
        "chunk",
        Forward,
        (256, 64),
        "chunk=16,value_split=1,warps=4,stages=1,matrix=wgmma",
        "chunk=32,value_split=1,warps=4,stages=1,matrix=wgmma",
    ),
    // 1,280 threads are too many; eight state warpgroups with two others ask for them.
    Edge {
        elsewhere: Some((Arch::Sm90a, (16, 512))),
        ..edge(
            "warps",
            Forward,
            (16, 256),
            "chunk=16,value_split=1,warps=16,stages=1,matrix=wgmma",
            "chunk=16,value_split=1,warps=32,stages=1,matrix=wgmma",
        )
    },
    // A state thread of two warpgroups is granted 192 registers; K = 192 wants 184 at chunk 16, 200 at chunk 32.
    edge(
        "registers",
        Forward,
        (192, 128),
        "chunk=32,value_split=1,warps=8,stages=1,matrix=wgmma",
        "chunk=64,value_split=1,warps=8,stages=1,matrix=wgmma",
    ),
    edge("chunk", Backward, (64, 64), "chunk=64", "chunk=63"),
    edge("stages", Backward, (64, 64), "stages=2", "stages=3"),
    edge("warps", Backward, (16, 16), "chunk=16,warps=32", "chunk=16,warps=33"),
    edge("value_split", Backward, (128, 128), "value_split=8", "value_split=9"),
    edge("registers", Backward, (128, 128), "chunk=64,warps=12", "chunk=64,warps=13"),
    edge("recompute", Backward, (64, 64), "recompute=1", "recompute=2"),
    edge("matrix", Backward, (64, 64), "matrix=wgmma,recompute=0", "matrix=wgmma,recompute=1"),
    edge("segments", Backward, (64, 64), "matrix=wgmma,segments=16", "matrix=wgmma,segments=17"),
    Edge { elsewhere: Some((Arch::Sm90a, (128, 80))), ..edge("value_dim", Backward, (128, 64), WARPGROUP, WARPGROUP) },
    // Two warpgroups divide 64 or 128 channels.
    edge("gradients", Backward, (96, 64), "gradients=mma", "gradients=wgmma"),
    edge("value_tiles", Backward, (64, 64), "value_tiles=4", "value_tiles=5"),
    edge(
        "gradient_warps",
        Backward,
        (64, 64),
        "chunk=64,value_tiles=1,gradient_warps=4",
        "chunk=64,value_tiles=1,gradient_warps=3",
    ),
    // 608 threads leave 104 registers each, 640 leave 96; the least any schedule wants is 100.
    edge("gradient registers", Backward, (16, 16), "chunk=16,gradient_warps=19", "chunk=16,gradient_warps=20"),
    edge("value_split", Decode, (128, 128), "value_split=8", "value_split=9"),
    // Slices of 32 of 80 values: the fourth would be empty.
    edge("value_split", Decode, (128, 80), "value_split=3", "value_split=4"),
    // K is four tiles of 32.
    edge("warps", Decode, (128, 128), "value_split=4,warps=4", "value_split=4,warps=5"),
    // Three warps along V, or a multiple.
    edge("warps", Decode, (128, 80), "value_split=1,warps=6", "value_split=1,warps=7"),
    // More threads than a block has; the registers of sixteen warps are too few before that.
    edge("warps", Decode, (96, 128), "value_split=1,warps=12", "value_split=1,warps=33"),
    edge("registers", Decode, (128, 128), "value_split=4,warps=2", "value_split=4,warps=1"),
];

/// Shared memory is refused by its sum, whichever field made it: the fields of each pass, by launch.
const SHARED: [(Pass, &str); 4] = [
    (Forward, "shared memory"),
    (Backward, "shared memory of backward_states"),
    (Backward, "shared memory of backward_recompute"),
    (Backward, "shared memory of backward_gradients"),
];

fn rules(key_dim: u32, value_dim: u32) -> Vec<Rule> {
    let rule = |combination: gdn2_dsl::Combination| combination.rule(key_dim, value_dim, Dtype::Bf16).unwrap();
    granularity_combinations().into_iter().map(rule).collect()
}

fn try_bind(rule: &Rule, pass: Pass, arch: Arch, text: &str) -> Result<Kernel, Illegal> {
    bind(rule, pass, Schedule::from_overrides(rule, pass, arch, text).unwrap(), arch)
}

/// The gradients of GDN on wgmma: every number they take, and its neighbours.
#[test]
fn gradients_on_wgmma_are_for_one_number_per_token() {
    let gdn = |arch: Arch, dims: (u32, u32), dtype: Dtype, text: &str| {
        let gates = "decay: scalar; erase: scalar; write: erase;";
        let (keys, values, dtype) = (dims.0, dims.1, if dtype == Dtype::Bf16 { "bf16" } else { "f16" });
        let text_of = format!("rule gdn {{ {gates} key_dim: {keys}; value_dim: {values}; dtype: {dtype}; }}");
        let rule = gdn2_dsl::parse_file(&text_of).unwrap().remove(0);
        try_bind(&rule, Backward, arch, text).map_err(|refusal| refusal.field)
    };
    let wgmma = "gradients=wgmma";
    for dims in [(64, 64), (64, 128), (128, 64), (128, 128)] {
        let kernel = gdn(Arch::Sm90a, dims, Dtype::Bf16, wgmma).unwrap();
        // The same where nothing is asked for.
        assert_eq!(kernel.schedule, gdn(Arch::Sm90a, dims, Dtype::Bf16, "").unwrap().schedule);
        let written = kernel.schedule.to_string();
        assert_eq!(gdn(Arch::Sm90a, dims, Dtype::Bf16, &written).unwrap().schedule, kernel.schedule, "{written}");
        let limits = Arch::Sm90a.limits();
        let launch = kernel.launches.iter().find(|launch| launch.role == LaunchRole::Gradients).unwrap();
        let two = 2 * (launch.shared_bytes + limits.shared_reserved);
        assert!(two <= limits.shared_per_sm, "{dims:?}: two blocks to a multiprocessor take {two} bytes");
    }
    let refused = |arch, dims, dtype, text: &str| gdn(arch, dims, dtype, text).unwrap_err();
    let dims = (128, 128);
    assert_eq!(refused(Arch::Sm90a, dims, Dtype::F16, wgmma), "gradients");
    assert_eq!(refused(Arch::Sm90a, (96, 128), Dtype::Bf16, wgmma), "gradients");
    assert_eq!(refused(Arch::Sm90a, (128, 192), Dtype::Bf16, wgmma), "gradients");
    assert_eq!(refused(Arch::Sm80, dims, Dtype::Bf16, wgmma), "gradients");
    assert_eq!(refused(Arch::Sm90a, dims, Dtype::Bf16, "gradients=wgmma,chunk=32"), "chunk");
    assert_eq!(refused(Arch::Sm90a, dims, Dtype::Bf16, "gradients=wgmma,value_tiles=4"), "value_tiles");
    assert_eq!(refused(Arch::Sm90a, dims, Dtype::Bf16, "gradients=wgmma,gradient_warps=4"), "gradient_warps");
}

/// Where every channel decays at its own rate: gates of any grain beside it, as far as shared memory and their storage go.
#[test]
fn gradients_on_wgmma_take_channels_where_decays_have_them() {
    let gradients = |gates: &str, text: &str| {
        let text_of = format!("rule own {{ {gates} key_dim: 128; value_dim: 128; dtype: bf16; }}");
        let rule = gdn2_dsl::parse_file(&text_of).unwrap().remove(0);
        try_bind(&rule, Backward, Arch::Sm90a, text).map(|kernel| kernel.schedule).map_err(|refusal| refusal.field)
    };
    let wgmma = "gradients=wgmma";
    for decay in ["channel", "channel as bf16"] {
        for erase in ["none", "scalar", "channel"] {
            for write in ["none", "scalar", "channel"] {
                let gates = format!("decay: {decay}; erase: {erase}; write: {write};");
                assert_eq!(
                    gradients(&gates, wgmma),
                    gradients(&gates, ""),
                    "{gates} the same where nothing is asked for"
                );
                assert!(gradients(&gates, wgmma).is_ok(), "{gates}");
            }
        }
    }
    let refused = |gates: &str| gradients(gates, wgmma).unwrap_err();
    let shared = "shared memory of backward_gradients";
    assert_eq!(refused("decay: channel; erase: channel as f32; write: channel;"), shared);
    assert!(gradients("decay: channel as bf16; erase: channel as f32; write: channel;", wgmma).is_ok());
    assert_eq!(refused("decay: channel; erase: channel; write: channel as f32;"), "gradients");
    assert_eq!(refused("decay: scalar; erase: channel; write: channel;"), "gradients");
    assert_eq!(refused("decay: scalar; erase: scalar; write: channel;"), "gradients");
}

/// Rules that compute their gates: as without formulas, but for gates along channels that need a `let`'s logit.
#[test]
fn gradients_on_wgmma_take_formulas() {
    let gradients = |gates: &str, text: &str| {
        let text_of = format!("rule own {{ {gates} key_dim: 128; value_dim: 128; dtype: bf16; }}");
        let rule = gdn2_dsl::parse_file(&text_of).unwrap().remove(0);
        try_bind(&rule, Backward, Arch::Sm90a, text).map(|kernel| kernel.schedule.to_string())
    };
    let normed = "q: l2norm; k: l2norm;";
    for gates in [
        "decay: scalar = -softplus(x); erase: scalar = sigmoid(x); write: erase;",
        "decay: channel = -softplus(x); erase: scalar = sigmoid(x); write: erase;",
        "decay: channel as f32 = -softplus(x); erase: channel = sigmoid(x); write: channel as f32 = sigmoid(x);",
        "let s: scalar = softplus(x); decay: scalar = -s; erase: none; write: scalar = s;",
    ] {
        for norms in ["", normed] {
            let gates = format!("{norms} {gates}");
            let built_in = gradients(&gates, "").unwrap();
            assert!(built_in.contains("gradients=wgmma"), "{gates} {built_in}");
            assert_eq!(gradients(&gates, "gradients=wgmma").unwrap(), built_in);
        }
    }
    let shares = "let s: channel = softplus(x); decay: channel = -s; erase: channel = sigmoid(s); write: scalar;";
    let refusal = gradients(shares, "gradients=wgmma,matrix=mma").unwrap_err();
    assert_eq!(refusal.field, "gradients", "{refusal}");
    assert_eq!(refusal.limit, "mma where `g` along channels needs the logit of a `let`");
    assert!(!gradients(shares, "").unwrap().contains("wgmma"));
    let wide = "decay: channel = -softplus(x); erase: channel as f32 = sigmoid(x); write: scalar;";
    assert_eq!(gradients(wide, "gradients=wgmma").unwrap_err().field, "shared memory of backward_gradients");
    assert!(!gradients(wide, "").unwrap().contains("gradients=wgmma"));
}

#[test]
fn each_rule_has_an_inside_and_an_outside() {
    for Edge { field, pass, arch, dims, inside, outside, elsewhere } in EDGES {
        // GDN-2, the rule that needs most.
        let rule = rules(dims.0, dims.1).pop().unwrap();
        if let Err(refusal) = try_bind(&rule, *pass, *arch, inside) {
            panic!("{pass} {inside}: {refusal}");
        }
        let (arch, dims) = elsewhere.unwrap_or((*arch, *dims));
        let rule = rules(dims.0, dims.1).pop().unwrap();
        let refusal = try_bind(&rule, *pass, arch, outside).unwrap_err();
        assert_eq!(refusal.field, *field, "{pass} {outside}: {refusal}");
    }
}

/// A schedule, and for backward, whose candidates have one buffer, the same with two.
fn buffered(schedule: Schedule) -> Vec<Schedule> {
    match schedule {
        Schedule::Backward(backward) => {
            let scan = numbers::Scan { stages: 2, ..backward.scan };
            vec![schedule, Schedule::Backward(numbers::Backward { scan, ..backward })]
        }
        Schedule::Forward(_) | Schedule::Decode(_) => vec![schedule],
    }
}

/// On every architecture some kernel comes within a few KB of the limit, and the least that is refused is little more.
#[test]
fn shared_memory_is_refused_at_the_limit_of_the_architecture() {
    let mut met = BTreeSet::new();
    for arch in Arch::ALL {
        let limit = arch.limits().shared_per_block;
        let (mut most, mut least) = (0, BTreeMap::new());
        for dims in [(64, 64), (96, 96), (128, 128), (128, 256), (192, 128), (256, 256)] {
            for rule in rules(dims.0, dims.1) {
                for pass in [Pass::Forward, Pass::Backward] {
                    for schedule in space(&rule, pass, arch).unwrap().into_iter().flat_map(buffered) {
                        match bind(&rule, pass, schedule, arch) {
                            Ok(kernel) => {
                                let bytes = kernel.launches.iter().map(|launch| launch.shared_bytes).max().unwrap();
                                assert!(bytes <= limit, "{} {schedule} on {arch}: {bytes} bytes", rule.name);
                                most = most.max(bytes);
                            }
                            Err(refusal) if refusal.field.starts_with("shared memory") => {
                                let got: u32 = refusal.got.parse().unwrap();
                                assert!(
                                    got > limit && refusal.limit == format!("{limit} bytes on {arch}"),
                                    "{refusal}"
                                );
                                let least = least.entry((pass, refusal.field)).or_insert(u32::MAX);
                                *least = got.min(*least);
                            }
                            Err(_) => {}
                        }
                    }
                }
            }
        }
        assert!(limit - most < 4096, "{arch}: the largest legal kernel takes {most} of {limit} bytes");
        for (reason, least) in least {
            // A stage of the ring of the widest heads, where the scan of backward is on wgmma.
            let ring = arch.limits().wgmma.is_some() && reason.1.ends_with("backward_states");
            let apart = if ring { 32_768 } else { 16_384 };
            assert!(least - limit < apart, "{reason:?} on {arch}: {least} is the least refused, the limit {limit}");
            met.insert(reason);
        }
    }
    assert_eq!(met, SHARED.map(|(pass, field)| (pass, field.to_owned())).into());
}

/// The other side of the table: whatever is refused, of all candidates and of numbers nobody would choose, is refused
/// for a reason that has a pair above.
#[test]
fn nothing_is_refused_for_a_reason_without_a_test() {
    let mut reasons = BTreeSet::new();
    let odd = ["chunk=48", "stages=7", "warps=40", "warps=5", "value_split=100", "value_split=7", "recompute=5"];
    let odd = odd.into_iter().chain(["value_tiles=99", "gradient_warps=1", "gradient_warps=64", "gradient_warps=31"]);
    let odd: Vec<&str> = odd.chain(["matrix=wgmma", "segments=2", "matrix=wgmma,segments=20"]).collect();
    for arch in Arch::ALL {
        for rule in [(16, 16), (128, 128), (256, 512)].into_iter().flat_map(|(k, v)| rules(k, v)) {
            for pass in [Pass::Forward, Pass::Backward, Pass::Decode] {
                let strange = odd.iter().filter_map(|text| Schedule::from_overrides(&rule, pass, arch, text).ok());
                for schedule in space(&rule, pass, arch).unwrap().into_iter().chain(strange) {
                    if let Err(refusal) = bind(&rule, pass, schedule, arch) {
                        reasons.insert((pass, refusal.field));
                    }
                }
            }
        }
    }
    let tested: BTreeSet<(Pass, String)> = EDGES
        .iter()
        .map(|edge| (edge.pass, edge.field))
        .chain(SHARED)
        .map(|(pass, field)| (pass, field.to_owned()))
        .collect();
    assert_eq!(reasons, tested, "left: what is refused; right: what has a test");
}
