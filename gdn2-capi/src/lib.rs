//! The C interface, `include/gdn2.h`: the same calls as the generated Rust functions, for rules known only at run time.

mod abi;
mod calls;
mod describe;
mod double;
mod on_stream;
mod pool;
mod raw;

pub use abi::{Call, Gradients, Sizes, Tensor};
pub use calls::{
    Kernels, gdn2_backward, gdn2_decode, gdn2_explain, gdn2_forward, gdn2_forward_scratch, gdn2_free, gdn2_last_error,
    gdn2_load, gdn2_seen_shapes, gdn2_training_scratch, gdn2_warmup, gdn2_watch_shapes,
};
pub use describe::{RuleInfo, gdn2_named, gdn2_rule_of, gdn2_version};
pub use on_stream::{gdn2_backward_on, gdn2_decode_on, gdn2_forward_for_backward_on, gdn2_forward_on};
pub use raw::{
    gdn2_backward_raw, gdn2_decode_raw, gdn2_forward_for_backward_raw, gdn2_forward_raw, gdn2_forward_with_scratch_raw,
};
