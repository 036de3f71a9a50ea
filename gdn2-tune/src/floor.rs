//! The least that a candidate's call can take, from its launches alone: nothing of it is compiled for that. A candidate
//! whose least is more than the best so far is not looked at.
//!
//! Every launch costs what a launch costs. The products of a chunked scan with its state are those of the recurrence: per
//! token and head K·V multiply-adds for what is read of the state, for what is written to it and for the output, at the
//! matrix units' full rate, on as many multiprocessors as there are blocks. Inputs and outputs cross memory once.

use crate::job::Job;
use crate::model::Constants;
use gdn2_codegen::kernel::{Kernel, Launch, LaunchRole, Pass};
use gdn2_codegen::plan::Fold;
use gdn2_codegen::schedule::{Matrix, Schedule};

/// A candidate whose least is more than this of the best time so far is not worth a look.
pub const WORTH: f64 = 0.99;

/// Microseconds that a call of the job takes at least with this kernel, by what the clock assumes of the GPU.
pub fn least_micros(job: &Job, kernel: &Kernel, constants: &Constants) -> f64 {
    let extents = job.shape.extents();
    let launches: Vec<&Launch> = kernel.launches.iter().filter(|launch| launch.when.holds(extents)).collect();
    let products: f64 = launches.iter().map(|launch| product_micros(job, kernel, launch, constants)).sum();
    let memory = job.compulsory_bytes() / (constants.get("dram_bytes") * 1e3);
    launches.len() as f64 * constants.get("launch") + products.max(memory)
}

/// Microseconds that a launch's products with the state take at least.
fn product_micros(job: &Job, kernel: &Kernel, launch: &Launch, constants: &Constants) -> f64 {
    let (chunk, segments) = (kernel.schedule.chunk().unwrap_or(1), kernel.schedule.segments());
    let square = f64::from(job.rule.key_dim) * f64::from(job.rule.value_dim);
    // A scan may leave out the first chunk's products with a state of zeros; a segment's, likewise.
    let after = |first: u32| f64::from(job.shape.tokens.saturating_sub(first));
    let scan = scan_matrix(kernel.schedule);
    let erase = f64::from(u8::from(kernel.plan.erase != Fold::Absent));
    let (passes, tokens, matrix) = match launch.role {
        LaunchRole::Whole if job.pass == Pass::Decode => return 0.0,
        LaunchRole::Whole | LaunchRole::Segments => (2.0 + erase, after(chunk * segments), scan),
        LaunchRole::RecomputedStates => (1.0 + erase, after(chunk), Matrix::Mma),
        LaunchRole::SegmentMaps => {
            let mapped = f64::from(segments - 1) / f64::from(segments.max(1));
            (1.0, mapped * after(chunk * segments), scan)
        }
        LaunchRole::ReverseScan => (1.0, after(chunk * segments), scan),
        LaunchRole::Gradients => (3.0, after(chunk), gradient_matrix(kernel.schedule)),
        LaunchRole::SegmentJoin | LaunchRole::HeadSums | LaunchRole::GateGradients | LaunchRole::ParamSums => {
            return 0.0;
        }
    };
    let rate = match matrix {
        Matrix::Mma => constants.get("mma"),
        Matrix::Wgmma => constants.get("wgmma").max(constants.get("mma")),
    };
    let heads = f64::from(job.shape.batch) * f64::from(job.shape.value_heads);
    let blocks = launch.grid.eval(job.shape.extents()).unwrap_or(u64::MAX) as f64;
    // Blocks of a dense call that leaves sequences whole do the same, and one multiprocessor has as many as any.
    let busy = match segments {
        1 if launch.role != LaunchRole::Gradients => blocks / (blocks / constants.get("sms")).ceil().max(1.0),
        _ => blocks.min(constants.get("sms")),
    };
    passes * square * tokens * heads / (busy.max(1.0) * rate * constants.get("clock"))
}

/// Which matrix instructions the scan is made of.
fn scan_matrix(schedule: Schedule) -> Matrix {
    match schedule {
        Schedule::Forward(numbers) => numbers.matrix,
        Schedule::Backward(numbers) => numbers.matrix,
        Schedule::Decode(_) => Matrix::Mma,
    }
}

/// The same of the gradients.
fn gradient_matrix(schedule: Schedule) -> Matrix {
    match schedule {
        Schedule::Backward(numbers) => numbers.gradients,
        Schedule::Forward(_) | Schedule::Decode(_) => Matrix::Mma,
    }
}
