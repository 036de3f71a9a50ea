//! `gdn2 completions`: what a shell needs to complete the command.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::error::CliError;
use crate::{Cli, Verdict, write};

/// Print the completions of this command for a shell
#[derive(clap::Args)]
#[command(after_help = "Examples:
  gdn2 completions bash > ~/.local/share/bash-completion/completions/gdn2
  gdn2 completions zsh > ~/.zfunc/_gdn2
  gdn2 completions fish > ~/.config/fish/completions/gdn2.fish")]
pub struct Args {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl Args {
    pub fn run(&self) -> Result<Verdict, CliError> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "gdn2", &mut text);
        write::stdout(&text)?;
        Ok(Verdict::Good)
    }
}
