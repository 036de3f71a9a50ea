//! Decode over a long sequence: what rounding leaves behind in the state must not pile up.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use gdn2_codegen::abi::Tensor;
use gdn2_codegen::kernel::Pass;
use gdn2_dsl::bars::{Deviation, bar};
use gdn2_dsl::{Combination, Draw, Dtype, Grain, reference};
use gdn2_runtime::device::Device;
use gdn2_runtime::engine::Run;
use gdn2_runtime::tensors::Case;
use gdn2_tests::engine;
use gdn2_tests::seed::seed_of;
use rayon::prelude::*;

const TOKENS: usize = 8192;

/// One head, one token per launch, with the same decay at every token or none.
fn decays(g: Option<f32>) {
    let decay = if g.is_some() { Grain::Scalar } else { Grain::None };
    let rule = Combination { decay, erase: Grain::Scalar, write: None }.rule(64, 64, Dtype::Bf16).unwrap();
    let mut draw = Draw::new(1, TOKENS, 1, 1, seed_of(8));
    draw.initial_state = false;
    let mut case = Case::drawn(&rule, &draw, false).unwrap();
    let mut inputs = draw.inputs(&rule);
    if let Some(g) = g {
        case.tensors.get_mut(&Tensor::G).unwrap().data.fill(g);
        inputs.g = Some(vec![f64::from(g); TOKENS]);
    }
    let want = reference::forward(rule.combination(), &inputs).unwrap();

    let (engine, device) = (engine(), Device::vm());
    let got = engine.run(&Run::new(&rule, Pass::Decode, &device), &case).unwrap();
    assert_eq!(got.reports.len(), TOKENS);
    for (tensor, want) in [(Tensor::O, want.o), (Tensor::FinalState, want.final_state)] {
        let numbers = got.tensors[&tensor].data.iter().copied().map(f64::from);
        let deviation = Deviation::of(numbers, &want);
        assert!(deviation.passes(bar(tensor.name()).unwrap()), "g = {g:?}: {} {deviation:?}", tensor.name());
    }
}

#[test]
fn eight_thousand_tokens_one_at_a_time() {
    [None, Some(-0.001), Some(-0.05)].par_iter().for_each(|g| decays(*g));
}
