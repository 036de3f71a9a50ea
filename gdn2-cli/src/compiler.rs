//! The compiler as the command line asks for it.

use std::path::{Path, PathBuf};

use gdn2_runtime::artifact::Compiler;
use gdn2_runtime::toolchain::Search;

use crate::kernels;

/// Where NVRTC is.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// NVRTC's library or its folder, instead of searching: GDN2_NVRTC, CUDA toolkits, Python wheels, the cache
    #[arg(long, value_name = "PATH")]
    nvrtc: Option<PathBuf>,
}

impl Flags {
    /// The search these flags ask for.
    pub fn search(&self) -> Search {
        Search::from_environment(self.nvrtc.clone(), None)
    }

    /// The same flags for another process of this program.
    pub fn argument(&self) -> Vec<std::ffi::OsString> {
        self.nvrtc.iter().flat_map(|path| ["--nvrtc".into(), path.into()]).collect()
    }

    /// A compiler that knows nothing but NVRTC and the cache.
    pub fn bare(&self) -> Compiler {
        Compiler::new(self.search())
    }

    /// A compiler that falls back to the committed PTX in a folder.
    pub fn compiler(&self, kernels: &Path) -> Compiler {
        let mut compiler = self.bare();
        kernels::offer_prebuilt(&mut compiler, kernels);
        compiler
    }
}
