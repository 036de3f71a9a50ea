//! One command for several calls: the budget divided by the time at stake, and a table of what each got.

use std::time::{Duration, Instant};

use comfy_table::CellAlignment;
use gdn2_runtime::device::cuda::Cuda;
use gdn2_tune::job::Job;
use gdn2_tune::model::floor_micros;
use gdn2_tune::report;
use gdn2_tune::sweep::SweepError;
use serde_json::{Value, json};

use super::Args;
use super::keep::{Kept, named};
use crate::error::CliError;
use crate::gpu::Target;
use crate::{Verdict, grid, terminal, write};

/// The least that a search is worth beginning with.
const LEAST: Duration = Duration::from_secs(5);

impl Args {
    /// Tunes for every call, made so many times, those with the most at stake first: a call that takes long has most to gain.
    pub(super) fn several(
        &self,
        jobs: Vec<(Job, f64)>,
        target: &Target,
        gpu: Option<&Cuda>,
    ) -> Result<Verdict, CliError> {
        let stake = |job: &Job| match &target.constants {
            Some(constants) => floor_micros(job.compulsory_bytes(), job.multiply_adds(), constants),
            None => job.compulsory_bytes(),
        };
        let mut jobs: Vec<(f64, Job)> = jobs.into_iter().map(|(job, times)| (stake(&job) * times, job)).collect();
        jobs.sort_by(|a, b| b.0.total_cmp(&a.0));
        let begun = Instant::now();
        let (mut rows, mut written) = (Vec::new(), false);
        for (place, (own, job)) in jobs.iter().enumerate() {
            let rest: f64 = jobs.iter().skip(place).map(|(stake, _)| stake).sum();
            let left = self.budget.saturating_sub(begun.elapsed());
            // What a search leaves of its share goes to those after it.
            let share = left.mul_f64(own / rest.max(f64::MIN_POSITIVE)).max(LEAST).min(left);
            let name = format!("{} {} {}", job.rule.name, job.pass, job.shape);
            if share < LEAST {
                rows.push((job, Kept::nothing("not reached in the budget".to_owned())));
                continue;
            }
            terminal::note(&format!("{name}: {}", seconds(share)));
            let kept = match self.sweep(job, target, gpu, share) {
                Ok(swept) => self.keep(job, &swept)?,
                // One call that cannot be tuned for is no reason to leave the others.
                Err(CliError::Sweep(error @ (SweepError::NoWinner { .. } | SweepError::Schedule(_)))) => {
                    Kept::nothing(error.to_string())
                }
                Err(error) => return Err(error),
            };
            written |= kept.written;
            rows.push((job, kept));
        }
        let basis = named(self.device.basis());
        if self.json {
            let calls: Vec<Value> = rows.iter().map(|(job, kept)| call(job, kept)).collect();
            let json = json!({ "gpu": target.gpu, "times": basis, "calls": calls, "written": written });
            write::stdout(format!("{json:#}\n").as_bytes())?;
            return Ok(Verdict::Good);
        }
        let mut table = grid::table([
            "rule",
            "pass",
            "shape",
            "before",
            "after",
            "looked at",
            "what became of it",
            "why the search ended",
        ]);
        for (job, kept) in &rows {
            let time = |timed: Option<f64>| timed.map_or(String::new(), report::micros);
            table.add_row([
                job.rule.name.clone(),
                job.pass.to_string(),
                job.shape.to_string(),
                time(kept.before),
                time(kept.after),
                kept.width.clone(),
                kept.text.clone(),
                kept.ended.clone(),
            ]);
        }
        for column in 3..=5 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let next = match written {
            true => "next: gdn2 prepare, which compiles the tuned kernels ahead\n",
            false => "nothing was written: calls get what they got before\n",
        };
        write::stdout(format!("{} calls on {}, times {basis}\n\n{table}\n{next}", rows.len(), target.gpu).as_bytes())?;
        Ok(Verdict::Good)
    }

    /// What each call gets, and which records are of no use any more: bad where there is one.
    pub(super) fn check(&self, jobs: &[Job], target: &Target) -> Result<Verdict, CliError> {
        let compiler = self.compiler.bare().nvrtc().ok().map(|nvrtc| format!("NVRTC {}", nvrtc.version()));
        let mut calls: Vec<Value> = Vec::new();
        let mut text = format!("{} calls on {}\n", jobs.len(), target.gpu);
        let mut table = grid::with_schedules(["rule", "pass", "shape", "schedule", "from"], 3);
        let mut stale: Vec<String> = Vec::new();
        for job in jobs {
            let choice = self.choice(job, compiler.as_deref())?;
            let (rule, pass) = (job.rule.name.clone(), job.pass.to_string());
            for (bucket, why) in &choice.refused {
                let line = format!("{rule} {pass} for {bucket}: {why}");
                if !stale.contains(&line) {
                    stale.push(line);
                }
            }
            let (schedule, step) = (choice.schedule.to_string(), choice.step.to_string());
            calls.push(json!({
                "rule": rule, "pass": pass, "shape": job.shape, "schedule": schedule, "from": step,
            }));
            table.add_row([rule, pass, job.shape.to_string(), schedule, step]);
        }
        let verdict = if stale.is_empty() { Verdict::Good } else { Verdict::Bad };
        if self.json {
            let json = json!({ "gpu": target.gpu, "calls": calls, "stale": stale });
            write::stdout(format!("{json:#}\n").as_bytes())?;
            return Ok(verdict);
        }
        text += &format!("\n{table}\n");
        text += &match stale.len() {
            0 => "no record of these calls is stale\n".to_owned(),
            count => {
                let lines: String = stale.iter().map(|line| format!("  {line}\n")).collect();
                format!(
                    "{count} records are stale, and calls pass them over:\n{lines}renew them with gdn2 tune --target {}\n",
                    target.gpu
                )
            }
        };
        write::stdout(text.as_bytes())?;
        Ok(verdict)
    }
}

/// A call and what became of it, for other programs.
pub(super) fn call(job: &Job, kept: &Kept) -> Value {
    json!({
        "rule": job.rule.name, "pass": job.pass, "shape": job.shape,
        "before_micros": kept.before, "after_micros": kept.after, "looked_at": kept.width,
        "outcome": kept.text, "ended": kept.ended, "written": kept.written,
    })
}

fn seconds(time: Duration) -> String {
    format!("{:.0} s", time.as_secs_f64())
}
