//! A formula costs what it computes: a layer's forward pass on wgmma beside that of the same rule whose gates arrive computed
//! and whose rows arrive normalised, counted by the virtual machine for a token and head.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::Pass;
use gdn2_dsl::{Draw, Rule};
use gdn2_runtime::device::Device;
use gdn2_runtime::device::vm::Settings;
use gdn2_runtime::engine::Run;
use gdn2_runtime::tensors::Case;
use gdn2_tests::engine;
use gdn2_tests::named::shipped;
use gdn2_vm::Class;

const TOKENS: usize = 512;

/// What a token and head costs.
#[derive(Debug)]
struct Costs {
    instructions: f64,
    /// Results of special functions, a number each.
    special: f64,
    /// Bytes of device memory asked for.
    bytes: f64,
}

fn costs(rule: &Rule) -> Costs {
    let device = Device::Vm(Settings { count: true, ..Settings::default() });
    let schedule = "matrix=wgmma,chunk=64,stages=2";
    let arch = Some(Arch::Sm90a);
    let run = Run { arch, schedule, final_state: false, ..Run::new(rule, Pass::Forward, &device) };
    let draw = Draw { initial_state: false, ..Draw::new(1, TOKENS, 1, 1, 5) };
    let outcome = engine().run(&run, &Case::drawn_inputs(rule, &draw, false).unwrap()).unwrap();
    let each = |of: u64| of as f64 / TOKENS as f64;
    let counters = outcome.reports.iter().map(|report| report.counters.as_ref().unwrap());
    let mut costs = Costs { instructions: 0.0, special: 0.0, bytes: 0.0 };
    for counters in counters {
        let special = counters.instructions.iter().filter(|counted| counted.class == Class::Special);
        costs.instructions += each(counters.instructions.iter().map(|counted| counted.executed).sum());
        costs.special += each(special.map(|counted| counted.lanes).sum());
        costs.bytes += each(counters.global_read_bytes + counters.global_write_bytes);
    }
    costs
}

/// A layer, the rule without its formulas, and at most how many instructions of a warp, results of special functions and bytes
/// the one takes beyond the other. A sigmoid, and what softplus takes, are two results each; a norm is one, which the eight lanes
/// of a row have.
const LAYERS: [(&str, &str, [f64; 3]); 4] = [
    ("mamba2_layer", "mamba2", [1.5, 4.0, 4.0]),
    ("gdn_layer", "gdn", [60.0, 22.0, 0.0]),
    ("kda_layer", "kda_bf16", [163.5, 2.0 * 128.0 + 20.0, 0.0]),
    ("gdn2_layer", "gdn2_bf16", [250.4, 6.0 * 128.0 + 16.0, 0.0]),
];

#[test]
fn a_formula_costs_what_it_computes() {
    for (layer, given, most) in LAYERS {
        let (with, without) = (costs(&shipped(layer)), costs(&shipped(given)));
        let more =
            [with.instructions - without.instructions, with.special - without.special, with.bytes - without.bytes];
        println!("{layer} beyond {given}: {more:.1?}, {with:.0?}");
        // Parts that are the same for all tokens are computed once, and parameters read once.
        let allowed = [most[0] * 1.03 + 0.5, most[1] + 0.5, most[2] + 2.0];
        for (what, (more, allowed)) in ["instructions", "special", "bytes"].iter().zip(more.into_iter().zip(allowed)) {
            assert!(more <= allowed, "{layer} beyond {given}: {more} {what}, at most {allowed}");
        }
    }
    let gdn2 = costs(&shipped("gdn2_layer"));
    assert!(gdn2.bytes < 1_792.0 + 4.0, "{gdn2:?}: seven rows of 128 numbers of two bytes each");
}
