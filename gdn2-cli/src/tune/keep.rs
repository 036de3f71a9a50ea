//! What calls get before a search, and the record after it.

use std::path::Path;

use gdn2_codegen::lookup::{Choice, Question, Step};
use gdn2_codegen::record::{Basis, Record};
use gdn2_runtime::files;
use gdn2_tune::job::Job;
use gdn2_tune::report;
use gdn2_tune::ruling::Ruling;
use gdn2_tune::sweep::{Begin, Swept};

use super::Args;
use crate::error::CliError;
use crate::{tuned, write};

impl Args {
    /// Puts a record into its file where one is due, and says what became of it. Other tuners that share the folder wait
    /// meanwhile, so that none writes over what another has added; what calls get is looked up again, for one of them may
    /// have changed it.
    pub(super) fn keep(&self, path: &Path, job: &Job, swept: &Swept) -> Result<String, CliError> {
        let _held = match files::hold(&self.records) {
            Ok(held) => Some(held),
            Err(error) => {
                let folder = self.records.display();
                eprintln!("warning: {folder} cannot be locked ({error}): do not tune into it twice at the same time");
                None
            }
        };
        let compiler = swept.searched.compiler.as_str();
        let holder = self.choice(job, Some(compiler))?;
        let Some(ruling) = swept.searched.ruling(holder.schedule) else {
            return Ok("no record: nothing ran correctly".to_owned());
        };
        let record = match ruling {
            Ruling::Record(record) => *record,
            Ruling::Nothing(why) => return Ok(format!("no record: {why}")),
        };
        let mut records = tuned::read(path)?.unwrap_or_default();
        let mine = |old: &&Record| {
            (old.pass, old.bucket) == (record.pass, record.bucket) && old.provenance.rule == record.provenance.rule
        };
        let fresh = holder.step == Step::Exact(record.bucket);
        if let Some(old) = records.iter().find(mine).filter(|_| fresh)
            && old.provenance.basis.worth() > record.provenance.basis.worth()
        {
            let basis = named(old.provenance.basis);
            return Ok(format!(
                "record: {} keeps the {basis} winner: only a time worth as much replaces it",
                path.display()
            ));
        }
        let (winner, before) = (record.winner, record.before);
        records.insert(record);
        write::file(path, records.to_text()?.as_bytes())?;
        let gain = match before {
            Some(before) if before.schedule == winner.schedule => "calls get what they got before".to_owned(),
            Some(before) => {
                format!("{} before, {} now", report::micros(before.time.micros), report::micros(winner.time.micros))
            }
            None => format!("what calls got before, {}, cannot win", holder.schedule),
        };
        Ok(format!("record: {}, {gain}", path.display()))
    }

    /// What a call gets, and why.
    pub(super) fn choice(&self, job: &Job, compiler: Option<&str>) -> Result<Choice, CliError> {
        let extents = Some(job.shape.extents());
        tuned::choose(&self.records, &job.gpu, &job.rule, job.pass, job.arch, extents, compiler)
    }

    /// What a search of a job begins with.
    pub(super) fn begin(&self, job: &Job, compiler: &str) -> Result<Begin, CliError> {
        let Choice { schedule, step, .. } = self.choice(job, Some(compiler))?;
        let Job { rule, pass, arch, shape, .. } = job;
        let extents = Some(shape.extents());
        let question = Question { rule, pass: *pass, arch: *arch, extents, compiler: Some(compiler) };
        let neighbours = tuned::of(&self.records, &job.gpu)?.index(&question)?.neighbours(shape.extents());
        Ok(Begin { holder: schedule, from: step.to_string(), neighbours })
    }
}

/// A basis in a word.
fn named(basis: Basis) -> &'static str {
    match basis {
        Basis::Measured => "measured",
        Basis::Predicted => "predicted",
        Basis::Counted => "counted",
    }
}
