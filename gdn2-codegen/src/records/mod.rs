//! Schedules that were chosen before: tuning records, which of them serves a call, the committed kernels.

pub mod committed;
#[cfg(feature = "json")]
mod division;
#[cfg(feature = "json")]
pub mod lookup;
#[cfg(feature = "json")]
pub mod record;
