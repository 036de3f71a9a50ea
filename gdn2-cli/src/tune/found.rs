//! Which calls a tuning is for: rules of a file, a crate or a folder, their passes, their shapes.

use std::path::Path;

use gdn2_codegen::kernel::Pass;
use gdn2_dsl::Rule;
use gdn2_runtime::files::Limit;
use gdn2_runtime::seen::{self, Line, Seen};
use gdn2_tune::job::{Job, Shape};
use gdn2_tune::shapes::named;

use super::Args;
use crate::error::CliError;
use crate::gpu::Target;
use crate::prepare::{rules_below, sources_below};
use crate::read;
use crate::select::Selection;

/// Passes of a training step.
const TRAINING: [Pass; 2] = [Pass::ForwardForBackward, Pass::Backward];

impl Args {
    /// Every call that was asked for, each once, and how often programs made it; once where none said.
    pub(super) fn calls(&self, target: &Target) -> Result<Vec<(Job, f64)>, CliError> {
        let mut jobs: Vec<(Job, f64)> = Vec::new();
        let mut add = |job: Job, times: f64| match jobs.iter_mut().find(|(own, _)| *own == job) {
            Some((_, own)) => *own += times,
            None => jobs.push((job, times)),
        };
        let rules = self.rules()?;
        let seen = self.seen()?;
        if let Some(line) = seen.iter().find(|line| rules.iter().all(|rule| rule.name != line.rule)) {
            let (known, other) =
                (rules.iter().map(|rule| rule.name.as_str()).collect::<Vec<_>>().join(", "), &line.rule);
            let why =
                format!("--seen names rule `{other}`, and the rules here are {known}: name the folder that has it");
            return Err(CliError::Usage(why));
        }
        for rule in rules {
            let rule = self.overrides.apply(rule)?;
            gdn2_codegen::takes(&rule)?;
            for line in seen.iter().filter(|line| line.rule == rule.name) {
                let Seen { pass, batch, tokens, key_heads, value_heads } = line.seen;
                let shape = Shape { batch, tokens, key_heads, value_heads };
                let (rule, gpu) = (rule.clone(), target.gpu.clone());
                let job = Job { rule, pass, shape, gpu, arch: target.arch, engine: self.device };
                let wanted = self.passes().is_none_or(|passes| passes.contains(&pass));
                if wanted {
                    add(job, line.calls as f64);
                }
            }
            for (rule, shape, passes) in self.shapes(&rule)? {
                for pass in passes {
                    let (rule, gpu) = (rule.clone(), target.gpu.clone());
                    add(Job { rule, pass, shape, gpu, arch: target.arch, engine: self.device }, 0.0);
                }
            }
        }
        Ok(jobs.into_iter().map(|(job, times)| (job, times.max(1.0))).collect())
    }

    /// What programs wrote down.
    fn seen(&self) -> Result<Vec<Line>, CliError> {
        let mut all = Vec::new();
        for path in &self.seen {
            let text = String::from_utf8(read::bytes(path, Limit::SEEN)?)
                .map_err(|_| CliError::Usage(format!("{}: not UTF-8 text", path.display())))?;
            let lines =
                seen::read(&text).map_err(|error| CliError::in_file(path, CliError::Usage(error.to_string())))?;
            all.extend(lines);
        }
        Ok(all)
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
        if self.shape.is_empty() && !self.seen.is_empty() {
            return Ok(Vec::new());
        }
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
