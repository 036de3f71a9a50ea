//! One process of the check: what it is given, when it must be over, and what it said.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::clock::Clock;
use crate::error::CliError;

/// A command to be run.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it is about, for people.
    pub name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
}

/// How it ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// What it was about.
    pub name: String,
    /// The command line.
    pub command: String,
    /// It was killed when its time was over.
    pub timed_out: bool,
    /// Its exit code was 0.
    pub success: bool,
    /// Wall-clock time.
    pub seconds: f64,
    /// Its standard output.
    pub output: String,
    /// How it ended and the line of its standard error that says why.
    pub complaint: String,
}

impl Step {
    /// This program again.
    pub fn gdn2<'a>(name: impl Into<String>, arguments: impl IntoIterator<Item = &'a str>) -> Result<Step, CliError> {
        let own = |source| CliError::Start { program: "gdn2".into(), source };
        Ok(Step::program(name, &std::env::current_exe().map_err(own)?, arguments))
    }

    /// Any program.
    pub fn program<'a>(name: impl Into<String>, program: &Path, arguments: impl IntoIterator<Item = &'a str>) -> Step {
        let arguments = arguments.into_iter().map(OsString::from).collect();
        Step { name: name.into(), program: program.to_owned(), arguments }
    }

    /// One argument more.
    pub fn and(mut self, argument: impl AsRef<OsStr>) -> Step {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// An option and its value.
    pub fn with(self, option: &str, value: impl AsRef<OsStr>) -> Step {
        self.and(option).and(value)
    }

    /// The same command run by another program, which gets it as its last arguments.
    pub fn under(self, program: &Path, arguments: &[&str]) -> Step {
        let own = [self.program.into_os_string()].into_iter().chain(self.arguments);
        let arguments = arguments.iter().map(OsString::from).chain(own).collect();
        Step { name: self.name, program: program.to_owned(), arguments }
    }

    /// Runs it until it ends or its time is over.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn run(&self, clock: Clock) -> Result<Ended, CliError> {
        self.ended(clock).map_err(|source| CliError::Start { program: self.program.clone(), source })
    }

    fn ended(&self, clock: Clock) -> io::Result<Ended> {
        let began = Instant::now();
        let words = std::iter::once(self.program.as_os_str()).chain(self.arguments.iter().map(OsString::as_os_str));
        let command = words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ");
        // Files, not pipes: nothing blocks on a reader, and what a killed process said is still there.
        let (mut output, mut errors) = (tempfile::tempfile()?, tempfile::tempfile()?);
        let mut process = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(errors.try_clone()?)
            .spawn()?;
        let status = loop {
            if let Some(status) = process.try_wait()? {
                break Some(status);
            }
            if clock.left().is_zero() {
                process.kill()?;
                process.wait()?;
                break None;
            }
            std::thread::sleep(Duration::from_millis(20).min(clock.left()));
        };
        let errors = text(&mut errors)?;
        let mut lines = errors.lines().filter(|line| !line.trim().is_empty());
        // The line that says what went wrong; tools like to end with advice.
        let wrong = lines.clone().find(|line| line.starts_with("error")).or(lines.next_back());
        let last = wrong.unwrap_or("nothing on standard error");
        Ok(Ended {
            name: self.name.clone(),
            command,
            timed_out: status.is_none(),
            success: status.is_some_and(|status| status.success()),
            seconds: began.elapsed().as_secs_f64(),
            output: text(&mut output)?,
            complaint: match status {
                Some(status) => format!("{status}: {last}"),
                None => last.to_owned(),
            },
        })
    }
}

fn text(file: &mut std::fs::File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Runs steps on several lanes in their order and tells of each end as it comes. Those that no time is left for are
/// told of too, as `None`.
///
/// # Errors
/// A step that cannot be started, or what `tell` says.
pub fn lanes<T>(steps: &[Step], lanes: usize, clock: Clock, tell: T) -> Result<(), CliError>
where
    T: FnMut(&Step, Option<Ended>) -> Result<(), CliError> + Send,
{
    let (next, tell) = (Mutex::new(steps.iter()), Mutex::new(tell));
    let lane = || -> Result<(), CliError> {
        loop {
            // A poisoned lock means that another lane has panicked, which the scope passes on.
            let step = next.lock().ok().and_then(|mut steps| steps.next());
            let Some(step) = step else { return Ok(()) };
            let ended = if clock.left().is_zero() { None } else { Some(step.run(clock)?) };
            if let Ok(mut tell) = tell.lock() {
                tell(step, ended)?;
            }
        }
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..lanes.max(1)).map(|_| scope.spawn(lane)).collect();
        running.into_iter().try_for_each(|lane| match lane.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::{Step, lanes};
    use crate::hardware_check::clock::Clock;
    use std::path::Path;

    fn shell(script: &str) -> Step {
        Step::program(script, Path::new("/bin/sh"), ["-c", script])
    }

    #[test]
    fn a_process_that_hangs_is_stopped_and_keeps_what_it_said() {
        let ended = shell("echo before; exec sleep 60").run(Clock::start(0.01)).unwrap();
        assert!(ended.timed_out && !ended.success && ended.seconds < 10.0);
        assert_eq!(ended.output, "before\n");
    }

    #[test]
    fn a_process_that_fails_says_why() {
        let ended = shell("echo the reason >&2; exit 3").run(Clock::start(1.0)).unwrap();
        assert!(!ended.timed_out && !ended.success);
        assert!(ended.complaint.contains('3') && ended.complaint.contains("the reason"), "{}", ended.complaint);
    }

    #[test]
    fn lanes_run_every_step_and_tell_of_those_without_time() {
        let steps: Vec<Step> = (0..5).map(|n| shell(&format!("echo {n}"))).collect();
        let mut told = Vec::new();
        lanes(&steps, 2, Clock::start(1.0), |step, ended| {
            told.push((step.name.clone(), ended.unwrap().output));
            Ok(())
        })
        .unwrap();
        told.sort();
        let want: Vec<_> = (0..5).map(|n| (format!("echo {n}"), format!("{n}\n"))).collect();
        assert_eq!(told, want);
        let mut late = 0;
        lanes(&steps, 2, Clock::start(1.0).until(0.0), |_, ended| {
            late += usize::from(ended.is_none());
            Ok(())
        })
        .unwrap();
        assert_eq!(late, 5);
    }
}
