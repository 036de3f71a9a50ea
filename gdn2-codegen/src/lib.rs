//! Lowers delta-rule Rules to CUDA: plans, schedules, the architecture table, kernels as text.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let gate = |grain| gdn2_dsl::Gate { grain, storage: gdn2_dsl::Dtype::F32 };
//! # let rule = gdn2_dsl::Rule {
//! #     name: "linear".into(), doc: String::new(), decay: gate(gdn2_dsl::Grain::None), bound: None,
//! #     erase: gate(gdn2_dsl::Grain::None), write: gdn2_dsl::Write::Own(gate(gdn2_dsl::Grain::None)),
//! #     key_dim: 64, value_dim: 64, dtype: gdn2_dsl::Dtype::Bf16, state: gdn2_dsl::StateLayout::Kv,
//! #     prologue: gdn2_dsl::Prologue::default(),
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
mod bind;
mod chunk;
mod decode;
pub mod edited;
mod forward;
mod gates;
pub mod gpu;
pub mod kernel;
pub mod named;
mod params;
pub mod pass;
pub mod plan;
mod print;
mod records;
mod render;
pub mod schedule;
mod shared;
mod torch_ref;

pub use bind::{bind, takes};
pub use plan::plan;
pub use print::part;
pub use records::committed;
#[cfg(feature = "json")]
pub use records::{lookup, record};
pub use render::render;
pub use schedule::space;
pub use shared::Region;
pub use torch_ref::torch_ref;
