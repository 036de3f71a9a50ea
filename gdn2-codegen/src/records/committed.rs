//! The committed kernels: which there are, what each file holds, and how to trust one.
//!
//! A file is a stamp line followed by text. The stamp carries the hash of the CUDA text that the file is, or was
//! compiled from, and for PTX the hash of the PTX itself, so that neither can change without the other being noticed.

use crate::arch::Arch;
use crate::bind::bind;
use crate::kernel::{CudaSource, Illegal, Kernel};
use crate::pass::Pass;
use crate::render::render;
use crate::schedule::{Schedule, ScheduleError};
use gdn2_dsl::Rule;

/// Passes with a committed kernel.
pub const PASSES: [Pass; 4] = [Pass::Forward, Pass::ForwardForBackward, Pass::Backward, Pass::Decode];
/// Rules whose PTX is committed too, so that the project runs where NVRTC cannot be had.
pub const WITH_PTX: [&str; 6] = ["gdn", "kda", "gdn2", "gdn_layer", "kda_layer", "gdn2_layer"];

/// Architectures with committed kernels: PTX for sm_80 also loads on every later GPU, PTX for sm_90a on Hopper alone.
pub const ARCHES: [Arch; 2] = [Arch::Sm80, Arch::Sm90a];

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
    let pairs = PASSES.into_iter().flat_map(|pass| ARCHES.map(move |arch| (pass, arch)));
    pairs.map(|(pass, arch)| Committed::new(rule, pass, arch)).collect()
}

/// File name, without extension, of a rule's committed kernel.
pub fn stem(rule: &Rule, pass: Pass, arch: Arch) -> String {
    format!("{}_{pass}_{arch}", rule.name)
}

/// File name, without extension, of a kernel in a tuned schedule.
pub fn tuned_stem(rule: &Rule, pass: Pass, arch: Arch, schedule: Schedule) -> String {
    let numbers = schedule.to_string().replace('=', "").replace(',', "-");
    format!("{}_{numbers}", stem(rule, pass, arch))
}

impl Committed {
    /// A pass of a rule in a tuned schedule.
    ///
    /// # Errors
    /// A schedule that is not legal for the rule there.
    pub fn tuned(rule: &Rule, pass: Pass, arch: Arch, schedule: Schedule) -> Result<Committed, CommittedError> {
        let kernel = bind(rule, pass, schedule, arch)?;
        let source = render(&kernel);
        Ok(Committed { stem: tuned_stem(rule, pass, arch, schedule), kernel, source })
    }

    /// What the `.cubin` file of a tuned kernel holds.
    pub fn cubin_file(&self, cubin: &[u8], compiler: &str) -> Vec<u8> {
        let own = blake3::hash(cubin).to_hex();
        let mut file = format!("// source {}, cubin {own}, NVRTC {compiler}\n", self.source.hash).into_bytes();
        file.extend(cubin);
        file
    }

    /// A pass of a rule in its default schedule.
    ///
    /// # Errors
    /// A pass that cannot be generated for the architecture.
    pub fn new(rule: &Rule, pass: Pass, arch: Arch) -> Result<Committed, CommittedError> {
        let kernel = bind(rule, pass, Schedule::default_for(rule, pass, arch)?, arch)?;
        let source = render(&kernel);
        Ok(Committed { stem: stem(rule, pass, arch), kernel, source })
    }

    /// What the `.cu` file holds.
    pub fn cuda_file(&self) -> String {
        format!("// source {}\n{}", self.source.hash, self.source.text)
    }

    /// What the `.ptx` file holds: the PTX without what only ties it to lines of its source, half of it.
    pub fn ptx_file(&self, ptx: &str, compiler: &str) -> String {
        let ptx = without_lines(ptx);
        let own = blake3::hash(ptx.as_bytes()).to_hex();
        format!("// source {}, ptx {own}, NVRTC {compiler}\n{ptx}", self.source.hash)
    }
}

/// PTX without line numbers, their tables, comments and empty lines. The code is the same.
fn without_lines(ptx: &str) -> String {
    let mut kept = String::with_capacity(ptx.len() / 2);
    let mut in_table = false;
    for line in ptx.lines() {
        let word = line.split_whitespace().next().unwrap_or("//");
        in_table |= word == ".section" && line.contains(".debug");
        if !in_table && ![".loc", ".file"].contains(&word) && !word.starts_with("//") {
            kept.push_str(line);
            kept.push('\n');
        }
        in_table &= word != "}";
    }
    kept
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

/// The parts of a `.cubin` file whose machine code is what its stamp names.
pub struct StampedCubin<'a> {
    /// Hash of the CUDA text.
    pub source: &'a str,
    /// Release of the compiler.
    pub compiler: &'a str,
    /// The machine code.
    pub cubin: &'a [u8],
}

impl<'a> StampedCubin<'a> {
    /// Takes a file apart; `None` when it has no stamp or was changed after it was stamped.
    pub fn read(file: &'a [u8]) -> Option<StampedCubin<'a>> {
        let end = file.iter().position(|byte| *byte == b'\n')?;
        let (stamp, cubin) = (std::str::from_utf8(file.get(..end)?).ok()?, file.get(end + 1..)?);
        let (source, rest) = stamp.strip_prefix("// source ")?.split_once(", cubin ")?;
        let (own, compiler) = rest.split_once(", NVRTC ")?;
        (blake3::hash(cubin).to_hex().as_str() == own).then_some(StampedCubin { source, compiler, cubin })
    }
}

#[cfg(test)]
mod tests {
    use super::without_lines;

    #[test]
    fn what_ties_ptx_to_its_source_goes_and_the_code_stays() {
        let ptx = "//\n// made by\n.version 9.0\n\n.entry f()\n{\n\t.loc\t1 3 0\n$L__tmp1:\n\tret; // back\n}\n\
                   \t.file\t1 \"/kernel.cu\"\n\t.section\t.debug_str\n\t{\n$L__info_string0:\n.b8 1,2\n\n\t}\n.visible .entry g()\n";
        let kept = ".version 9.0\n.entry f()\n{\n$L__tmp1:\n\tret; // back\n}\n.visible .entry g()\n";
        assert_eq!(without_lines(ptx), kept);
    }
}
