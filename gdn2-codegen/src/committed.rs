//! The committed kernels: which there are, what each file holds, and how to trust one.
//!
//! A file is a stamp line followed by text. The stamp carries the hash of the CUDA text that the file is, or was
//! compiled from, and for PTX the hash of the PTX itself, so that neither can change without the other being noticed.

use crate::arch::Arch;
use crate::kernel::{self, CudaSource, Illegal, Kernel, Pass};
use crate::render::render;
use crate::schedule::{Schedule, ScheduleError};
use gdn2_dsl::Rule;

/// Passes with a committed kernel.
pub const PASSES: [Pass; 4] = [Pass::Forward, Pass::ForwardForBackward, Pass::Backward, Pass::Decode];
/// Passes whose PTX is committed too: backward's is ten times as long.
pub const PTX_PASSES: [Pass; 2] = [Pass::Forward, Pass::Decode];
/// Architectures with a committed kernel: PTX for sm_80 also loads on every later GPU, PTX for sm_90a on Hopper alone.
pub const ARCHES: [Arch; 2] = [Arch::Sm80, Arch::Sm90a];
/// Rules whose PTX is committed too, so that the project runs where NVRTC cannot be had.
pub const WITH_PTX: [&str; 3] = ["gdn", "kda", "gdn2"];

/// A kernel of the committed set.
pub struct Committed {
    /// The kernel, bound in its default schedule.
    pub kernel: Kernel,
    /// Its text.
    pub source: CudaSource,
    /// File name without extension.
    pub stem: String,
}

/// Why a rule has no committed kernel for a pass.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommittedError {
    /// The pass has no generator.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// No schedule of the rule fits the architecture.
    #[error(transparent)]
    Illegal(#[from] Illegal),
}

/// The committed kernels of one rule.
///
/// # Errors
/// A pass that cannot be generated for one of the architectures.
pub fn committed(rule: &Rule) -> Result<Vec<Committed>, CommittedError> {
    let pairs = PASSES.into_iter().flat_map(|pass| ARCHES.map(|arch| (pass, arch)));
    pairs.map(|(pass, arch)| Committed::new(rule, pass, arch)).collect()
}

/// File name, without extension, of a rule's committed kernel.
pub fn stem(rule: &Rule, pass: Pass, arch: Arch) -> String {
    format!("{}_{pass}_{arch}", rule.name)
}

impl Committed {
    /// A pass of a rule in its default schedule.
    ///
    /// # Errors
    /// A pass that cannot be generated for the architecture.
    pub fn new(rule: &Rule, pass: Pass, arch: Arch) -> Result<Committed, CommittedError> {
        let kernel = kernel::bind(rule, pass, Schedule::default_for(rule, pass, arch)?, arch)?;
        let source = render(&kernel);
        Ok(Committed { stem: stem(rule, pass, arch), kernel, source })
    }

    /// What the `.cu` file holds.
    pub fn cuda_file(&self) -> String {
        format!("// source {}\n{}", self.source.hash, self.source.text)
    }

    /// What the `.ptx` file holds.
    pub fn ptx_file(&self, ptx: &str, compiler: &str) -> String {
        let own = blake3::hash(ptx.as_bytes()).to_hex();
        format!("// source {}, ptx {own}, NVRTC {compiler}\n{ptx}", self.source.hash)
    }
}

/// The parts of a `.ptx` file whose text is the one its stamp names.
pub struct StampedPtx<'a> {
    /// Hash of the CUDA text.
    pub source: &'a str,
    /// Release of the compiler.
    pub compiler: &'a str,
    /// The PTX.
    pub ptx: &'a str,
}

impl<'a> StampedPtx<'a> {
    /// Takes a file apart; `None` when it has no stamp or was changed after it was stamped.
    pub fn read(file: &'a str) -> Option<StampedPtx<'a>> {
        let (stamp, ptx) = file.split_once('\n')?;
        let (source, rest) = stamp.strip_prefix("// source ")?.split_once(", ptx ")?;
        let (own, compiler) = rest.split_once(", NVRTC ")?;
        (blake3::hash(ptx.as_bytes()).to_hex().as_str() == own).then_some(StampedPtx { source, compiler, ptx })
    }
}
