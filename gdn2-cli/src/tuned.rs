//! Tuning records as `run` and `emit` use them: those the program carries, and those of the folder `tuning` in their places.

use std::collections::BTreeSet;
use std::path::Path;

use gdn2_codegen::abi::Extents;
use gdn2_codegen::arch::Arch;
use gdn2_codegen::gpu::{GPUS, gpu_of_file};
use gdn2_codegen::kernel::Pass;
use gdn2_codegen::lookup::{Choice, Question};
use gdn2_codegen::record::{Records, shipped};
use gdn2_dsl::Rule;
use gdn2_runtime::files::{self, Limit};

use crate::error::CliError;

/// The folder that `gdn2 tune` writes to unless told otherwise.
pub const FOLDER: &str = "tuning";

/// The records of a file; `None` where there is none. Damaged lines are reported and left out.
pub fn read(path: &Path) -> Result<Option<Records>, CliError> {
    let file = match files::read_regular(path, Limit::RECORDS) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(CliError::Read { path: path.to_owned(), source }),
    };
    let (records, damage) = Records::parse(file);
    for line in damage {
        eprintln!("warning: {}: {line}; what can be read stands", path.display());
    }
    Ok(Some(records))
}

/// The records of a GPU: those the program carries, and the folder's in their places, as a program that loads kernels has
/// them.
pub fn of(folder: &Path, gpu: &str) -> Result<Records, CliError> {
    let mut records = shipped(gpu);
    for own in read(&folder.join(format!("{gpu}.json")))?.unwrap_or_default().iter() {
        records.insert(own.clone());
    }
    Ok(records)
}

/// Every GPU with a name of its own or a file in a folder of records, sorted.
pub fn gpus(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let own = entries.filter_map(|entry| gpu_of_file(entry.file_name().to_str()?).map(str::to_owned));
    let all: BTreeSet<String> = GPUS.iter().map(|(gpu, _)| (*gpu).to_owned()).chain(own).collect();
    all.into_iter().collect()
}

/// The schedule of a call on a GPU, with the reason.
pub fn choose(
    folder: &Path,
    gpu: &str,
    rule: &Rule,
    pass: Pass,
    arch: Arch,
    extents: Option<Extents>,
    compiler: Option<&str>,
) -> Result<Choice, CliError> {
    Ok(of(folder, gpu)?.choose(&Question { rule, pass, arch, extents, compiler })?)
}
