//! `gdn2 tune calibrate`: a GPU's constants refitted on times that it took.

use std::path::Path;

use gdn2_tune::log::Contents;
use gdn2_tune::model::{Constants, calibrate, pairs};

use crate::error::CliError;
use crate::{Verdict, write};

pub(super) fn refit(measured: &Path, counted: &Path, out: Option<&Path>) -> Result<Verdict, CliError> {
    let read = |path: &Path| Contents::read(path).map_err(|source| CliError::Read { path: path.to_owned(), source });
    let (timed, counts) = (read(measured)?, read(counted)?);
    let pairs = pairs(&timed, &counts);
    let Some(gpu) = pairs.first().map(|pair| pair.gpu.clone()) else {
        return Err(CliError::Usage(format!(
            "{} holds no candidate that was both measured and counted: sweep it with gdn2 tune --device cuda:0, and where \
             it was counted by a sweep of its own with --device model, name that log by --counted",
            measured.display()
        )));
    };
    let folder = measured.parent().unwrap_or(Path::new("."));
    let fitted = calibrate(&pairs, &Constants::of(&gpu, Some(folder))?)?;
    let mut json = serde_json::to_vec_pretty(&fitted.constants)?;
    json.push(b'\n');
    let out = out.map_or_else(|| folder.join("constants").join(format!("{gpu}.json")), Path::to_owned);
    if let Some(parent) = out.parent() {
        std::fs::create_dir_all(parent).map_err(|source| CliError::Write { path: parent.to_owned(), source })?;
    }
    write::file(&out, &json)?;
    if !pairs.iter().all(|pair| pair.measured_by_gpu) {
        eprintln!(
            "warning: no GPU took these times, the virtual machine counted them: constants fit for a rehearsal only"
        );
    }
    let text = format!(
        "{} candidates: median error {:.1} % before, {:.1} % after; rank correlation {:.3}\nconstants: {}\n",
        fitted.pairs,
        100.0 * fitted.error_before,
        100.0 * fitted.error_after,
        fitted.rank_correlation,
        out.display()
    );
    write::stdout(text.as_bytes())?;
    Ok(Verdict::Good)
}
