//! The GPU that is tuned for or predicted: a name of the list, one with constants in the folder of records, or a file of
//! constants.

use std::path::{Path, PathBuf};

use gdn2_codegen::arch::Arch;
use gdn2_codegen::gpu::GPUS;
use gdn2_runtime::files::{self, Limit};
use gdn2_tune::model::{Constants, ConstantsError};

use crate::error::CliError;
use crate::write;

/// What `--target` names.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name among records.
    pub gpu: String,
    /// Its architecture.
    pub arch: Arch,
    /// What the clock knows of it; a GPU that is at hand can do without.
    pub constants: Option<Constants>,
    /// The file of constants that the command line named.
    file: Option<PathBuf>,
}

impl Target {
    /// What `--target` says, beside the constants of a folder of records.
    pub fn named(text: &str, records: &Path) -> Result<Target, CliError> {
        let path = Path::new(text);
        if path.extension().is_some_and(|extension| extension == "json") {
            return Target::of_file(path);
        }
        let known = GPUS.iter().find(|(gpu, _)| *gpu == text).map(|(_, arch)| *arch);
        let constants = match Constants::of(text, Some(records)) {
            Ok(constants) => constants,
            Err(ConstantsError::UnknownGpu { .. }) => {
                let known = GPUS.map(|(gpu, _)| gpu).join(", ");
                return Err(CliError::Usage(format!(
                    "--target {text}: use one of {known}, or a file of constants such as my-gpu.json"
                )));
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Target {
            gpu: text.to_owned(),
            arch: known.unwrap_or(constants.arch),
            constants: Some(constants),
            file: None,
        })
    }

    /// A GPU that only a file tells of.
    fn of_file(path: &Path) -> Result<Target, CliError> {
        let text = files::read_regular(path, Limit::RECORDS)
            .map_err(|source| CliError::Read { path: path.to_owned(), source })?;
        let constants = Constants::parse(&path.display().to_string(), text)?;
        let gpu = constants.gpu.clone();
        let plain = !gpu.is_empty() && gpu.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        let refuse = |why: &str| CliError::Usage(format!("{}: `gpu` is `{gpu}`: {why}", path.display()));
        if !plain {
            return Err(refuse("name it in small letters, digits and dashes; its records go to a file of that name"));
        }
        if GPUS.iter().any(|(known, _)| *known == gpu) {
            return Err(refuse("that is a GPU of the list: give yours another name, or leave --target at the list's"));
        }
        Ok(Target { gpu, arch: constants.arch, constants: Some(constants), file: Some(path.to_owned()) })
    }

    /// A GPU that is at hand, under the name of its records.
    pub fn at_hand(gpu: String, arch: Arch, records: &Path) -> Result<Target, CliError> {
        let constants = match Constants::of(&gpu, Some(records)) {
            Ok(constants) => Some(constants),
            // It can be measured without a model of it.
            Err(ConstantsError::UnknownGpu { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Target { gpu, arch, constants, file: None })
    }

    /// Its constants, for what cannot do without.
    pub fn constants(&self) -> Result<&Constants, CliError> {
        self.constants.as_ref().ok_or_else(|| {
            CliError::Usage(format!("no constants for GPU `{0}`: add constants/{0}.json to the records", self.gpu))
        })
    }

    /// Puts constants that only a file holds where workers, reports and later commands find them: `constants/GPU.json` in
    /// the folder of records.
    pub fn keep(&self, records: &Path) -> Result<(), CliError> {
        let (Some(_), Some(constants)) = (&self.file, &self.constants) else { return Ok(()) };
        let place = records.join("constants").join(format!("{}.json", self.gpu));
        if let Ok(there) = files::read_regular(&place, Limit::RECORDS) {
            return match Constants::parse(&self.gpu, there)? == *constants {
                true => Ok(()),
                false => Err(CliError::Usage(format!(
                    "{} holds other constants of `{}`: remove it, or use them with --target {}",
                    place.display(),
                    self.gpu,
                    self.gpu
                ))),
            };
        }
        if let Some(folder) = place.parent() {
            std::fs::create_dir_all(folder).map_err(|source| CliError::Write { path: folder.to_owned(), source })?;
        }
        let mut json = serde_json::to_vec_pretty(constants)?;
        json.push(b'\n');
        write::file(&place, &json)
    }
}
