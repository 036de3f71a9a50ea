//! A result beside what it should be.

use crate::engine::Outcome;
use crate::tensors::{Case, CaseError};
use gdn2_codegen::abi::Tensor;
use gdn2_dsl::bars::{Bar, Deviation, Verdict};

/// One tensor, judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judged {
    /// Which.
    pub tensor: Tensor,
    /// How far off it is.
    pub deviation: Deviation,
    /// How far it may be.
    pub bar: Bar,
    /// What that means.
    pub verdict: Verdict,
}

/// Compares the gradient of what a rule names itself, `d` and the name, with the case's; `None` where the case expects none.
///
/// # Errors
/// As [`judge`].
pub fn judge_named(name: &str, outcome: &Outcome, case: &Case) -> Result<Option<(Deviation, Bar, Verdict)>, CaseError> {
    let Some(expected) = case.named.get(name) else { return Ok(None) };
    let wrong = |problem: String| CaseError::Named { tensor: name.to_owned(), problem };
    let got = outcome.named.get(name).ok_or_else(|| wrong("no result to compare it with".to_owned()))?;
    if expected.shape != got.shape {
        return Err(wrong(format!("the reference's shape {:?} is not the result's {:?}", expected.shape, got.shape)));
    }
    if let Some(at) = expected.data.iter().position(|x| !x.is_finite()) {
        return Err(wrong(format!(
            "{:?} of the reference is {}, which proves nothing",
            expected.index(at),
            expected.data[at]
        )));
    }
    let bar = case.named_bar(name)?;
    let reference: Vec<f64> = expected.data.iter().copied().map(f64::from).collect();
    let deviation = Deviation::of(got.data.iter().copied().map(f64::from), &reference);
    Ok(Some((deviation, bar, deviation.verdict(bar, reference.len()))))
}

/// Compares a tensor of an outcome with the case's; `None` where the case expects none.
///
/// # Errors
/// A reference that proves nothing: a number in it is NaN or infinite, its shape is not the result's, or there is no result.
pub fn judge(tensor: Tensor, outcome: &Outcome, case: &Case, bar: Bar) -> Result<Option<Judged>, CaseError> {
    let Some(expected) = case.tensors.get(&tensor) else { return Ok(None) };
    let Some(got) = outcome.tensors.get(&tensor) else {
        return Err(CaseError::NoResult { tensor: tensor.name() });
    };
    if expected.shape != got.shape {
        let (reference, got) = (expected.shape.clone(), got.shape.clone());
        return Err(CaseError::ReferenceShape { tensor: tensor.name(), reference, got });
    }
    if let Some(at) = expected.data.iter().position(|x| !x.is_finite()) {
        let (index, got) = (expected.index(at), expected.data[at]);
        return Err(CaseError::Reference { tensor: tensor.name(), index, got });
    }
    let reference: Vec<f64> = expected.data.iter().copied().map(f64::from).collect();
    let deviation = Deviation::of(got.data.iter().copied().map(f64::from), &reference);
    Ok(Some(Judged { tensor, deviation, bar, verdict: deviation.verdict(bar, reference.len()) }))
}
