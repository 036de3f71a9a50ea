//! `gdn2 toolchain`: the compiler that kernels need, without a CUDA installation.

use crate::error::CliError;
use crate::{Verdict, terminal, write};

/// Fetch the CUDA compiler library that kernels are compiled with
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Fetch the pinned NVRTC and nvdisasm with pip into the project's cache
    ///
    /// The cache is GDN2_CACHE, or gdn2 in the user's cache folder. What is there already is left alone.
    Install,
}

impl Args {
    pub fn run(&self) -> Result<Verdict, CliError> {
        let Action::Install = self.action;
        let installed = gdn2_runtime::toolchain::install(None, &mut terminal::note)?;
        let text = format!("NVRTC     {}\nnvdisasm  {}\n", installed.nvrtc.display(), installed.nvdisasm.display());
        write::stdout(text.as_bytes())?;
        Ok(Verdict::Good)
    }
}
