//! Candidates run in processes of their own: one that hangs is killed, one that takes its process down costs itself.
//!
//! A worker reads one [`Request`] per line from standard input and writes one [`Answer`] per line to standard output,
//! in order, until its input ends.

use crate::job::Job;
use crate::log::Effort;
use crate::outcome::{Outcome, Reason, Sample};
use gdn2_codegen::schedule::Schedule;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

/// How far a worker is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Compile into the artifact cache: many at once, ahead of the measurement.
    Prepare,
    /// Compile where that is not done, check the outputs, take the time; of predictions the time alone.
    Evaluate,
    /// Check the outputs of a candidate that has a time by the clock.
    Check,
}

/// What a worker is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The search.
    pub job: Job,
    /// The candidate.
    pub schedule: Schedule,
    /// How hard to look; its round seeds the inputs.
    pub effort: Effort,
    /// How far to go.
    pub step: Step,
    /// Whether calls get it today: then it has a time even where it spills registers, for others to be held against.
    #[serde(default)]
    pub holder: bool,
    /// What the clock said of it, where its outputs are to be checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timed: Option<Sample>,
}

/// What a worker answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// What became of the candidate; `None` where it was only to be prepared and that went well.
    pub outcome: Option<Outcome>,
}

/// The worker's side: answers requests until the input ends.
pub fn serve(
    input: impl BufRead,
    output: impl Write,
    mut evaluate: impl FnMut(&Request) -> Option<Outcome>,
) -> io::Result<()> {
    let mut output = BufWriter::new(output);
    for line in input.lines() {
        let request: Request = serde_json::from_str(&line?)?;
        serde_json::to_writer(&mut output, &Answer { outcome: evaluate(&request) })?;
        output.write_all(b"\n")?;
        output.flush()?;
    }
    Ok(())
}

/// Starts workers and keeps their number.
pub struct Pool {
    command: Box<dyn Fn() -> Command + Send + Sync>,
    size: usize,
    timeout: Duration,
    /// Workers that wait for the next requests: what they have loaded and drawn serves again.
    idle: Mutex<Vec<Worker>>,
}

/// One finished request.
#[derive(Debug)]
pub struct Finished {
    /// Its place in the list of requests.
    pub at: usize,
    /// What became of it, as in [`Answer`].
    pub outcome: Option<Outcome>,
    /// Seconds it took.
    pub seconds: f64,
}

impl Pool {
    /// `size` workers, each started by `command` when it is first needed and killed when it takes longer than
    /// `timeout` over one request.
    pub fn new(command: impl Fn() -> Command + Send + Sync + 'static, size: usize, timeout: Duration) -> Pool {
        Pool { command: Box::new(command), size: size.max(1), timeout, idle: Mutex::new(Vec::new()) }
    }

    /// Runs requests on all workers and hands each result over as it comes. `until` stops the handing out of new
    /// requests; those under way end by themselves or by their timeout.
    pub fn run(&self, requests: &[Request], until: Option<Instant>, mut done: impl FnMut(Finished)) {
        let queue = Mutex::new((0..requests.len()).collect::<VecDeque<usize>>());
        let (results, finished) = mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..self.size.min(requests.len()) {
                let (queue, results) = (&queue, results.clone());
                scope.spawn(move || self.drain(requests, queue, until, &results));
            }
            drop(results);
            finished.iter().for_each(&mut done);
        });
    }

    fn drain(
        &self,
        requests: &[Request],
        queue: &Mutex<VecDeque<usize>>,
        until: Option<Instant>,
        results: &Sender<Finished>,
    ) {
        let mut worker = self.idle.lock().ok().and_then(|mut idle| idle.pop());
        while until.is_none_or(|until| Instant::now() < until) {
            let next = queue.lock().ok().and_then(|mut queue| queue.pop_front());
            let Some(at) = next else { break };
            let start = Instant::now();
            let outcome = match self.ask(&mut worker, &requests[at]) {
                Ok(answer) => answer.outcome,
                Err(failure) => {
                    // Dropping a worker kills its process.
                    worker = None;
                    Some(failure)
                }
            };
            if results.send(Finished { at, outcome, seconds: start.elapsed().as_secs_f64() }).is_err() {
                break;
            }
        }
        if let (Some(worker), Ok(mut idle)) = (worker, self.idle.lock()) {
            idle.push(worker);
        }
    }

    fn ask(&self, worker: &mut Option<Worker>, request: &Request) -> Result<Answer, Outcome> {
        let lost = |error: io::Error| Outcome::invalid(Reason::Runtime, format!("worker process: {error}"));
        let running = match worker {
            Some(running) => running,
            None => worker.insert(Worker::start((self.command)()).map_err(lost)?),
        };
        running.ask(request, self.timeout)
    }
}

/// A worker process, killed when dropped.
struct Worker {
    process: Child,
    input: ChildStdin,
    lines: Receiver<io::Result<String>>,
}

impl Worker {
    fn start(mut command: Command) -> io::Result<Worker> {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let (Some(input), Some(output)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(io::Error::other("a worker without standard streams"));
        };
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Worker { process, input, lines })
    }

    fn ask(&mut self, request: &Request, timeout: Duration) -> Result<Answer, Outcome> {
        let mut line = serde_json::to_vec(request)
            .map_err(|error| Outcome::invalid(Reason::Runtime, format!("request: {error}")))?;
        line.push(b'\n');
        if self.input.write_all(&line).and_then(|()| self.input.flush()).is_err() {
            return Err(self.epitaph());
        }
        match self.lines.recv_timeout(timeout) {
            Ok(Ok(answer)) => serde_json::from_str(&answer)
                .map_err(|error| Outcome::invalid(Reason::Runtime, format!("worker answered {answer:?}: {error}"))),
            Err(RecvTimeoutError::Timeout) => Err(Outcome::invalid(
                Reason::Timeout,
                format!("no answer after {:.1} s, worker killed", timeout.as_secs_f64()),
            )),
            Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => Err(self.epitaph()),
        }
    }

    fn epitaph(&mut self) -> Outcome {
        let how = match self.process.wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        Outcome::invalid(Reason::Runtime, format!("worker died: {how}"))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Already gone is as good as killed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
