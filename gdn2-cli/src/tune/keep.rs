//! What calls get before a search, and the record after it.

use gdn2_codegen::lookup::{Choice, Question, Step};
use gdn2_codegen::record::{Basis, Record, Records};
use gdn2_runtime::files;
use gdn2_tune::job::Job;
use gdn2_tune::report;
use gdn2_tune::ruling::Ruling;
use gdn2_tune::sweep::{Begin, Swept};

use super::Args;
use crate::error::CliError;
use crate::{tuned, write};

/// What a search came to for its calls.
pub(super) struct Kept {
    /// In words.
    pub text: String,
    /// Microseconds of what calls got before, and get now, by the same search.
    pub before: Option<f64>,
    pub after: Option<f64>,
    /// How many of the legal candidates were looked at.
    pub width: String,
    /// Why the search ended; nothing where there was none.
    pub ended: String,
    /// Whether a record was written.
    pub written: bool,
}

impl Kept {
    /// A call that nothing is known of.
    pub(super) fn nothing(text: String) -> Kept {
        Kept { text, before: None, after: None, width: String::new(), ended: String::new(), written: false }
    }
}

impl Args {
    /// Puts a record into its file where one is due, and says what became of it. Other tuners that share the folder wait
    /// meanwhile, so that none writes over what another has added; what calls get is looked up again, for one of them may
    /// have changed it.
    pub(super) fn keep(&self, job: &Job, swept: &Swept) -> Result<Kept, CliError> {
        let path = self.records.join(format!("{}.json", job.gpu));
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
        let before =
            swept.searched.ranking(holder.schedule).into_iter().find(|(schedule, _)| *schedule == holder.schedule);
        let before = before.map(|(_, sample)| sample.time.micros);
        let width = format!("{} of {}", swept.searched.looked_at(), swept.searched.legal.len());
        let ended = swept.ended();
        let unchanged = |text: String| {
            let (width, ended) = (width.clone(), ended.clone());
            Kept { text, before, after: before, width, ended, written: false }
        };
        let record = match swept.searched.ruling(holder.schedule) {
            Some(Ruling::Record(record)) => *record,
            Some(Ruling::Nothing(why)) => return Ok(unchanged(format!("no record: {why}"))),
            None => return Ok(unchanged("no record: nothing ran correctly".to_owned())),
        };
        let mut records = tuned::read(&path)?.unwrap_or_default();
        let mine = |old: &&Record| {
            (old.pass, old.bucket) == (record.pass, record.bucket) && old.provenance.rule == record.provenance.rule
        };
        let fresh = holder.step == Step::Exact(record.bucket);
        if let Some(old) = records.iter().find(mine).filter(|_| fresh)
            && old.provenance.basis.worth() > record.provenance.basis.worth()
        {
            let basis = named(old.provenance.basis);
            let path = path.display();
            let text = format!("record: {path} keeps the {basis} winner: only a time worth as much replaces it");
            return Ok(unchanged(text));
        }
        let (winner, held) = (record.winner, record.before);
        records.insert(record);
        write::file(&path, records.to_text()?.as_bytes())?;
        let gain = match held {
            Some(before) if before.schedule == winner.schedule => "calls get what they got before".to_owned(),
            Some(before) => {
                format!("{} before, {} now", report::micros(before.time.micros), report::micros(winner.time.micros))
            }
            None => format!("what calls got before, {}, cannot win", holder.schedule),
        };
        let text = format!("record: {}, {gain}", path.display());
        Ok(Kept { text, before, after: Some(winner.time.micros), width, ended, written: true })
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
        // What a call without records gets is a word of the wave formula.
        let unrecorded = Records::default().choose(&question)?.schedule;
        let records = tuned::of(&self.records, &job.gpu)?.index(&question)?.neighbours(shape.extents());
        let neighbours = [unrecorded].into_iter().chain(records).collect();
        let command = std::env::args_os().map(|part| part.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ");
        Ok(Begin { holder: schedule, from: step.to_string(), neighbours, command })
    }
}

/// A basis in a word.
pub(super) fn named(basis: Basis) -> &'static str {
    match basis {
        Basis::Measured => "measured",
        Basis::Predicted => "predicted",
        Basis::Counted => "counted",
    }
}
