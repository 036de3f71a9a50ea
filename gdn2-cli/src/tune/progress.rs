//! What a sweep says while it runs: the best so far, rejections by reason, the time that is left.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use gdn2_tune::job::Engine;
use gdn2_tune::outcome::{Outcome, Reason};
use gdn2_tune::sweep::Event;
use indicatif::{ProgressBar, ProgressStyle};

use crate::terminal;

/// Watches one sweep.
pub struct Watch {
    bar: ProgressBar,
    what: &'static str,
    log: String,
    rejected: BTreeMap<Reason, usize>,
    begun: Instant,
    budget: Duration,
    /// When a line was last written where there is no bar.
    said: Instant,
}

/// Time between two lines where there is no bar to be drawn over.
const BETWEEN: Duration = Duration::from_secs(10);

impl Watch {
    /// A watch over the sweep with this log.
    pub fn new(log: &Path, budget: Duration, engine: Engine) -> Watch {
        let bar = if terminal::animated() { ProgressBar::new(0) } else { ProgressBar::hidden() };
        let what = match engine {
            Engine::Cuda(_) => "measuring",
            Engine::Model => "predicting",
            Engine::Vm => "counting",
        };
        if let Ok(style) = ProgressStyle::with_template(&format!("{what} [{{pos}}/{{len}}] {{elapsed}}, {{msg}}")) {
            bar.set_style(style);
        }
        let log = log.display().to_string();
        Watch { bar, what, log, rejected: BTreeMap::new(), begun: Instant::now(), budget, said: Instant::now() }
    }

    /// Says what happened.
    pub fn tell(&mut self, event: Event) {
        match event {
            Event::Damaged(lines) => {
                for line in lines {
                    self.bar.suspend(|| eprintln!("warning: {}: {line}; the line is left out", self.log));
                }
            }
            Event::Begin { legal, illegal, known } => {
                self.bar.set_length(legal as u64);
                let what = self.what;
                self.note(&format!(
                    "{what}: {legal} legal candidates, {illegal} not legal, {known} looks known from the log"
                ));
            }
            Event::Evaluated { outcome, best, done, .. } => {
                if let Outcome::Invalid { reason, .. } = outcome {
                    *self.rejected.entry(*reason).or_default() += 1;
                }
                self.bar.set_position(done as u64);
                let rejected: Vec<String> =
                    self.rejected.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
                let best = best.map_or(String::new(), |(schedule, micros)| format!("best {schedule} {micros:.1} µs"));
                let rejected =
                    if rejected.is_empty() { String::new() } else { format!(", rejected {}", rejected.join(", ")) };
                let message = format!("{} left, {best}{rejected}", self.left(done));
                if self.bar.is_hidden() && self.said.elapsed() >= BETWEEN {
                    self.said = Instant::now();
                    let (what, all) = (self.what, self.bar.length().unwrap_or(0));
                    terminal::note(&format!("{what}: {done} of {all}, {message}"));
                }
                self.bar.set_message(message);
            }
            Event::Checking(count) => {
                self.note(&format!("running the best {count} by the clock, for their results"));
            }
            Event::RunOff(met) => {
                let met: Vec<String> = met.iter().map(ToString::to_string).collect();
                self.note(&format!("run-off: {}", met.join(" against ")));
            }
        }
    }

    /// The time that the rest will take at this pace, and no more than the budget.
    fn left(&self, done: usize) -> String {
        let so_far = self.begun.elapsed();
        let total = self.bar.length().unwrap_or(0) as f64;
        let rest = so_far.mul_f64((total - done as f64).max(0.0) / (done as f64).max(1.0));
        format!("{} s", rest.min(self.budget.saturating_sub(so_far)).as_secs())
    }

    /// A line above the bar, or plain where standard error is no terminal.
    fn note(&self, line: &str) {
        if self.bar.is_hidden() { terminal::note(line) } else { self.bar.println(line) }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
