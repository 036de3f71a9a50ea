//! A reference that proves nothing is an error that says so, and no bar is too wide to prove something.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[allow(dead_code, reason = "shared with tests that take more of it")]
#[path = "../../tests/src/seed.rs"]
mod seed;

use gdn2_codegen::abi::Tensor;
use gdn2_codegen::kernel::Pass;
use gdn2_dsl::bars::{Bar, Verdict};
use gdn2_dsl::{Combination, Draw, Dtype, Grain, Rule};
use gdn2_runtime::artifact::Compiler;
use gdn2_runtime::device::{Device, Precision};
use gdn2_runtime::engine::{Engine, Outcome, Run};
use gdn2_runtime::judge::judge;
use gdn2_runtime::tensors::Case;
use gdn2_runtime::toolchain::Search;
use seed::seed_of;

fn rule() -> Rule {
    Combination { decay: Grain::Scalar, erase: Grain::Scalar, write: None }.rule(16, 16, Dtype::Bf16).unwrap()
}

/// A case with everything, and what the definition makes of it.
fn judged(pass: Pass) -> (Case, Outcome) {
    let case = Case::drawn_with_bars(&rule(), &Draw::new(1, 20, 1, 1, seed_of(0)), true).unwrap();
    let (rule, device) = (rule(), Device::Cpu(Precision::Double));
    let outcome = Engine::new(Compiler::new(Search::default())).run(&Run::new(&rule, pass, &device), &case).unwrap();
    (case, outcome)
}

fn verdict(tensor: Tensor, case: &Case, outcome: &Outcome) -> Result<Verdict, String> {
    let bar = case.bar(tensor).map_err(|error| error.to_string())?.unwrap();
    judge(tensor, outcome, case, bar).map(|judged| judged.unwrap().verdict).map_err(|error| error.to_string())
}

#[test]
fn a_reference_that_is_no_number_is_refused() {
    for (pass, tensor) in
        [(Pass::Forward, Tensor::O), (Pass::Forward, Tensor::FinalState), (Pass::Backward, Tensor::DG)]
    {
        let (mut case, outcome) = judged(pass);
        assert_eq!(verdict(tensor, &case, &outcome), Ok(Verdict::Passed));
        for bad in [f32::NAN, f32::INFINITY] {
            case.tensors.get_mut(&tensor).unwrap().data[3] = bad;
            let error = verdict(tensor, &case, &outcome).unwrap_err();
            assert!(error.starts_with(tensor.name()) && error.contains("proves nothing"), "{error}");
        }
    }
}

#[test]
fn a_reference_of_another_shape_is_refused() {
    let (mut case, outcome) = judged(Pass::Forward);
    case.tensors.get_mut(&Tensor::O).unwrap().shape = vec![2, 10, 1, 16];
    let error = verdict(Tensor::O, &case, &outcome).unwrap_err();
    assert_eq!(error, "o: the reference has the shape [2, 10, 1, 16], the call gives [1, 20, 1, 16]");
}

#[test]
fn a_result_that_is_missing_is_no_pass() {
    let (case, mut outcome) = judged(Pass::Forward);
    outcome.tensors.remove(&Tensor::O);
    assert_eq!(verdict(Tensor::O, &case, &outcome).unwrap_err(), "o: the file expects it, and the call gave none");
}

#[test]
fn bars_that_prove_nothing_are_refused() {
    let (mut case, outcome) = judged(Pass::Forward);
    for absurd in ["1e9", "0", "-1", "6.1", "nan"] {
        case.metadata.insert("bar_scale".to_owned(), absurd.to_owned());
        let error = verdict(Tensor::O, &case, &outcome).unwrap_err();
        assert!(error.starts_with("metadata `bar_scale`"), "{absurd}: {error}");
    }
    case.metadata.insert("bar_scale".to_owned(), "6".to_owned());
    for absurd in ["o=0.0301", "o=0", "o", "o=nan", "x=0.005"] {
        case.metadata.insert("bars".to_owned(), absurd.to_owned());
        assert!(verdict(Tensor::O, &case, &outcome).is_err(), "{absurd}");
    }
    case.metadata.insert("bars".to_owned(), "final_state=0.02,o=0.03".to_owned());
    assert_eq!(case.bar(Tensor::O).unwrap(), Some(Bar::fixed(0.03)));
    assert_eq!(case.bar(Tensor::DQ).unwrap(), Some(Bar::fixed(0.048)), "others go by the scale");
    // A limit widens no bar: what is beyond the bar is no pass.
    case.metadata.insert("limits".to_owned(), "o=1e9".to_owned());
    case.tensors.get_mut(&Tensor::O).unwrap().data.iter_mut().for_each(|x| *x *= 2.0);
    assert_eq!(verdict(Tensor::O, &case, &outcome), Ok(Verdict::Unjudged));
}

#[test]
fn nearly_nothing_is_untested() {
    let (mut case, mut outcome) = judged(Pass::Forward);
    for tensors in [&mut case.tensors, &mut outcome.tensors] {
        tensors.get_mut(&Tensor::O).unwrap().data.iter_mut().for_each(|x| *x *= 1e-9);
    }
    assert_eq!(verdict(Tensor::O, &case, &outcome), Ok(Verdict::Untested));
}
