//! The minutes there are, and the moment by which a part must be over.

use std::time::{Duration, Instant};

/// A deadline, and when the whole check began.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    total: Duration,
    end: Instant,
}

impl Clock {
    /// A clock that starts now and has this many minutes.
    pub fn start(minutes: f64) -> Clock {
        let (start, total) = (Instant::now(), Duration::from_secs_f64(60.0 * minutes));
        Clock { start, total, end: start + total }
    }

    /// The same clock, over when this share of all minutes has passed.
    pub fn until(self, share: f64) -> Clock {
        Clock { end: self.start + self.total.mul_f64(share), ..self }
    }

    /// A clock that gives a part of the time left: one of `of` equal ones.
    pub fn share(self, of: usize) -> Clock {
        Clock { end: Instant::now() + self.left().div_f64(of.max(1) as f64), ..self }
    }

    /// Until the deadline.
    pub fn left(self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Since the start.
    pub fn seconds(self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// `12 s of 180 s`.
    pub fn spent(self) -> String {
        format!("{:.0} s of {:.0} s", self.seconds(), self.total.as_secs_f64())
    }
}
