//! Published rows held against the clock: predictions, their errors, and the bands that follow from these.

use super::fit::{Bands, Fit, FitError, Learnt, Paired, evidence};
use super::{Family, Launch, Row};
use crate::model::{Constants, ConstantsError, spearman};
use gdn2_clock::gpu::Explanation;
use serde::Serialize;

/// What decides a row or a launch, as far as errors differ by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Memory: only the floor is tested.
    Memory,
    /// Kernels with products of a warpgroup.
    Wgmma,
    /// Kernels without.
    Mma,
}

/// A published row with the rates of its GPU.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    pub(super) family: String,
    pub(super) fitted: bool,
    /// Which implementation, rule, pass, GPU, shape.
    pub about: [String; 5],
    milliseconds: f64,
    launches: Vec<Launch>,
    rates: Rates,
}

/// What turns clocks and bytes into time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Clocks a microsecond.
    clock: f64,
    /// Bytes a microsecond.
    dram: f64,
    /// Microseconds of a launch.
    launch: f64,
}

impl Rates {
    /// Those of a GPU.
    pub fn of(constants: &Constants) -> Rates {
        Rates {
            clock: constants.get("clock"),
            dram: constants.get("dram_bytes") * 1e3,
            launch: constants.get("launch"),
        }
    }

    /// Under an explanation: microseconds, those of them that memory decides, those of kernels with products of a
    /// warpgroup.
    fn under(&self, launches: &[Launch], explanation: Explanation, fit: &Fit) -> (f64, f64, f64) {
        let (mut all, mut memory, mut wgmma) = (0.0, 0.0, 0.0);
        for launch in launches {
            let clocks = launch.clocks(explanation) / self.clock;
            let floor = launch.bytes / (self.dram * fit.attained(launch.pattern));
            all += clocks.max(floor) + self.launch;
            match () {
                () if floor > clocks => memory += floor,
                () if launch.uses_wgmma() => wgmma += clocks,
                () => {}
            }
        }
        (all, memory, wgmma)
    }

    /// Microseconds of launches, in the middle of both explanations.
    pub fn middle(&self, launches: &[Launch], fit: &Fit) -> f64 {
        let [pipe, chain] = Explanation::both(fit.wgmma_surplus).map(|how| self.under(launches, how, fit).0);
        (pipe * chain).sqrt()
    }
}

/// A prediction of a row, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Predicted {
    /// The middle of both explanations.
    pub milliseconds: f64,
    /// Products slower on the pipe.
    pub pipe: f64,
    /// Products slower in a chain.
    pub chain: f64,
    /// The share of it that memory decides.
    pub by_memory: f64,
    /// What decides most of it.
    pub kind: Kind,
}

impl Evidence {
    pub(super) fn of(family: &Family, row: &Row, constants: &Constants) -> Option<Evidence> {
        let mut rates = Rates::of(constants);
        if family.kernel_alone {
            rates.launch = 0.0;
        }
        (!row.launches.is_empty()).then(|| Evidence {
            family: family.family.clone(),
            fitted: family.fitted,
            about: [
                family.by.clone(),
                family.rule.clone(),
                family.pass.to_string(),
                family.gpu.clone(),
                row.shape.clone(),
            ],
            milliseconds: row.milliseconds,
            launches: row.launches.clone(),
            rates,
        })
    }

    /// Predicts the row.
    pub fn predicted(&self, fit: &Fit) -> Predicted {
        let under = |how| self.rates.under(&self.launches, how, fit);
        let [pipe, chain] = Explanation::both(fit.wgmma_surplus).map(under);
        let middle = (pipe.0 * chain.0).sqrt();
        let (memory, wgmma) = ((pipe.1 + chain.1) / 2.0, (pipe.2 + chain.2) / 2.0);
        let kind = match () {
            () if memory > middle / 2.0 => Kind::Memory,
            () if wgmma > (middle - memory) / 2.0 => Kind::Wgmma,
            () => Kind::Mma,
        };
        let [milliseconds, pipe, chain] = [middle, pipe.0, chain.0].map(|micros| micros / 1e3);
        Predicted { milliseconds, pipe, chain, by_memory: memory / middle.max(f64::MIN_POSITIVE), kind }
    }
}

/// The sum of squares of logarithms of predicted over published.
pub(super) fn squared(rows: &[&Evidence], fit: &Fit) -> f64 {
    rows.iter().map(|row| (row.predicted(fit).milliseconds / row.milliseconds).ln().powi(2)).sum()
}

/// How well predictions do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Errors {
    /// Rows.
    pub rows: usize,
    /// The mean factor of predicted over published.
    pub factor: f64,
    /// Median of the relative errors.
    pub median: f64,
    /// Their 90th percentile.
    pub worst_tenth: f64,
    /// The largest.
    pub worst: f64,
    /// Spearman's rank correlation.
    pub rank_correlation: f64,
}

impl std::fmt::Display for Errors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [median, tenth] = [self.median, self.worst_tenth].map(|part| 100.0 * part);
        let Errors { rows, rank_correlation, .. } = self;
        write!(
            f,
            "{rows} rows, median error {median:.1} %, worst tenth {tenth:.1} %, rank correlation {rank_correlation:.3}"
        )
    }
}

/// A value below which that part of some sorted ones lies; 0 of none.
pub(crate) fn quantile(sorted: &[f64], part: f64) -> f64 {
    let at = ((sorted.len() as f64 * part) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or(0.0)
}

/// Relative errors of pairs of predicted and published, sorted.
fn relative(pairs: impl IntoIterator<Item = (f64, f64)>) -> Vec<f64> {
    let mut off: Vec<f64> =
        pairs.into_iter().map(|(predicted, published)| (predicted / published - 1.0).abs()).collect();
    off.sort_by(f64::total_cmp);
    off
}

/// The errors of pairs of predicted and published.
pub fn errors(pairs: impl IntoIterator<Item = (f64, f64)>) -> Errors {
    let (predicted, published): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
    let ratios: Vec<f64> =
        predicted.iter().zip(&published).map(|(predicted, published)| predicted / published).collect();
    let off = relative(predicted.iter().copied().zip(published.iter().copied()));
    Errors {
        rows: ratios.len(),
        factor: (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len().max(1) as f64).exp(),
        median: quantile(&off, 0.5),
        worst_tenth: quantile(&off, 0.9),
        worst: off.last().copied().unwrap_or(0.0),
        rank_correlation: spearman(&predicted, &published),
    }
}

/// A row with its prediction by all rows' constants and by those fitted without its family.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// The row.
    pub row: Evidence,
    /// By the constants fitted on all.
    pub predicted: Predicted,
    /// By those fitted without its family.
    pub left_out: Predicted,
}

impl Held {
    /// Predicted and published milliseconds.
    pub fn pair(&self) -> (f64, f64) {
        (self.predicted.milliseconds, self.row.milliseconds)
    }

    /// The same, its family left out of the fit.
    pub fn pair_left_out(&self) -> (f64, f64) {
        (self.left_out.milliseconds, self.row.milliseconds)
    }

    /// Its family.
    pub fn family(&self) -> &str {
        &self.row.family
    }

    /// Whether the constants were fitted on it.
    pub fn fitted(&self) -> bool {
        self.row.fitted
    }

    /// The published time.
    pub fn milliseconds(&self) -> f64 {
        self.row.milliseconds
    }
}

/// Every published row, held against the clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// The constants.
    pub fit: Fit,
    /// The constants fitted without each family.
    pub without: Vec<(String, Fit)>,
    /// The rows.
    pub rows: Vec<Held>,
}

impl Judged {
    /// Predicts every row. `constants` gives those of a GPU.
    ///
    /// # Errors
    /// A damaged file, a GPU without constants.
    pub fn new(constants: impl Fn(&str) -> Result<Constants, ConstantsError>) -> Result<Judged, FitError> {
        let all = evidence(constants)?;
        let fit = Fit::of(&all.iter().filter(|one| one.fitted).collect::<Vec<_>>());
        let mut without: Vec<(String, Fit)> = Vec::new();
        for one in &all {
            if without.iter().all(|(family, _)| *family != one.family) {
                let others: Vec<&Evidence> =
                    all.iter().filter(|other| other.fitted && other.family != one.family).collect();
                without.push((one.family.clone(), Fit::of(&others)));
            }
        }
        let rows = all.into_iter().map(|row| {
            let left = without.iter().find(|(family, _)| *family == row.family).map_or(fit, |(_, fit)| *fit);
            Held { predicted: row.predicted(&fit), left_out: row.predicted(&left), row }
        });
        Ok(Judged { fit, rows: rows.collect(), without: without.clone() })
    }

    /// The constants and the bands, to two digits.
    pub fn learnt(&self) -> Learnt {
        let band = |kind| (100.0 * self.band(kind)).ceil() / 100.0;
        let paired = quantile(&relative(self.pairs(Kind::Wgmma)), 0.95);
        let paired = Paired { wgmma: (100.0 * paired).ceil() / 100.0, any: None };
        let bands = Bands { memory: band(Kind::Memory), wgmma: band(Kind::Wgmma), mma: band(Kind::Mma), paired };
        Learnt { fit: self.fit, bands }
    }

    /// Ratios of two rows of a kind that differ in the implementation alone, predicted and published, the slower over the
    /// faster.
    fn pairs(&self, kind: Kind) -> Vec<(f64, f64)> {
        let rows: Vec<&Held> = self.rows.iter().filter(|row| row.fitted() && row.predicted.kind == kind).collect();
        let mut pairs = Vec::new();
        for (place, one) in rows.iter().enumerate() {
            let same =
                |other: &&&Held| one.row.about[1..] == other.row.about[1..] && one.row.about[0] != other.row.about[0];
            for other in rows.iter().skip(place + 1).filter(same) {
                let ((a, published_a), (b, published_b)) = (one.pair_left_out(), other.pair_left_out());
                // Which of the two comes first decides the sign of the error alone: both orders count.
                pairs.extend([(a / b, published_a / published_b), (b / a, published_b / published_a)]);
            }
        }
        pairs
    }

    /// The 90th percentile of the errors of rows of a kind, each predicted without its family: how far a prediction of a
    /// kernel nobody measured may be off. Of all rows where a kind has fewer than five.
    fn band(&self, kind: Kind) -> f64 {
        let of = |kind: Option<Kind>| {
            let rows =
                self.rows.iter().filter(|row| row.fitted() && kind.is_none_or(|kind| row.predicted.kind == kind));
            errors(rows.map(Held::pair_left_out))
        };
        let own = of(Some(kind));
        if own.rows < 5 { of(None).worst_tenth } else { own.worst_tenth }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn errors_are_those_of_the_sorted_middle_and_tail() {
        let pairs = (1..=10).map(|n| (f64::from(n) * (1.0 + f64::from(n) / 100.0), f64::from(n)));
        let errors = errors(pairs);
        assert!((errors.median - 0.06).abs() < 1e-9 && (errors.worst_tenth - 0.10).abs() < 1e-9, "{errors:?}");
        assert!((errors.rank_correlation - 1.0).abs() < 1e-9);
    }

    #[test]
    fn what_ships_is_what_the_rows_give_and_none_is_faster_than_its_bytes_through_memory() {
        let judged = Judged::new(Constants::shipped).unwrap();
        for held in &judged.rows {
            let bytes: f64 = held.row.launches.iter().map(|launch| launch.bytes).sum();
            let floor = bytes / held.row.rates.dram / 1e3;
            let least = held.predicted.pipe.min(held.predicted.chain);
            assert!(floor <= least, "{:?}: {floor} {least}", held.row.about);
        }
        // What the predictions are worth, and are not to fall below unseen.
        let fitted = || judged.rows.iter().filter(|held| held.fitted());
        let (all, left_out) = (errors(fitted().map(Held::pair)), errors(fitted().map(Held::pair_left_out)));
        assert!(all.rows >= 92 && judged.without.len() >= 5, "{all}");
        assert!(all.median <= 0.08 && all.worst_tenth <= 0.15, "{all}");
        assert!(left_out.median <= 0.10 && left_out.worst_tenth <= 0.20, "{left_out}");
        // Both orders of a pair.
        assert!(judged.pairs(Kind::Wgmma).len() >= 2 * 20, "{}", judged.pairs(Kind::Wgmma).len());
        let learnt = judged.learnt();
        assert_eq!(Learnt::shipped().unwrap(), learnt, "{}", serde_json::to_string(&learnt).unwrap());
    }
}
