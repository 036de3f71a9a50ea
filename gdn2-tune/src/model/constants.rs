//! Per-GPU constants as committed data: `tuning/constants/<gpu>.json`, every value with its unit and its source.

use gdn2_codegen::arch::Arch;
use gdn2_runtime::files::{self, Limit};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// A constant as the file has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sourced {
    /// The value.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// Where it comes from.
    pub source: String,
}

/// One GPU's file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Constants {
    /// The GPU's name in `tuning/`.
    pub gpu: String,
    /// Its architecture.
    pub arch: Arch,
    /// The values by name.
    pub values: BTreeMap<String, Sourced>,
}

/// A GPU that the clock knows nothing, or not enough, about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConstantsError {
    /// A GPU without constants.
    #[error("no constants for GPU `{gpu}`: use {known}, or add tuning/constants/{gpu}.json")]
    UnknownGpu {
        /// What was asked for.
        gpu: String,
        /// The GPUs there are.
        known: String,
    },
    /// A file that is no constants file.
    #[error("constants of {gpu}: {source}")]
    Damaged {
        /// Whose.
        gpu: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A constant that predictions need and the file lacks.
    #[error("constants of {gpu}: `{name}` is missing or not a number above 0")]
    Missing {
        /// Whose.
        gpu: String,
        /// Which.
        name: String,
    },
}

const SHIPPED: [(&str, &str); 8] = [
    ("h200", include_str!("../../tuning/constants/h200.json")),
    ("h100", include_str!("../../tuning/constants/h100.json")),
    ("a100", include_str!("../../tuning/constants/a100.json")),
    ("l40s", include_str!("../../tuning/constants/l40s.json")),
    ("h20", include_str!("../../tuning/constants/h20.json")),
    ("a40", include_str!("../../tuning/constants/a40.json")),
    ("rtx5090", include_str!("../../tuning/constants/rtx5090.json")),
    ("rtx4090", include_str!("../../tuning/constants/rtx4090.json")),
];

/// Constants that every file has.
const NAMES: [&str; 14] = [
    "clock",
    "convert_lanes",
    "dram_bytes",
    "float_lanes",
    "integer_lanes",
    "issue",
    "l2_bytes",
    "launch",
    "mma",
    "shared_wavefronts",
    "shuffle_lanes",
    "sms",
    "special_lanes",
    "wgmma",
];

impl Constants {
    /// The constants shipped for a GPU.
    pub fn shipped(gpu: &str) -> Result<Constants, ConstantsError> {
        let Some((_, text)) = SHIPPED.iter().find(|(name, _)| *name == gpu) else {
            let known = SHIPPED.map(|(name, _)| name).join(", ");
            return Err(ConstantsError::UnknownGpu { gpu: gpu.to_owned(), known });
        };
        Constants::parse(gpu, text)
    }

    /// The constants for a GPU: those of `constants/<gpu>.json` in a folder of records, where `gdn2 tune calibrate`
    /// leaves them, else those shipped.
    pub fn of(gpu: &str, records: Option<&Path>) -> Result<Constants, ConstantsError> {
        let text = records
            .and_then(|folder| files::read_regular(&folder.join(format!("constants/{gpu}.json")), Limit::RECORDS).ok());
        match text {
            Some(text) => Constants::parse(gpu, text),
            None => Constants::shipped(gpu),
        }
    }

    /// Reads a constants file; afterwards every constant that predictions ask for is there and above 0.
    pub fn parse(gpu: &str, text: impl AsRef<[u8]>) -> Result<Constants, ConstantsError> {
        let constants: Constants = serde_json::from_slice(text.as_ref())
            .map_err(|source| ConstantsError::Damaged { gpu: gpu.to_owned(), source })?;
        for name in NAMES {
            if constants.values.get(name).is_none_or(|constant| constant.value.is_nan() || constant.value <= 0.0) {
                return Err(ConstantsError::Missing { gpu: gpu.to_owned(), name: name.to_owned() });
            }
        }
        Ok(constants)
    }

    /// A constant; those of [`NAMES`] are there.
    pub(crate) fn get(&self, name: &str) -> f64 {
        self.refitted(name).unwrap_or(f64::NAN)
    }

    /// A constant, where the file has it: a refit adds what published times say elsewhere, `again`, `wgmma_surplus`, `band`
    /// and `paired`.
    pub(crate) fn refitted(&self, name: &str) -> Option<f64> {
        self.values.get(name).map(|constant| constant.value)
    }

    /// Clock, MHz.
    pub fn clock_mhz(&self) -> u32 {
        self.get("clock").round() as u32
    }

    /// Streaming multiprocessors.
    pub fn multiprocessors(&self) -> u32 {
        self.get("sms").round() as u32
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_shipped_gpu_has_every_constant_with_a_source() {
        for (gpu, _) in SHIPPED {
            let constants = Constants::shipped(gpu).unwrap();
            assert_eq!(constants.gpu, gpu);
            let known = gdn2_codegen::gpu::KNOWN.iter().find(|known| known.gpu == gpu).unwrap();
            assert_eq!(
                (known.arch, known.multiprocessors, known.clock_mhz),
                (constants.arch, constants.multiprocessors(), constants.clock_mhz()),
                "{gpu}: its driver and its constants tell of two GPUs"
            );
            let attained = constants.get("dram_bytes") / f64::from(known.gigabytes);
            assert!((0.85..=0.95).contains(&attained), "{gpu}: a copy attains {attained} of the data sheet");
            assert!(constants.values.values().all(|constant| !constant.source.is_empty()), "{gpu}");
            assert_eq!(constants.values.len(), NAMES.len(), "{gpu}: a constant nobody reads");
        }
        let mut halved = Constants::shipped("a100").unwrap();
        halved.values.remove("issue");
        let error = Constants::parse("a100", serde_json::to_string(&halved).unwrap()).unwrap_err();
        assert!(error.to_string().contains("`issue`"), "{error}");
    }
}
