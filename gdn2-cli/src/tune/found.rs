//! Which calls a tuning is for: rules of a file, a crate or a folder, their passes, their shapes.

use std::path::Path;

use gdn2_codegen::kernel::Pass;
use gdn2_dsl::Rule;
use gdn2_tune::job::{Job, Shape};
use gdn2_tune::shapes::named;

use super::Args;
use crate::error::CliError;
use crate::gpu::Target;
use crate::prepare::{rules_below, sources_below};
use crate::select::Selection;

/// Passes of a training step.
const TRAINING: [Pass; 2] = [Pass::ForwardForBackward, Pass::Backward];

impl Args {
    /// Every call that was asked for, each once.
    pub(super) fn calls(&self, target: &Target) -> Result<Vec<Job>, CliError> {
        let mut jobs: Vec<Job> = Vec::new();
        for rule in self.rules()? {
            let rule = self.overrides.apply(rule)?;
            gdn2_codegen::takes(&rule)?;
            for (rule, shape, passes) in self.shapes(&rule)? {
                for pass in passes {
                    let (rule, gpu) = (rule.clone(), target.gpu.clone());
                    let job = Job { rule, pass, shape, gpu, arch: target.arch, engine: self.device };
                    if !jobs.contains(&job) {
                        jobs.push(job);
                    }
                }
            }
        }
        Ok(jobs)
    }

    /// The rules that were named, or all that the folder has: its rule files, and what its source names.
    fn rules(&self) -> Result<Vec<Rule>, CliError> {
        let folder = match &self.rule {
            None => Path::new("."),
            Some(named) if named.path().is_dir() => named.path(),
            Some(named) => return named.rules(),
        };
        let mut all: Vec<Rule> = Vec::new();
        let mut add = |rule: Rule| {
            if !all.contains(&rule) {
                all.push(rule);
            }
        };
        let own = folder.join("rules");
        rules_below(if own.is_dir() { &own } else { folder })?.into_iter().for_each(&mut add);
        for source in sources_below(&folder.join("src"))? {
            Selection::file(source).in_source()?.into_iter().for_each(&mut add);
        }
        if all.is_empty() {
            let folder = folder.display();
            return Err(CliError::Usage(format!(
                "{folder} has no rule: none in rules/*.gdn2 or *.gdn2, none that src/**/*.rs names; name a file"
            )));
        }
        Ok(all)
    }

    /// The shapes that were asked for with the rule at their head dims and their passes; else those with names, at the
    /// rule's own head dims, that are dense.
    fn shapes(&self, rule: &Rule) -> Result<Vec<(Rule, Shape, Vec<Pass>)>, CliError> {
        if self.shape.is_empty() {
            let dense = named().into_iter().filter(|shape| shape.lengths.is_empty() && shape.head_dim == 128);
            let of = |passes: Vec<Pass>| match self.passes() {
                None => passes,
                Some(asked) => passes.into_iter().filter(|pass| asked.contains(pass)).collect(),
            };
            return Ok(dense.map(|shape| (rule.clone(), shape.shape(), of(shape.passes.clone()))).collect());
        }
        let passes = self.passes().unwrap_or_else(|| vec![Pass::Forward]);
        let of = |asked: &crate::asked::Asked| {
            if !asked.lengths.is_empty() {
                let why = "packed sequences are predicted, not tuned for: use a dense shape";
                return Err(CliError::Usage(why.to_owned()));
            }
            Ok((asked.of(rule.clone())?, asked.shape, passes.clone()))
        };
        self.shape.iter().map(of).collect()
    }

    fn passes(&self) -> Option<Vec<Pass>> {
        let of = |pass: &Asked| match pass {
            Asked::One(pass) => vec![*pass],
            Asked::Training => TRAINING.to_vec(),
        };
        (!self.pass.is_empty()).then(|| self.pass.iter().flat_map(of).collect())
    }
}

/// What `--pass` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A pass.
    One(Pass),
    /// Forward for backward, and backward.
    Training,
}

/// A pass by its name, or those of training together.
pub fn passes(name: &str) -> Result<Asked, String> {
    match name {
        "training" => Ok(Asked::Training),
        _ => Ok(Asked::One(crate::select::pass(name).map_err(|why| format!("{why} or training"))?)),
    }
}
