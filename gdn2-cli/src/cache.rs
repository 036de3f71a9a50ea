//! `gdn2 cache`: what the project keeps between runs, and how much of it.

use gdn2_runtime::cache::{self, Part};

use crate::error::CliError;
use crate::{Verdict, write};

/// Say what is kept between runs, and keep less of it
///
/// The cache is GDN2_CACHE, or gdn2 in the user's cache folder: compiled kernels, counts of the virtual machine, and the
/// compiler that `gdn2 toolchain install` fetched. All of it is made again when it is needed.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  gdn2 cache size\n  gdn2 cache limit 500M\n  gdn2 cache clean --toolchain")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Files and bytes of each part
    Size {
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Remove compiled kernels and counts
    Clean {
        /// The fetched compiler too
        #[arg(long)]
        toolchain: bool,
    },
    /// Remove the kernels and counts that were used longest ago, until no more than this is left
    Limit {
        /// Bytes, with K, M or G for powers of 1024
        #[arg(value_name = "BYTES", value_parser = bytes)]
        bytes: u64,
    },
}

fn bytes(text: &str) -> Result<u64, String> {
    let (number, shift) = match text.strip_suffix(['K', 'k']) {
        Some(number) => (number, 10),
        None => match text.strip_suffix(['M', 'm']) {
            Some(number) => (number, 20),
            None => text.strip_suffix(['G', 'g']).map_or((text, 0), |number| (number, 30)),
        },
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    bytes.ok_or_else(|| format!("`{text}` is no number of bytes, such as 500M or 2G"))
}

impl Args {
    pub fn run(&self) -> Result<Verdict, CliError> {
        let folder = cache::directory(None).map_err(|error| CliError::Usage(error.to_string()))?;
        let io = |source| CliError::Write { path: folder.clone(), source };
        let text = match self.action {
            Action::Size { json } => {
                let parts = Part::ALL.map(|part| (part, cache::size(&folder, part)));
                if json {
                    let parts = parts.map(|(part, size)| {
                        serde_json::json!({ "part": part.name(), "files": size.files, "bytes": size.bytes })
                    });
                    format!("{:#}\n", serde_json::json!({ "folder": folder.display().to_string(), "parts": parts }))
                } else {
                    let row = |(part, size): (Part, cache::Size)| {
                        format!("{:<10}{:>7} files{:>15} bytes\n", part.name(), size.files, size.bytes)
                    };
                    format!("{}\n{}", folder.display(), parts.map(row).concat())
                }
            }
            Action::Clean { toolchain } => {
                let parts: &[Part] = if toolchain { &Part::ALL } else { &Part::MADE };
                let freed: u64 = parts.iter().map(|part| cache::size(&folder, *part).bytes).sum();
                parts.iter().try_for_each(|part| cache::clean(&folder, *part)).map_err(io)?;
                format!("{freed} bytes removed\n")
            }
            Action::Limit { bytes } => {
                let freed = cache::trim(&folder, bytes).map_err(io)?;
                format!("{freed} bytes removed\n")
            }
        };
        write::stdout(text.as_bytes())?;
        Ok(Verdict::Good)
    }
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn bytes_have_units() {
        assert_eq!(["0", "17", "3K", "2m", "1G"].map(bytes), [Ok(0), Ok(17), Ok(3 << 10), Ok(2 << 20), Ok(1 << 30)]);
        for text in ["", "M", "-1", "1.5G", "20000000000G", "1GB"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
