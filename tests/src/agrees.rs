//! A generated kernel against the float64 definition on one draw.
//!
//! The tolerance of a draw is 1.5 bars, or what rounding the matrix operands can cost on that very draw where that is more,
//! and never more than 6 bars.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use crate::seed::again;
use gdn2_codegen::abi::Tensor;
use gdn2_codegen::schedule::Schedule;
use gdn2_dsl::Draw;
use gdn2_dsl::bars::Verdict;
use gdn2_runtime::drawn::{bars, gradient_bars};
use gdn2_runtime::engine::{Engine, Run, RunError};
use gdn2_runtime::judge::{judge, judge_named};
use gdn2_runtime::tensors::{Array, Case};

/// Runs a draw, its states in slots of a pool if asked for, and compares every output. Whether the schedule could serve
/// it is the answer; anything wrong is the error.
pub fn agrees(engine: &Engine, run: &Run<'_>, draw: &Draw, slots: bool) -> Result<bool, String> {
    let exact = Case::drawn(run.rule, draw, false).unwrap();
    let case = if slots { slotted(&exact) } else { exact.clone() };
    let what = || format!("{}{:?} {draw:?}", run.rule, run.pass);
    let outcome = match engine.run(run, &case) {
        Ok(outcome) => outcome,
        Err(RunError::Illegal(_)) => return Ok(false),
        Err(error) => return Err(format!("{}: {error}", what())),
    };
    if let Some(finding) = outcome.reports.iter().flat_map(|report| &report.findings).next() {
        return Err(format!("{finding}: {}", what()));
    }
    let (arch, schedule) = outcome.kernel.unwrap();
    for (tensor, bar) in bars(run.rule, draw, &exact, &schedule).unwrap() {
        let judged = judge(tensor, &outcome, &case, bar).map_err(|error| error.to_string())?;
        if let Some(judged) = judged.filter(|judged| judged.verdict == Verdict::Failed) {
            return Err(format!("{judged:?}, {arch} {schedule}: {}; {}", what(), again()));
        }
    }
    if let Some(slots) = case.final_slots {
        let [pool, untouched] = [&outcome.tensors, &case.tensors].map(|tensors| &tensors[&Tensor::FinalState]);
        let size = pool.data.len() / pool.shape[0];
        for slot in (0..pool.shape[0]).filter(|slot| !slots.contains(&(*slot as i32))) {
            let range = slot * size..(slot + 1) * size;
            if pool.data[range.clone()] != untouched.data[range] {
                return Err(format!("slot {slot} was written, nobody's: {}", what()));
            }
        }
    }
    Ok(true)
}

/// Runs a draw backward and compares every gradient. Whether the schedule could serve it is the answer; anything wrong
/// is the error.
pub fn gradients_agree(engine: &Engine, run: &Run<'_>, draw: &Draw) -> Result<bool, String> {
    let mut case = Case::drawn(run.rule, draw, true).unwrap();
    case.set_named_bars(run.rule, draw).unwrap();
    let what = || format!("{}{draw:?} {}", run.rule, run.schedule);
    let outcome = match engine.run(run, &case) {
        Ok(outcome) => outcome,
        Err(RunError::Illegal(_)) => return Ok(false),
        Err(error) => return Err(format!("{error}: {}", what())),
    };
    if let Some(finding) = outcome.reports.iter().flat_map(|report| &report.findings).next() {
        return Err(format!("{finding}: {}", what()));
    }
    let (arch, schedule) = outcome.kernel.unwrap();
    let Schedule::Backward(numbers) = schedule else { return Err(format!("{schedule} is no schedule of backward")) };
    for (tensor, bar) in gradient_bars(run.rule, draw, &case, numbers.scan.chunk).unwrap() {
        let judged = judge(tensor, &outcome, &case, bar).map_err(|error| error.to_string())?;
        if let Some(judged) = judged.filter(|judged| judged.verdict == Verdict::Failed) {
            return Err(format!("{judged:?}, {arch} {schedule}: {}; {}", what(), again()));
        }
    }
    for name in outcome.named.keys() {
        let judged = judge_named(name, &outcome, &case).map_err(|error| error.to_string())?;
        if let Some((deviation, bar, Verdict::Failed)) = judged {
            let how = format!("{name}: {deviation:?}, {bar:?}");
            return Err(format!("{how}, {arch} {schedule}: {}; {}", what(), again()));
        }
    }
    Ok(true)
}

/// The same call with its states in a pool of N + 2 slots: sequence n starts from and ends in slot N + 1 - n, and the
/// first sequence's final state is not kept.
fn slotted(case: &Case) -> Case {
    let mut case = case.clone();
    let shape = case.tensors[&Tensor::FinalState].shape.clone();
    let (sequences, state) = (shape[0], shape[1..].iter().product::<usize>());
    let slot = |n: usize| sequences + 1 - n;
    let zeros = vec![0.0; sequences * state];
    let initial = case.tensors.get(&Tensor::InitialState).map_or(zeros, |array| array.data.clone());
    let mut before = vec![0.25; (sequences + 2) * state];
    for (n, values) in initial.chunks_exact(state).enumerate() {
        before[slot(n) * state..(slot(n) + 1) * state].copy_from_slice(values);
    }
    let mut after = before.clone();
    for (n, values) in case.tensors[&Tensor::FinalState].data.chunks_exact(state).enumerate().skip(1) {
        after[slot(n) * state..(slot(n) + 1) * state].copy_from_slice(values);
    }
    let pool = [&[sequences + 2], &shape[1..]].concat();
    case.tensors.insert(Tensor::InitialState, Array::new(&pool, before).unwrap());
    case.tensors.insert(Tensor::FinalState, Array::new(&pool, after).unwrap());
    case.initial_slots = Some((0..sequences).map(|n| slot(n) as i32).collect());
    case.final_slots = Some((0..sequences).map(|n| if n == 0 { -1 } else { slot(n) as i32 }).collect());
    case
}
