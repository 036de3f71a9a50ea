//! Times that no GPU takes: by the clock, with results checked and work counted on the virtual machine where they matter;
//! or cycles counted over the whole shape.

use super::{Evaluator, Shape, first_lines, full, metrics};
use crate::model::{Clocked, LaunchLoad, Load, counted_micros};
use crate::outcome::{Outcome, Reason, Sample};
use crate::timing::{Prepared, TimingError};
use crate::worker::Request;
use gdn2_codegen::abi::Extents;
use gdn2_codegen::record::Time;
use gdn2_codegen::schedule::Schedule;
use gdn2_runtime::artifact::Artifact;

/// Chunks of each segment in the shorter of the two runs that counts are extrapolated from, so that the pipeline has
/// filled in it; the other is twice as long.
const SHORT_RUN: u32 = 2;

/// Kernels that are kept ready for the clock: those of a search's best, which every shape of a rule looks at.
const PREPARED: usize = 12;

/// A kernel's text, its schedule, the GPU.
pub(super) type Key = (String, Schedule, String);

impl Evaluator {
    /// Cycles counted over the whole shape.
    pub(super) fn on_vm(&mut self, request: &Request, artifact: &Artifact) -> Result<Outcome, Outcome> {
        let constants = self.constants(&request.job.gpu).map_err(|error| Outcome::invalid(Reason::Runtime, error))?;
        let loads = self.loads(request, artifact, full(request))?;
        let launches = launches(request, artifact, [&loads, &loads], (1.0, 1.0), request.job.shape.extents())?;
        let time = Time { micros: counted_micros(&launches, &constants), spread: 0.0 };
        Ok(Outcome::Correct(Sample { time, metrics: metrics(artifact), launches }))
    }

    /// Checks and counts a candidate that has a time by the clock, over two short runs where its call is long.
    pub(super) fn counted(&mut self, request: &Request, artifact: &Artifact) -> Result<Outcome, Outcome> {
        let Request { job, schedule, .. } = request;
        let mut sample = match &request.timed {
            Some(sample) => sample.clone(),
            None => self.clocked(request, artifact)?,
        };
        let full = full(request);
        // One group of heads: launches that only grouped heads need are counted, too.
        let value_heads = full.value_heads / full.key_heads.max(1);
        let at = |tokens: u32| Shape { batch: 1, tokens, key_heads: 1, value_heads, ..full };
        let short = SHORT_RUN * schedule.chunk().unwrap_or(1) * schedule.segments();
        let (loads, ends) = if job.shape.tokens <= 2 * short {
            let only = self.loads(request, artifact, at(job.shape.tokens))?;
            ([only.clone(), only], (1.0, 1.0))
        } else {
            let loads = [self.loads(request, artifact, at(short))?, self.loads(request, artifact, at(2 * short))?];
            (loads, (f64::from(short), f64::from(2 * short)))
        };
        let counted = at(job.shape.tokens).extents();
        let counted = launches(request, artifact, [&loads[0], &loads[1]], ends, counted)?;
        for (launch, counted) in sample.launches.iter_mut().zip(counted) {
            launch.load = counted.load;
        }
        Ok(Outcome::Correct(sample))
    }

    pub(super) fn by_the_clock(&mut self, request: &Request, artifact: &Artifact) -> Result<Outcome, Outcome> {
        self.clocked(request, artifact).map(Outcome::Timed)
    }

    /// The time by the clock, as far off as predictions of published times are, with the clock's own figures of every
    /// launch and no counts.
    fn clocked(&mut self, request: &Request, artifact: &Artifact) -> Result<Sample, Outcome> {
        let failed = |error: &dyn std::fmt::Display| Outcome::invalid(Reason::Runtime, first_lines(error));
        let constants = self.constants(&request.job.gpu).map_err(|error| failed(&error))?;
        let job = &request.job;
        let key = (artifact.source.hash.clone(), artifact.kernel.schedule, job.gpu.clone());
        let place = self.prepared.iter().position(|(known, _)| *known == key);
        let mut prepared = match place.map(|place| self.prepared.remove(place)) {
            Some((_, prepared)) => prepared,
            None => {
                let (Some(disassembler), Some(cubin)) = (&self.disassembler, &artifact.cubin) else {
                    return Err(failed(&TimingError::NoMachineCode));
                };
                let disassembly = disassembler.encoded_sass(cubin).map_err(|error| failed(&error))?;
                let prepared = Prepared::new(artifact, &disassembly, &constants).map_err(|error| failed(&error))?;
                prepared.with_data_sheet()
            }
        };
        let timing = prepared.time(job.shape, &[]).map_err(|error| failed(&error));
        self.prepared.insert(0, (key, prepared));
        self.prepared.truncate(PREPARED);
        let timing = timing?;
        let time = Time { micros: timing.micros(), spread: timing.band() };
        let idle = vec![Load::default(); artifact.kernel.launches.len()];
        let mut launches = launches(request, artifact, [&idle, &idle], (1.0, 1.0), job.shape.extents())?;
        for (load, launch) in launches.iter_mut().zip(timing.launches) {
            load.clocked = Some(Clocked {
                micros: (launch.low * launch.high).sqrt(),
                resident: launch.resident,
                waves: launch.waves,
                decided: launch.decided.to_string(),
                launch: launch.clocks,
            });
        }
        Ok(Sample { time, metrics: metrics(artifact), launches })
    }
}

/// Launches of the job's own shape from their work in two shorter runs of so many tokens. Totals grow in a straight line
/// whether blocks get longer or more; `counted` are the extents of such a run at the job's own length.
fn launches(
    request: &Request,
    artifact: &Artifact,
    [short, long]: [&[Load]; 2],
    at: (f64, f64),
    counted: Extents,
) -> Result<Vec<LaunchLoad>, Outcome> {
    let job = &request.job;
    let mut launches = Vec::new();
    for ((launch, short), long) in artifact.kernel.launches.iter().zip(short).zip(long) {
        if !launch.when.holds(job.shape.extents()) {
            continue;
        }
        let alike = launch.grid.eval(counted).unwrap_or(1);
        let resources = artifact.resources.iter().find(|entry| entry.entry == launch.entry);
        let blocks = launch.grid.eval(job.shape.extents());
        let blocks = blocks.ok_or_else(|| Outcome::invalid(Reason::Constraints, "grid does not fit 64 bits"))?;
        launches.push(LaunchLoad {
            blocks,
            threads: launch.block,
            registers: resources.map_or(0, |entry| entry.registers),
            shared_bytes: launch.shared_bytes + resources.map_or(0, |entry| entry.static_shared),
            load: short.extrapolated(long, at, f64::from(job.shape.tokens)).mean(alike),
            clocked: None,
        });
    }
    Ok(launches)
}
