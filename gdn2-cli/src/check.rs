//! `gdn2 check`: reads rule files and says back what it understood.

use std::fmt::Write as _;

use gdn2_dsl::Rule;

use crate::error::CliError;
use crate::select::Selection;
use crate::{Verdict, write};

/// Read rule files and say back the recurrence, its tensors and its cost per token
///
/// Every mistake of a file is reported at once, over its source, with a suggestion.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gdn2 check rules/*.gdn2")]
pub struct Args {
    /// Rule files; FILE#RULE looks at one rule
    #[arg(required = true, value_name = "FILE")]
    files: Vec<Selection>,
}

impl Args {
    pub fn run(&self) -> Result<Verdict, CliError> {
        let mut text = String::new();
        let mut mistakes = Vec::new();
        for file in &self.files {
            match file.rules() {
                Ok(rules) => rules.iter().for_each(|rule| text.push_str(&understood(rule))),
                Err(error) => mistakes.push(error.rendered()),
            }
        }
        write::stdout(text.as_bytes())?;
        if mistakes.is_empty() { Ok(Verdict::Good) } else { Err(CliError::Diagnostics(mistakes.join("\n"))) }
    }
}

fn understood(rule: &Rule) -> String {
    let mut text = format!("rule {}", rule.name);
    if let Some(known) = rule.combination().known_as() {
        let _ = write!(text, ": {known}");
    }
    text.push('\n');
    for line in rule.recurrence().lines() {
        let _ = writeln!(text, "  {line}");
    }
    if let Some(bound) = rule.bound {
        let _ = writeln!(text, "  the caller promises {} <= g_t <= {}", bound.lower, bound.upper);
    }
    for line in rule.absences() {
        let _ = writeln!(text, "  {line}");
    }
    text.push('\n');
    for tensor in rule.tensors() {
        let _ = writeln!(text, "  {:<6}{:<16}{}", tensor.name, tensor.shape, tensor.dtype);
    }
    let cost = rule.token_cost();
    let _ = writeln!(
        text,
        "\n  per token and head: {} multiply-adds, {} bytes in and out; state {} bytes\n",
        cost.multiply_adds, cost.bytes, cost.state_bytes
    );
    text
}
