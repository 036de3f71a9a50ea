//! What sizes that come from outside may be: stated here, checked where a call's sizes or a draw are first seen.

/// The most tokens of a call, B·T: kernels count rows in 32 bits.
pub const MOST_TOKENS: usize = i32::MAX as usize;
/// The most value heads of a call.
pub const MOST_HEADS: usize = 1 << 20;
/// The most numbers that the inputs and states of a call hold together: 32 GiB of them in f32.
pub const MOST_NUMBERS: usize = 1 << 33;
/// The largest erase gate that is drawn: beyond 2 the recurrence grows without bound.
pub const LARGEST_ERASE: f64 = 2.0;
