//! `gdn2 tune --why`: what a call gets, why, and what the clock says of that very call.

use gdn2_codegen::lookup::Step;
use gdn2_codegen::record::{Basis, Bucket, Record, Timed, rule_fingerprint};
use gdn2_codegen::schedule::Schedule;
use gdn2_runtime::toolchain::Nvdisasm;
use gdn2_tune::job::Job;
use gdn2_tune::report;

use super::Args;
use crate::error::CliError;
use crate::gpu::Target;
use crate::predict::prepared;
use crate::{tuned, write};

impl Args {
    /// What a call gets and why; what the clock says of this very call; what the record that was used was chosen by.
    pub(super) fn why(&self, job: &Job, target: &Target) -> Result<(), CliError> {
        let compiler = self.compiler.bare().nvrtc().ok().map(|nvrtc| format!("NVRTC {}", nvrtc.version()));
        let choice = self.choice(job, compiler.as_deref())?;
        let mut text = format!("{} {} on {}, {}: {choice}\n", job.rule.name, job.pass, job.gpu, job.shape);
        let own = Schedule::default_for(&job.rule, job.pass, job.arch)?;
        let timed = |schedule| self.clocked(job, target, schedule).unwrap_or_else(|why| format!("no time ({why})"));
        text += &format!("  this call by the clock: {}\n", timed(choice.schedule));
        if own != choice.schedule {
            text += &format!("  in the built-in schedule, {own}: {}\n", timed(own));
        }
        let used = match choice.step {
            Step::Exact(bucket) | Step::Nearest(bucket) | Step::Kernel { of: bucket, .. } => Some(bucket),
            Step::Common { .. } | Step::BuiltIn | Step::Named => None,
        };
        if let Some(bucket) = used {
            let (rule, records) = (rule_fingerprint(&job.rule), tuned::of(&self.records, &job.gpu)?);
            let asked = |record: &&Record| (record.pass, record.bucket) == (job.pass, bucket);
            let record = records.iter().filter(asked).find(|record| record.provenance.rule == rule);
            let away = bucket.distance(Bucket::of(job.shape.extents()));
            text += &record.map_or_else(String::new, |record| background(record, away));
        }
        write::stdout(text.as_bytes())?;
        Ok(())
    }

    /// What the clock says of a schedule for the job's own call, or why it says nothing.
    fn clocked(&self, job: &Job, target: &Target, schedule: Schedule) -> Result<String, String> {
        let constants = target.constants().map_err(|error| error.to_string())?;
        let disassembler = Nvdisasm::find(&self.compiler.search()).map_err(|error| error.to_string())?;
        let mut prepared = prepared(&self.compiler.bare(), &disassembler, constants, job, schedule)?;
        let timing = prepared.time(job.shape, &[]).map_err(|error| error.to_string())?;
        let [time, low, high] = [timing.micros(), timing.low(), timing.high()].map(report::micros);
        Ok(format!("{time} predicted, from {low} to {high}"))
    }
}

/// What a record was chosen by, for its own calls and in its own search.
fn background(record: &Record, away: u32) -> String {
    let Record { bucket, winner, before, built_in, correct, tried, provenance, .. } = record;
    let time = |timed: &Timed| report::micros(timed.time.micros);
    let basis = match provenance.basis {
        Basis::Measured => "measured".to_owned(),
        Basis::Counted => "counted, no measurement".to_owned(),
        Basis::Predicted => {
            format!("predicted by the clock, error band ±{:.0} %", 100.0 * winner.time.spread)
        }
    };
    let beside = match (before, built_in) {
        (Some(before), _) if before.schedule != winner.schedule => {
            format!("its calls got {} before, which takes {}", before.schedule, time(before))
        }
        (_, Some(own)) if own.schedule == winner.schedule => {
            "the built-in schedule, which nothing clearly beats".to_owned()
        }
        (_, Some(own)) => format!("the built-in schedule takes {}", time(own)),
        (_, None) => match &record.built_in_failed {
            Some(why) => format!("the built-in schedule cannot win, {why}"),
            None => {
                "the built-in schedule is not in the record, which is older than the field that says why".to_owned()
            }
        },
    };
    let away = match away {
        0 => String::new(),
        1 => ", one doubling away".to_owned(),
        more => format!(", {more} doublings away"),
    };
    format!(
        "  record for {bucket}{away}: {} {basis}; {beside}\n  {correct} of {tried} candidates ran correctly; {}\n",
        time(winner),
        provenance.compiler
    )
}
