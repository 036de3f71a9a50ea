//! Times that others published, as committed data: what predictions are printed beside, what the two constants that no
//! data sheet gives are fitted on, and where the error that every prediction states comes from.
//!
//! Machine code of others is not kept here; what the clock made of it is: the clocks of each launch under each explanation
//! of a warpgroup's products, and the bytes that it moves.

mod evidence;
mod fit;

pub(crate) use evidence::quantile;
pub use evidence::{Errors, Evidence, Held, Judged, Kind, Predicted, Rates, errors};
pub use fit::{Bands, Fit, FitError, Learnt, Paired};

use crate::job::Job;
use gdn2_clock::gpu::Explanation;
use gdn2_codegen::kernel::Pass;
use serde::{Deserialize, Serialize};

/// How a launch asks for memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// Every byte once, as a copy does.
    Once,
    /// Some bytes more than once, by several blocks or several passes.
    Again,
}

impl Pattern {
    /// What a launch does that moves so many bytes to reach so many distinct ones. Halos and shared gates are still once.
    pub fn of(moved: f64, distinct: f64) -> Pattern {
        if moved > 1.25 * distinct { Pattern::Again } else { Pattern::Once }
    }
}

/// Clocks of one launch by the fullest multiprocessor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// Its kernel.
    pub kernel: String,
    /// Clocks at the data sheet's rate of a warpgroup's products.
    pub data_sheet: f64,
    /// Where these take that many times as long on the pipe: how many times, and clocks. Absent where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pipe: Vec<(f64, f64)>,
    /// Where it is that many times as long from one to the next on the same accumulator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<(f64, f64)>,
    /// Distinct bytes that it moves through memory.
    pub bytes: f64,
    /// How it asks for them.
    pub pattern: Pattern,
}

impl Launch {
    /// Clocks under an explanation: on the straight lines through those simulated.
    pub fn clocks(&self, explanation: Explanation) -> f64 {
        let (strength, simulated) = match explanation {
            Explanation::DataSheet => (1.0, &[][..]),
            Explanation::Pipe(strength) => (strength, self.pipe.as_slice()),
            Explanation::Chain(strength) => (strength, self.chain.as_slice()),
        };
        let (mut from, mut slope) = ((1.0, self.data_sheet), 0.0);
        for to in simulated {
            slope = (to.1 - from.1) / (to.0 - from.0).max(f64::MIN_POSITIVE);
            if strength <= to.0 {
                break;
            }
            from = *to;
        }
        from.1 + slope * (strength - from.0)
    }

    /// Whether it has products of a warpgroup.
    pub fn uses_wgmma(&self) -> bool {
        !self.pipe.is_empty() || !self.chain.is_empty()
    }
}

/// One published time with what was simulated of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Sizes of the call, as a [`Shape`](crate::job::Shape) prints itself.
    pub shape: String,
    /// The time.
    pub milliseconds: f64,
    /// The launches of the call; none where nobody could compile them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub launches: Vec<Launch>,
}

/// The rows of one source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Family {
    /// Kernels of one name share most of their text; they are left out of a fit together.
    pub family: String,
    /// Which implementation.
    pub by: String,
    /// The shipped rule it is of, at K = V = 128.
    pub rule: String,
    /// The pass.
    pub pass: Pass,
    /// On which GPU.
    pub gpu: String,
    /// Where the times are published.
    pub source: String,
    /// What was compiled, and how its configurations were chosen.
    #[serde(default)]
    pub kernels: String,
    /// What the clocks come from: a fingerprint of the clock's constants, or what else simulated them.
    #[serde(default)]
    pub simulated_by: String,
    /// Whether the two constants may be fitted on it; where not, its rows show what they are worth elsewhere.
    #[serde(default = "yes")]
    pub fitted: bool,
    /// Times are of the kernel alone, without its launch.
    #[serde(default)]
    pub kernel_alone: bool,
    /// Its rows.
    pub rows: Vec<Row>,
}

fn yes() -> bool {
    true
}

const FILES: [&str; 11] = [
    include_str!("../../tuning/published/fla_gdn.json"),
    include_str!("../../tuning/published/flash_qla.json"),
    include_str!("../../tuning/published/flash_qla_slopes.json"),
    include_str!("../../tuning/published/flash_infer.json"),
    include_str!("../../tuning/published/cudnn_kda.json"),
    include_str!("../../tuning/published/fla_kda_h200.json"),
    include_str!("../../tuning/published/fla_kda_h100.json"),
    include_str!("../../tuning/published/fla_gdn2_h100.json"),
    include_str!("../../tuning/published/fla_decode.json"),
    include_str!("../../tuning/published/flash_qla_backward.json"),
    include_str!("../../tuning/published/fla_gdn_backward.json"),
];

/// Every family.
///
/// # Errors
/// A damaged file, which a test rules out.
pub fn families() -> Result<Vec<Family>, serde_json::Error> {
    FILES.iter().map(|text| serde_json::from_str(text)).collect()
}

/// A published time that a prediction is printed beside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// The shipped rule it is of, at K = V = 128.
    pub rule: String,
    /// The pass.
    pub pass: Pass,
    /// The shape that it stands for, as a [`Shape`](crate::job::Shape) prints itself.
    pub shape: String,
    /// The time.
    pub milliseconds: f64,
    /// Which implementation, on which GPU.
    pub by: String,
    /// Where it was published and for which sizes.
    pub source: String,
}

/// Rows of other sizes that stand for a shape.
const STAND_INS: [(&str, &str); 1] = [("h200", include_str!("../../tuning/published/h200.json"))];

/// Every time published for a job, the best first.
pub fn of(job: &Job) -> Vec<Published> {
    if (job.rule.key_dim, job.rule.value_dim) != (128, 128) {
        return Vec::new();
    }
    let shape = job.shape.to_string();
    let mut all: Vec<Published> = STAND_INS
        .iter()
        .filter(|(gpu, _)| *gpu == job.gpu)
        .flat_map(|(_, text)| serde_json::from_str::<Vec<Published>>(text).unwrap_or_default())
        .collect();
    for family in families().unwrap_or_default().into_iter().filter(|family| family.gpu == job.gpu) {
        let Family { by, rule, pass, gpu, source, rows, .. } = family;
        let by = format!("{by} on {}", gpu.to_uppercase());
        all.extend(rows.into_iter().map(|row| Published {
            rule: rule.clone(),
            pass,
            shape: row.shape,
            milliseconds: row.milliseconds,
            by: by.clone(),
            source: source.clone(),
        }));
    }
    all.retain(|one| one.rule == job.rule.name && one.pass == job.pass && one.shape == shape);
    all.sort_by(|a, b| a.milliseconds.total_cmp(&b.milliseconds));
    all
}

/// The best time published for a job, where there is one.
pub fn best(job: &Job) -> Option<Published> {
    of(job).into_iter().next()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::job::{Engine, Shape};
    use gdn2_codegen::arch::Arch;

    #[test]
    fn every_file_reads_and_the_best_of_a_shape_is_found() {
        for (gpu, text) in STAND_INS {
            let all: Vec<Published> = serde_json::from_str(text).unwrap();
            assert!(!all.is_empty() && all.iter().all(|one| one.milliseconds > 0.0 && !one.source.is_empty()), "{gpu}");
        }
        for family in families().unwrap() {
            assert!(!family.source.is_empty() && !family.rows.is_empty(), "{}", family.by);
            assert!(family.rows.iter().all(|row| row.milliseconds > 0.0), "{}", family.by);
            let launches = family.rows.iter().flat_map(|row| &row.launches);
            for launch in launches {
                let rising = |line: &[(f64, f64)]| line.windows(2).all(|pair| pair[0].0 < pair[1].0);
                assert!(rising(&launch.pipe) && rising(&launch.chain), "{}: {launch:?}", family.by);
                assert_eq!(launch.pipe.is_empty(), launch.chain.is_empty(), "{}: {launch:?}", family.by);
            }
        }
        let text =
            "rule gdn { decay: scalar; erase: scalar; write: erase; key_dim: 128; value_dim: 128; dtype: bf16; }";
        let rule = gdn2_dsl::parse_file(text).unwrap().remove(0);
        let of = |batch: u32| {
            let shape = Shape { batch, tokens: 8192, key_heads: 16, value_heads: 16 };
            let (gpu, engine) = ("h200".to_owned(), Engine::Model);
            let job = Job { rule: rule.clone(), pass: Pass::Forward, shape, gpu, arch: Arch::Sm90a, engine };
            best(&job).map(|published| published.milliseconds)
        };
        assert_eq!((of(8), of(1), of(2)), (Some(0.442), Some(0.178), None));
    }

    #[test]
    fn clocks_lie_on_the_lines_through_what_was_simulated() {
        let line = vec![(2.0, 200.0), (3.0, 400.0)];
        let launch = Launch {
            kernel: String::new(),
            data_sheet: 100.0,
            pipe: line,
            chain: Vec::new(),
            bytes: 0.0,
            pattern: Pattern::Once,
        };
        let at = |strength: f64| launch.clocks(Explanation::Pipe(strength));
        assert_eq!((at(1.0), at(1.5), at(2.0), at(2.5), at(4.0)), (100.0, 150.0, 200.0, 300.0, 600.0));
        assert_eq!(launch.clocks(Explanation::Chain(3.0)), 100.0);
    }
}
