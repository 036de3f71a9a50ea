//! `gdn2 tune merge`: the logs of several machines as one.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use gdn2_runtime::files::Limit;
use gdn2_tune::log::Contents;

use crate::error::CliError;
use crate::{Verdict, read, write};

/// Writes the lines of all logs, each once, in the order of the logs. Lines that are none are left out and said.
pub(super) fn merge(logs: &[PathBuf], out: &Path) -> Result<Verdict, CliError> {
    let (mut seen, mut text) = (HashSet::new(), Vec::new());
    let (mut lines, mut twice) = (0, 0);
    for path in logs {
        let bytes = read::bytes(path, Limit::LOG)?;
        let contents = Contents::parse(&bytes);
        for line in &contents.damage {
            eprintln!("warning: {}: {line}; the line is left out", path.display());
        }
        let damaged: HashSet<usize> = contents.damage.iter().map(|damage| damage.line).collect();
        for (place, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() || damaged.contains(&(place + 1)) {
                continue;
            }
            if !seen.insert(line.to_owned()) {
                twice += 1;
                continue;
            }
            text.extend_from_slice(line);
            text.push(b'\n');
            lines += 1;
        }
    }
    write::file(out, &text)?;
    let merged = Contents::parse(&text);
    let searches: HashSet<&str> = merged.searches.iter().map(|search| search.search.as_str()).collect();
    let said = format!(
        "{}: {lines} lines of {} logs, {twice} that were there already left out; {} searches, {} looks\n\
         go on from it with gdn2 tune … --log {}\n",
        out.display(),
        logs.len(),
        searches.len(),
        merged.evaluations.len(),
        out.display()
    );
    write::stdout(said.as_bytes())?;
    Ok(Verdict::Good)
}
