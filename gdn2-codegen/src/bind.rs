//! From a rule and a schedule, in whole or in part, to a kernel: the passes behind one door.

use crate::arch::Arch;
use crate::kernel::{Illegal, Kernel, MOST_NAMED};
use crate::pass::Pass;
use crate::plan;
use crate::schedule::{Backward, Decode, Forward, Overrides, Schedule, ScheduleError};
use crate::{backward, decode, forward};
use gdn2_dsl::Rule;

/// Most logits of `let`s, so that no launch has more parameters than calls have places for.
const MOST_LOGITS: usize = 6;

/// Whether there are kernels for what the rule is given.
///
/// # Errors
/// More parameters and logits than kernels have places for.
pub fn takes(rule: &Rule) -> Result<(), Illegal> {
    let named = rule.prologue.named().len();
    if named > MOST_NAMED {
        let field = format!("parameters and logits of `let`s: rule `{}`", rule.name);
        return Err(Illegal::new(&field, format!("{MOST_NAMED} in kernels"), named));
    }
    // A logit comes with strides, and has a gradient with as many.
    let logits = rule.prologue.named().into_iter().filter(|own| own.per_token).count();
    if logits > MOST_LOGITS {
        let field = format!("logits of `let`s: rule `{}`", rule.name);
        return Err(Illegal::new(&field, format!("{MOST_LOGITS} in kernels"), logits));
    }
    Ok(())
}

/// Fixes every number of one pass of a rule.
pub fn bind(rule: &Rule, pass: Pass, schedule: Schedule, arch: Arch) -> Result<Kernel, Illegal> {
    takes(rule)?;
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
