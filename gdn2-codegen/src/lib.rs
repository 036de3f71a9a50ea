//! Lowers delta-rule Rules to CUDA: plans, schedules, the architecture table, kernels as text.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let gate = |grain| gdn2_dsl::Gate { grain, storage: gdn2_dsl::Dtype::F32 };
//! # let rule = gdn2_dsl::Rule {
//! #     name: "linear".into(), doc: String::new(), decay: gate(gdn2_dsl::Grain::None), bound: None,
//! #     erase: gate(gdn2_dsl::Grain::None), write: gdn2_dsl::Write::Own(gate(gdn2_dsl::Grain::None)),
//! #     key_dim: 64, value_dim: 64, dtype: gdn2_dsl::Dtype::Bf16, state: gdn2_dsl::StateLayout::Kv,
//! # };
//! use gdn2_codegen::{arch::Arch, kernel::Pass, schedule::Schedule};
//! let schedule = Schedule::default_for(&rule, Pass::Forward, Arch::Sm90a)?;
//! let kernel = gdn2_codegen::bind(&rule, Pass::Forward, schedule, Arch::Sm90a)?;   // may refuse
//! let source = gdn2_codegen::render(&kernel);                                      // cannot
//! assert!(source.text.contains("linear_forward"));
//! # Ok(())
//! # }
//! ```

pub mod abi;
pub mod arch;
mod backward;
mod backward_view;
pub mod committed;
mod decode;
mod decode_view;
mod forward;
mod forward_copies;
mod forward_view;
pub mod kernel;
pub mod lookup;
mod meanings;
pub mod plan;
pub mod record;
mod render;
pub mod schedule;
mod segments;
mod segments_view;
mod signature;
pub mod space;
mod torch_ref;
mod warpgroup;
mod warpgroup_view;

pub use kernel::bind;
pub use plan::plan;
pub use render::render;
pub use torch_ref::torch_ref;
