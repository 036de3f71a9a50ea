//! The committed kernels: which there are, what each file holds, and how to trust one.
//!
//! A file is a stamp line followed by text. The stamp carries the hash of the CUDA text that the file is, or was
//! compiled from, and for PTX the hash of the PTX itself, so that neither can change without the other being noticed.

use std::path::Path;

use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::{CudaSource, Kernel, Pass};
use gdn2_codegen::schedule::Schedule;
use gdn2_dsl::Rule;
use gdn2_runtime::artifact::Compiler;

use crate::error::CliError;

/// Passes with a committed kernel.
pub const PASSES: [Pass; 2] = [Pass::Forward, Pass::Decode];
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

/// The committed kernels of one rule.
pub fn committed(rule: &Rule) -> Result<Vec<Committed>, CliError> {
    let mut kernels = Vec::new();
    for pass in PASSES {
        for arch in ARCHES {
            let schedule = Schedule::default_for(rule, pass, arch)?;
            let kernel = gdn2_codegen::bind(rule, pass, schedule, arch)?;
            let source = gdn2_codegen::render(&kernel);
            kernels.push(Committed { stem: format!("{}_{pass}_{arch}", rule.name), kernel, source });
        }
    }
    Ok(kernels)
}

impl Committed {
    /// What the `.cu` file holds.
    pub fn cuda_file(&self) -> String {
        format!("// source {}, {}\n{}", self.source.hash, self.kernel.schedule, self.source.text)
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

/// Hands the committed PTX in `folder` to the compiler, for use where NVRTC is missing. A folder that is not there
/// holds none.
pub fn offer_prebuilt(compiler: &mut Compiler, folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let arch = path.file_stem().and_then(|stem| {
            let stem = stem.to_str()?;
            Arch::ALL.into_iter().find(|arch| stem.ends_with(arch.target()))
        });
        let is_ptx = path.extension().is_some_and(|extension| extension == "ptx");
        if let (Some(arch), true, Ok(text)) = (arch, is_ptx, std::fs::read_to_string(&path))
            && let Some(stamped) = StampedPtx::read(&text)
        {
            compiler.add_prebuilt(stamped.source, arch, stamped.ptx.to_owned());
        }
    }
}
