//! The two constants that no data sheet gives, and how they are fitted on published times.

use super::evidence::{Evidence, Kind, squared};
use super::{Pattern, families};
use crate::model::{Constants, ConstantsError};
use serde::{Deserialize, Serialize};

const SHIPPED: &str = include_str!("../../tuning/published/fit.json");

/// Why nothing can be fitted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FitError {
    /// A committed file is damaged.
    #[error("tuning/published: {0}")]
    Damaged(#[from] serde_json::Error),
    /// A GPU of a row has no constants.
    #[error(transparent)]
    Constants(#[from] ConstantsError),
}

/// The two constants.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fit {
    /// How far a warpgroup's products are off the data sheet's rate: 1 for twice its clocks on the pipe, or three times in
    /// a chain on one accumulator; [`Explanation::both`](gdn2_clock::gpu::Explanation::both).
    pub wgmma_surplus: f64,
    /// The share of a copy's rate that launches attain of memory that read some of it more than once.
    pub again: f64,
}

/// How far predictions may be off, by what decides them: the 90th percentile of the relative errors of published rows of
/// the kind, each predicted by constants fitted without its family.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bands {
    /// Memory decides.
    pub memory: f64,
    /// Kernels with products of a warpgroup.
    pub wgmma: f64,
    /// Kernels without.
    pub mma: f64,
    /// How far the ratio of two predictions may be off.
    pub paired: Paired,
}

/// How far the ratio of two kernels' predicted times may be off for one call on one GPU: the 95th percentile over pairs of
/// published rows that differ in the implementation alone, each predicted by constants fitted without its family. What is
/// wrong with both in the same way cancels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paired {
    /// Two kernels with products of a warpgroup.
    pub wgmma: f64,
    /// Any two kernels, where the GPU's own times have said so; published ones hold too few such pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub any: Option<f64>,
}

impl Paired {
    /// The error of the ratio of two predictions; `None` where nothing but the errors of either is known.
    pub fn of(&self, kinds: [Kind; 2]) -> Option<f64> {
        match kinds {
            [Kind::Wgmma, Kind::Wgmma] => Some(self.any.unwrap_or(self.wgmma)),
            _ => self.any,
        }
    }
}

impl Bands {
    /// The band of a kind.
    pub fn of(&self, kind: Kind) -> f64 {
        match kind {
            Kind::Memory => self.memory,
            Kind::Wgmma => self.wgmma,
            Kind::Mma => self.mma,
        }
    }
}

/// What published times say, as predictions use it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Learnt {
    /// The two constants.
    pub fit: Fit,
    /// How far predictions may be off.
    pub bands: Bands,
}

impl Learnt {
    /// What ships.
    ///
    /// # Errors
    /// A damaged file, which a test rules out.
    pub fn shipped() -> Result<Learnt, FitError> {
        Ok(serde_json::from_str(SHIPPED)?)
    }

    /// What ships, or where the constants of a GPU were refitted on times it took, what these say.
    ///
    /// # Errors
    /// A damaged file, which a test rules out.
    pub fn of(constants: &Constants) -> Result<Learnt, FitError> {
        let Learnt { fit, bands } = Learnt::shipped()?;
        let paired = Paired { any: constants.refitted("paired"), ..bands.paired };
        let bands = match constants.refitted("band") {
            Some(band) => Bands { memory: band, wgmma: band, mma: band, paired },
            None => Bands { paired, ..bands },
        };
        Ok(Learnt { fit: fit.with(constants), bands })
    }
}

impl Fit {
    /// The same, but for what the constants of a GPU say themselves.
    pub fn with(&self, constants: &Constants) -> Fit {
        let or = |name, own| constants.refitted(name).unwrap_or(own);
        Fit { wgmma_surplus: or("wgmma_surplus", self.wgmma_surplus), again: or("again", self.again) }
    }

    /// The share of a copy's rate that a launch attains of memory.
    pub fn attained(&self, pattern: Pattern) -> f64 {
        match pattern {
            Pattern::Once => 1.0,
            Pattern::Again => self.again,
        }
    }

    /// Fitted on evidence, families weighing alike: where the mean square of the logarithm of predicted over published is
    /// least. Fewer digits than the evidence is worth would move predictions for nothing, more would mean nothing.
    pub fn of(evidence: &[&Evidence]) -> Fit {
        let mut families: Vec<(&str, Vec<&Evidence>)> = Vec::new();
        for one in evidence {
            match families.iter_mut().find(|(name, _)| *name == one.family) {
                Some((_, rows)) => rows.push(one),
                None => families.push((&one.family, vec![one])),
            }
        }
        let cost = |fit: &Fit| -> f64 { families.iter().map(|(_, rows)| squared(rows, fit) / rows.len() as f64).sum() };
        let mut best = (f64::INFINITY, Fit { wgmma_surplus: 0.0, again: 1.0 });
        for surplus in 0..=40 {
            for again in 25..=50 {
                let fit = Fit { wgmma_surplus: f64::from(surplus) / 20.0, again: f64::from(again) / 50.0 };
                let cost = cost(&fit);
                if cost < best.0 {
                    best = (cost, fit);
                }
            }
        }
        best.1
    }
}

/// Every published row that was simulated, with the constants of its GPU.
pub(super) fn evidence(
    constants: impl Fn(&str) -> Result<Constants, ConstantsError>,
) -> Result<Vec<Evidence>, FitError> {
    let mut all = Vec::new();
    for family in families()? {
        let constants = constants(&family.gpu)?;
        all.extend(family.rows.iter().filter_map(|row| Evidence::of(&family, row, &constants)));
    }
    Ok(all)
}
