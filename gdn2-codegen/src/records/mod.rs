//! Schedules that were chosen before: tuning records, which of them serves a call, the committed kernels.

pub mod committed;
pub mod lookup;
pub mod record;
