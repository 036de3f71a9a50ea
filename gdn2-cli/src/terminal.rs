//! How this run speaks: in colours or not, with progress or not. Decided once, from the arguments and the environment.

use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, Ordering};

use anstream::{AutoStream, ColorChoice};
use clap::ValueEnum as _;

static QUIET: AtomicBool = AtomicBool::new(false);

/// Arguments that every command takes.
#[derive(clap::Args)]
pub struct Flags {
    /// Colours: auto is for a terminal, but not with NO_COLOR or TERM=dumb
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", hide_possible_values = true)]
    color: clap::ColorChoice,
    /// Nothing but results, warnings and errors: no progress, no line about what was written
    #[arg(short, long, global = true)]
    quiet: bool,
}

impl Flags {
    /// Makes them hold for the rest of the run.
    pub fn hold(&self) {
        QUIET.store(self.quiet, Ordering::Relaxed);
        match self.color {
            clap::ColorChoice::Auto => ColorChoice::Auto,
            clap::ColorChoice::Always => ColorChoice::Always,
            clap::ColorChoice::Never => ColorChoice::Never,
        }
        .write_global();
    }
}

/// The colours asked for, before the arguments are understood: for what is said about arguments that are not.
pub fn asked(arguments: impl Iterator<Item = OsString>) -> clap::ColorChoice {
    let mut arguments = arguments.take_while(|argument| argument != "--");
    while let Some(argument) = arguments.next() {
        let value = match argument.to_str() {
            Some("--color") => arguments.next().and_then(|value| value.into_string().ok()),
            Some(other) => other.strip_prefix("--color=").map(str::to_owned),
            None => None,
        };
        if let Some(choice) = value.and_then(|value| clap::ColorChoice::from_str(&value, true).ok()) {
            return choice;
        }
    }
    clap::ColorChoice::Auto
}

/// Whether to leave out what is no result, warning or error.
pub fn quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Whether a bar may be drawn over itself: where nobody asked for quiet, on a terminal that can move its cursor.
/// That standard error is one is indicatif's to see.
pub fn animated() -> bool {
    !quiet() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Whether errors are in colours.
pub fn colored_errors() -> bool {
    AutoStream::choice(&std::io::stderr()) != ColorChoice::Never
}

/// Whether results on standard output are in colours.
pub fn colored_output() -> bool {
    AutoStream::choice(&std::io::stdout()) != ColorChoice::Never
}

/// A line on standard error about what is being done or was done.
pub fn note(line: &str) {
    if !quiet() {
        eprintln!("{line}");
    }
}
