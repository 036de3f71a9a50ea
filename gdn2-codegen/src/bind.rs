//! From a rule and a schedule, in whole or in part, to a kernel: the passes behind one door.

use crate::arch::Arch;
use crate::kernel::{Illegal, Kernel};
use crate::pass::Pass;
use crate::plan;
use crate::schedule::{Backward, Decode, Forward, Matrix, Overrides, Schedule, ScheduleError};
use crate::{backward, decode, forward};
use gdn2_dsl::Rule;

/// Whether there are kernels of a pass for what the rule is given.
///
/// # Errors
/// A rule that computes its gates or normalises its rows, which no kernel does yet.
pub fn takes(rule: &Rule, pass: Pass) -> Result<(), Illegal> {
    if rule.prologue.is_empty() {
        return Ok(());
    }
    Err(Illegal::new(
        &format!("formulas: rule `{}`", rule.name),
        format!(
            "gates and rows that arrive computed, as every {pass} kernel takes them: run this rule on the cpu device, or \
             compute its gates outside and use a rule without formulas"
        ),
        "computes its gates or normalises its rows",
    ))
}

/// Fixes every number of one pass of a rule.
pub fn bind(rule: &Rule, pass: Pass, schedule: Schedule, arch: Arch) -> Result<Kernel, Illegal> {
    takes(rule, pass)?;
    let plan = plan::plan(rule, pass);
    match (pass, schedule) {
        (Pass::Forward | Pass::ForwardForBackward, Schedule::Forward(numbers)) => {
            forward::bind(rule, plan, numbers, arch)
        }
        (Pass::Backward, Schedule::Backward(numbers)) => backward::bind(rule, plan, numbers, arch),
        (Pass::Decode, Schedule::Decode(numbers)) => decode::bind(rule, plan, numbers, arch),
        _ => Err(Illegal::new("pass", "a pass and its own schedule", format!("{pass:?} with {schedule}"))),
    }
}

impl Schedule {
    /// A schedule with the given fields as written and the rest chosen to fit the rule and the architecture. What
    /// cannot be made to fit comes back all the same and is refused by `bind`, which says why.
    pub fn from_overrides(rule: &Rule, pass: Pass, arch: Arch, text: &str) -> Result<Schedule, ScheduleError> {
        match pass {
            Pass::Forward => {
                let given = Overrides::parse(text, &Forward::FIELDS)?;
                Ok(Schedule::Forward(forward::complete(rule, arch, &given)))
            }
            Pass::ForwardForBackward => {
                // The chunk is backward's: the states kept lie between its chunks.
                let mut given = Overrides::parse(text, &Forward::FIELDS)?;
                let backward = backward::complete(rule, arch, &given.only("chunk"));
                given.fill("chunk", backward.scan.chunk);
                // The backward pass is not on wgmma either.
                given.fill("matrix", Matrix::Mma as u32);
                Ok(Schedule::Forward(forward::complete(rule, arch, &given)))
            }
            Pass::Backward => {
                let given = Overrides::parse(text, &Backward::FIELDS)?;
                Ok(Schedule::Backward(backward::complete(rule, arch, &given)))
            }
            Pass::Decode => {
                let given = Overrides::parse(text, &Decode::FIELDS)?;
                Ok(Schedule::Decode(decode::complete(rule, &given)))
            }
        }
    }

    /// The built-in schedule.
    pub fn default_for(rule: &Rule, pass: Pass, arch: Arch) -> Result<Schedule, ScheduleError> {
        Schedule::from_overrides(rule, pass, arch, "")
    }
}
