//! The compiler as the command line asks for it.

use std::path::{Path, PathBuf};

use gdn2_codegen::edited::Edited;
use gdn2_runtime::artifact::Compiler;
use gdn2_runtime::files::Limit;
use gdn2_runtime::toolchain::Search;

use crate::error::CliError;
use crate::{kernels, read};

/// A hand-edited kernel in the place of the generated one.
#[derive(Clone, Debug, clap::Args)]
pub struct Source {
    /// CUDA to use in the place of the text that is generated for the kernel: what `gdn2 emit --emit cuda` printed, edited.
    /// Its entries, parameters and schedule must be the kernel's; of a training step it may be either half
    #[arg(long, value_name = "KERNEL.cu")]
    source: Option<PathBuf>,
}

impl Source {
    /// Whether there is one.
    pub fn given(&self) -> bool {
        self.source.is_some()
    }

    /// The compiler that uses it.
    pub fn of(&self, compiler: Compiler) -> Result<Compiler, CliError> {
        let Some(path) = &self.source else { return Ok(compiler) };
        let text = String::from_utf8(read::bytes(path, Limit::SOURCE)?).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            CliError::Usage(format!("{}: no CUDA text: byte {at} is not UTF-8", path.display()))
        })?;
        Ok(compiler.with_edited(Edited::new(path.display().to_string(), text)))
    }
}

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
