//! What others published, what the clock says of their kernels, and of ours at the same sizes.

use gdn2_codegen::abi::Extents;
use gdn2_codegen::kernel::Pass;
use gdn2_dsl::Rule;
use gdn2_runtime::artifact::Compiler;
use gdn2_runtime::toolchain::Nvdisasm;
use gdn2_tune::job::{Engine, Job, Shape};
use gdn2_tune::model::Constants;
use gdn2_tune::published::{Family, Judged, families};
use serde::Serialize;
use std::path::Path;

use crate::asked::Asked;
use crate::compiler;
use crate::error::CliError;
use crate::gpu::Target;
use crate::predict::{built_in, prepared};
use crate::progress::Progress;

/// One published time.
#[derive(Serialize)]
pub struct Time {
    /// Whose.
    pub by: String,
    /// The rule.
    pub rule: String,
    /// The pass.
    pub pass: Pass,
    /// The GPU.
    pub gpu: String,
    /// The sizes, at K = V = 128.
    pub shape: String,
    /// What they measured, milliseconds.
    pub published: f64,
    /// What the clock says of their kernels, by constants that were fitted without this family; nothing where nobody could
    /// compile them.
    pub theirs: Option<f64>,
    /// What it says of ours, from and to; why it says nothing.
    pub ours: Result<(f64, f64), String>,
}

/// The sizes that are shown of each source, where it has them; else its first row.
const SHOWN: &str = "B=1,T=8192,H=16,HV=16";

/// A row of each source of published times whose rule is among those asked for.
pub fn times(rules: &[Rule], flags: &compiler::Flags, records: &Path) -> Result<Vec<Time>, CliError> {
    let judged = Judged::new(|gpu| Constants::of(gpu, Some(records)))?;
    let families: Vec<Family> =
        families()?.into_iter().filter(|family| rules.iter().any(|own| own.name == family.rule)).collect();
    let clock = Clock { compiler: flags.bare(), disassembler: Nvdisasm::find(&flags.search())?, records };
    let progress = Progress::new("predicting", families.len());
    let mut found = Vec::new();
    for Family { by, rule, pass, gpu, rows, .. } in families {
        progress.step(&format!("{rule} {pass} on {gpu}"));
        let sizes = rows.iter().filter_map(|row| Some((row, row.shape.parse::<Asked>().ok()?.shape)));
        let Some((row, shape)) = sizes.clone().find(|(row, _)| row.shape == SHOWN).or(sizes.clone().next()) else {
            continue;
        };
        let Some(own) = rules.iter().find(|own| own.name == rule) else { continue };
        let about = [by.as_str(), &rule, pass.name(), &gpu, &row.shape];
        let held = judged.rows.iter().find(|held| held.row.about.each_ref().map(String::as_str) == about);
        found.push(Time {
            theirs: held.map(|held| held.left_out.milliseconds),
            ours: clock.time(own, pass, shape, &gpu),
            published: row.milliseconds,
            shape: row.shape.clone(),
            by,
            rule,
            pass,
            gpu,
        });
    }
    Ok(found)
}

struct Clock<'a> {
    compiler: Compiler,
    disassembler: Nvdisasm,
    records: &'a Path,
}

impl Clock<'_> {
    /// Milliseconds of the kernel that a call of ours gets without records, from and to.
    fn time(&self, rule: &Rule, pass: Pass, shape: Shape, gpu: &str) -> Result<(f64, f64), String> {
        let target = Target::named(gpu, self.records).map_err(|error| error.to_string())?;
        let extents = Extents { sequences: u64::from(shape.batch), ..shape.extents() };
        let schedule = built_in(rule, pass, target.arch, extents).map_err(|error| error.to_string())?;
        let (gpu, arch, engine) = (target.gpu.clone(), target.arch, Engine::Model);
        let job = Job { rule: rule.clone(), pass, shape, gpu, arch, engine };
        let constants = target.constants().map_err(|error| error.to_string())?;
        let mut prepared = prepared(&self.compiler, &self.disassembler, constants, &job, schedule)?;
        let timing = prepared.time(shape, &[]).map_err(|error| error.to_string())?;
        Ok((timing.low() / 1e3, timing.high() / 1e3))
    }
}
