//! Schedules that were chosen before: tuning records, which of them serves a call, the committed kernels.

pub mod committed;
mod division;
pub mod lookup;
pub mod record;
