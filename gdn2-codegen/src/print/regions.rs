//! What the regions of a kernel's shared memory hold, in words.

/// The comment beside a region's offset.
pub(crate) fn region_meaning(region: &str) -> &'static str {
    match region {
        "row" => "erase gate, for L",
        "full" => "barriers: a stage is copied",
        "ready" => "barriers: a stage's factors are made",
        "empty" => "barriers: a stage is read",
        "values" => "barrier: a chunk's values are copied",
        "values_read" => "barrier: a chunk's values are read",
        "q" => "queries, then scaled queries",
        "k" => "keys, then scaled keys",
        "b" => "channel-wise erase gate",
        "g" => "channel-wise decay as stored",
        "sums" => "prefix sums of the channel-wise decay",
        "v" => "values, a slice per warp",
        "w" => "channel-wise write gate, a slice per warp",
        "e" => "left operand of the erase term",
        "p" => "P",
        "m" => "M",
        "l" => "L, then the inverses of its diagonal blocks",
        "gamma" => "prefix sums of the decay",
        "decay_in" => "decay from the chunk's start through each token",
        "decay_out" => "decay after each token to the chunk's end",
        "beta" => "erase gate",
        "erase_in" => "erase gate times decay_in",
        "write" => "write gate",
        "passed_keys" => "scaled keys that warps pass on, a step and the next",
        "passed_decays" => "decays that warps pass on, a step and the next",
        "totals" => "sums of the decay over segments of a chunk",
        "state_decay" => "decay of each channel over the chunk",
        _ => "scratch",
    }
}
