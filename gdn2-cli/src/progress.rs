//! A bar on standard error for work that takes a while; nothing where standard error is no terminal.

use indicatif::{ProgressBar, ProgressStyle};

use crate::terminal;

/// A running bar; gone when dropped.
pub struct Progress(ProgressBar);

impl Progress {
    /// A bar of `steps` steps.
    pub fn new(doing: &'static str, steps: usize) -> Progress {
        // indicatif draws to standard error, and only to a terminal.
        let bar = if terminal::animated() { ProgressBar::new(steps as u64) } else { ProgressBar::hidden() };
        let bar = bar.with_prefix(doing);
        if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_msg} [{pos}/{len}] {elapsed}") {
            bar.set_style(style);
        }
        Progress(bar)
    }

    /// One step further, now at `item`.
    pub fn step(&self, item: &str) {
        self.0.set_message(item.to_owned());
        self.0.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
