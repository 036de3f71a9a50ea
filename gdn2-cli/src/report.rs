//! `gdn2 report`: what a sweep's log says, for people and for other tools.

use std::path::PathBuf;

use gdn2_runtime::files::Limit;
use gdn2_tune::log::Contents;
use gdn2_tune::report::{self, Findings};
use gdn2_tune::t4;

use crate::error::CliError;
use crate::{Verdict, read, write};

/// Say what a tuning log holds: a table, an HTML page with plots, T4 results for other tools
#[derive(clap::Args)]
#[command(after_help = "Example:
  gdn2 report tuning/h200.log.jsonl --html report.html")]
pub struct Args {
    /// The log
    #[arg(value_name = "LOG.jsonl")]
    log: PathBuf,
    /// Only searches of this rule
    #[arg(long)]
    rule: Option<String>,
    /// Print JSON instead of tables: every candidate that was looked at
    #[arg(long)]
    json: bool,
    /// Write the last of these searches as one self-contained page
    #[arg(long, value_name = "PAGE.html")]
    html: Option<PathBuf>,
    /// Write the last of these searches as T4 results
    #[arg(long, value_name = "RESULTS.json")]
    t4: Option<PathBuf>,
}

impl Args {
    pub fn run(&self) -> Result<Verdict, CliError> {
        let log = Contents::parse(&read::bytes(&self.log, Limit::LOG)?);
        for line in &log.damage {
            eprintln!("warning: {}: {line}; the line is left out", self.log.display());
        }
        let wanted = |name: &str| self.rule.as_ref().is_none_or(|rule| rule == name);
        let searches: Vec<_> = log.searches.iter().filter(|search| wanted(&search.job.rule.name)).collect();
        let Some(last) = searches.last() else {
            return Err(CliError::Usage(format!("{}: no such search", self.log.display())));
        };
        // A log lies in the folder of its records, unless it was put elsewhere.
        let records = self.log.parent();
        if let Some(path) = &self.html {
            write::file(path, report::html(&Findings::of(&log, last, records)?)?.as_bytes())?;
        }
        if let Some(path) = &self.t4 {
            write::file(path, format!("{:#}\n", t4::export(&log, last)).as_bytes())?;
        }
        if self.json {
            let all = searches.iter().map(|search| report::json(&Findings::of(&log, search, records)?));
            let all: Vec<serde_json::Value> = all.collect::<Result<_, _>>()?;
            write::stdout(format!("{:#}\n", serde_json::Value::from(all)).as_bytes())?;
        } else if self.html.is_none() && self.t4.is_none() {
            for search in searches {
                write::stdout(format!("{}\n", report::table(&Findings::of(&log, search, records)?)?).as_bytes())?;
            }
        }
        Ok(Verdict::Good)
    }
}
