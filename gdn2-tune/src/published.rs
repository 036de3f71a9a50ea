//! Times that others published, as committed data: what a prediction is printed beside. Nothing is decided by them.

use crate::job::Job;
use gdn2_codegen::kernel::Pass;
use serde::{Deserialize, Serialize};

/// One published time.
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

const FILES: [(&str, &str); 1] = [("h200", include_str!("../tuning/published/h200.json"))];

/// The best time published for a job, where there is one.
pub fn best(job: &Job) -> Option<Published> {
    let (_, text) = FILES.iter().find(|(gpu, _)| *gpu == job.gpu)?;
    let same = |published: &Published| {
        let dims = (job.rule.key_dim, job.rule.value_dim);
        let sizes = published.shape == job.shape.to_string() && dims == (128, 128);
        published.rule == job.rule.name && published.pass == job.pass && sizes
    };
    let mut all: Vec<Published> = serde_json::from_str(text).unwrap_or_default();
    all.retain(same);
    all.into_iter().min_by(|a, b| a.milliseconds.total_cmp(&b.milliseconds))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::job::{Engine, Shape};
    use gdn2_codegen::arch::Arch;

    #[test]
    fn every_file_reads_and_the_best_of_a_shape_is_found() {
        for (gpu, text) in FILES {
            let all: Vec<Published> = serde_json::from_str(text).unwrap();
            assert!(!all.is_empty() && all.iter().all(|one| one.milliseconds > 0.0 && !one.source.is_empty()), "{gpu}");
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
}
