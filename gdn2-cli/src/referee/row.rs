//! What is said of one call.

use gdn2_codegen::kernel::Pass;
use gdn2_vm::{Counters, Finding, Report};
use serde::Serialize;

/// A call of ours or of another project's.
#[derive(Serialize)]
pub struct Row {
    /// Whose.
    pub by: String,
    /// Its name.
    pub call: String,
    /// The rule it is of.
    pub rule: String,
    /// The pass.
    pub pass: Pass,
    /// Its sizes.
    pub shape: String,
    /// The schedule of a kernel of ours.
    pub schedule: Option<String>,
    /// Kernels it launches.
    pub launches: usize,
    /// Its results beside those in float64.
    pub results: Vec<Judged>,
    /// What stopped it, or why it could not be judged.
    pub stopped: Option<String>,
    /// What the checks found.
    pub findings: Vec<Found>,
    /// Findings that were not told one by one.
    pub left_out: u64,
    /// Per token and head.
    pub cost: Cost,
}

/// A result.
#[derive(Serialize)]
pub struct Judged {
    /// Its name.
    pub tensor: String,
    /// RMSE / RMS of the reference; not a number where a result is none.
    pub error: f64,
    /// The largest that passes.
    pub bar: f64,
    /// Whether it does.
    pub passed: bool,
}

/// A finding, and what is to be said of it.
#[derive(Serialize)]
pub struct Found {
    /// The kernel.
    pub entry: String,
    /// What, where, and the remedy.
    #[serde(flatten)]
    pub finding: Finding,
    /// The argument, where somebody made one.
    pub argued: Option<String>,
}

/// What a call costs, per token and value head.
#[derive(Clone, Copy, Default, Serialize)]
pub struct Cost {
    /// Warp instructions of the PTX.
    pub instructions: f64,
    /// Bytes of device memory asked for, read and written.
    pub bytes: f64,
    /// The same, each sector counted once for a launch.
    pub distinct: f64,
    /// The least: each input read and each output written once, states included.
    pub floor: f64,
    /// Passes over the banks of shared memory.
    pub wavefronts: f64,
}

impl Row {
    /// Of a call that was not looked at yet.
    pub fn new(by: String, call: String, rule: String, pass: Pass, shape: String) -> Row {
        Row {
            by,
            call,
            rule,
            pass,
            shape,
            schedule: None,
            launches: 0,
            results: Vec::new(),
            stopped: None,
            findings: Vec::new(),
            left_out: 0,
            cost: Cost::default(),
        }
    }

    /// Nothing wrong, and nothing found that is not argued.
    pub fn good(&self) -> bool {
        self.stopped.is_none()
            && self.results.iter().all(|one| one.passed)
            && self.findings.iter().all(|found| found.argued.is_some())
            && self.left_out == 0
    }

    /// The result that is farthest off, in parts of its bar.
    pub fn worst(&self) -> Option<&Judged> {
        let part = |one: &Judged| if one.error.is_nan() { f64::INFINITY } else { one.error / one.bar };
        self.results.iter().max_by(|a, b| part(a).total_cmp(&part(b)))
    }
}

impl Cost {
    /// What launches did for so many tokens and heads, and the least it could have been.
    pub fn of<'a>(reports: impl IntoIterator<Item = &'a Report>, work: u64, floor: u64) -> Cost {
        let work = work.max(1) as f64;
        let mut sum = Cost { floor: floor as f64, ..Cost::default() };
        for report in reports {
            sum.instructions += report.instructions as f64;
            let Some(Counters {
                global_read_bytes,
                global_write_bytes,
                distinct_read_sectors,
                distinct_write_sectors,
                shared_wavefronts,
                ..
            }) = &report.counters
            else {
                continue;
            };
            sum.bytes += (global_read_bytes + global_write_bytes) as f64;
            sum.distinct += 32.0 * (distinct_read_sectors + distinct_write_sectors) as f64;
            sum.wavefronts += *shared_wavefronts as f64;
        }
        Cost {
            instructions: sum.instructions / work,
            bytes: sum.bytes / work,
            distinct: sum.distinct / work,
            floor: sum.floor / work,
            wavefronts: sum.wavefronts / work,
        }
    }
}
