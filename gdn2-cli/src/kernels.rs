//! The committed PTX of a folder, offered to the compiler.

use std::path::Path;

use gdn2_codegen::arch::Arch;
use gdn2_codegen::committed::StampedPtx;
use gdn2_runtime::artifact::Compiler;
use gdn2_runtime::files::{self, Limit};

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
        if let (Some(arch), true) = (arch, is_ptx)
            && let Ok(Ok(text)) = files::read_regular(&path, Limit::KERNEL).map(String::from_utf8)
            && let Some(stamped) = StampedPtx::read(&text)
        {
            compiler.add_prebuilt(stamped.source, arch, stamped.ptx.to_owned());
        }
    }
}
