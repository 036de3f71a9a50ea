//! The kernels of a rule on one device: what its tuning records say is indexed on load, and each call gets the kernel
//! of its shape.

use std::ffi::c_void;
use std::sync::{Arc, OnceLock};

use crate::embedded::{Embedded, Explanation, Origin, Tuning};
use crate::error::Error;
use gdn2_codegen::abi::{Extents, Workspace};
use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::{Kernel, Pass};
use gdn2_codegen::lookup::{Index, Question, Step};
use gdn2_codegen::record::{Records, shipped};
use gdn2_codegen::schedule::Schedule;
use gdn2_dsl::Rule;
use gdn2_runtime::artifact::{Artifact, Compiler};
use gdn2_runtime::device::launch::{Gpu, Launcher};
use gdn2_runtime::engine::{RunError, Training};
use gdn2_runtime::nvrtc::NvrtcError;
use gdn2_runtime::raw::{self, Arguments};
use gdn2_runtime::toolchain::Search;

/// More workspaces than any kernel has.
const MOST_WORKSPACES: usize = 16;
/// Workspaces start at multiples of this, as allocations do.
const ALIGNMENT: usize = 256;

/// Where kernels come from.
#[derive(Clone, Copy)]
pub(crate) enum Source {
    /// What the macro embedded.
    Embedded(&'static [Embedded]),
    /// The generator, for a rule that is known only at run time.
    Generator,
}

/// Kernels by pass and schedule.
pub(crate) struct Bank {
    rule: Rule,
    arch: Arch,
    gpu: Option<Arc<dyn Gpu>>,
    source: Source,
    compiler: Compiler,
    forward: Variants<Ready>,
    decode: Variants<Ready>,
    /// Absent where no backward kernel fits.
    training: Option<Variants<Trained>>,
}

/// The kernels that calls of one pass can get, each made ready when it is first asked for.
struct Variants<T> {
    index: Index,
    /// How many kernels after the built-in one the program names itself: where there are any, calls get no others.
    named: usize,
    /// The built-in kernel first.
    all: Vec<Variant<T>>,
}

struct Variant<T> {
    /// The schedule that records ask for; none is the built-in kernel.
    schedule: Option<Schedule>,
    ready: OnceLock<T>,
}

/// A kernel of inference.
pub(crate) struct Ready {
    pub artifact: Artifact,
    origin: Origin,
    launcher: Option<Launcher>,
}

/// The kernels of a training step.
pub(crate) struct Trained {
    pub kernels: Training,
    origin: Origin,
    launchers: Option<(Option<Launcher>, Launcher)>,
}

impl<T> Variants<T> {
    fn new(index: Index, named: &[Schedule]) -> Variants<T> {
        let tuned = index.schedules().into_iter().filter(|schedule| *schedule != index.built_in());
        let own = if named.is_empty() { tuned.collect() } else { named.to_vec() };
        let all = [None].into_iter().chain(own.into_iter().map(Some));
        let all = all.map(|schedule| Variant { schedule, ready: OnceLock::new() }).collect();
        Variants { all, index, named: named.len() }
    }

    /// The variant for a call, and which step of the lookup chose it.
    fn choose(&self, extents: Option<Extents>) -> (Option<&Variant<T>>, Schedule, Step) {
        let (schedule, step) = self.index.choose(extents);
        if self.named > 0 {
            // Of several, the one in the schedule that the call would get otherwise, else the first.
            let mut named = self.all.iter().skip(1);
            let fits = named.clone().find(|variant| variant.schedule == Some(schedule));
            let variant = fits.or(named.next());
            return (variant, variant.and_then(|variant| variant.schedule).unwrap_or(schedule), Step::Named);
        }
        let variant = self.all.iter().find(|variant| variant.schedule == Some(schedule)).or(self.all.first());
        (variant, schedule, step)
    }

    /// The kernel for a call, made now where it was not before.
    fn get(
        &self,
        extents: Option<Extents>,
        make: impl FnOnce(Option<Schedule>) -> Result<T, RunError>,
    ) -> Result<&T, RunError> {
        self.choose(extents).0.ok_or(RunError::Pass(Pass::Forward))?.get(make)
    }

    /// The built-in kernel, made now where it was not before.
    fn built_in(&self, make: impl FnOnce() -> Result<T, RunError>) -> Result<&T, RunError> {
        self.all.first().ok_or(RunError::Pass(Pass::Forward))?.get(|_| make())
    }
}

impl<T> Variant<T> {
    fn get(&self, make: impl FnOnce(Option<Schedule>) -> Result<T, RunError>) -> Result<&T, RunError> {
        match self.ready.get() {
            Some(ready) => Ok(ready),
            None => {
                let made = make(self.schedule)?;
                // Another thread may have been faster; its kernel is the same.
                Ok(self.ready.get_or_init(|| made))
            }
        }
    }
}

impl Bank {
    /// Indexes the records and makes the inference kernels ready that calls are likeliest to get.
    pub fn new(
        rule: &Rule,
        arch: Arch,
        gpu: Option<Arc<dyn Gpu>>,
        source: Source,
        tuning: &[Tuning],
    ) -> Result<Bank, Error> {
        let records = match &gpu {
            Some(gpu) => records(&gpu.identity().map_err(RunError::from)?.records(), tuning),
            None => Records::default(),
        };
        let index = |pass| {
            let question = Question { rule, pass, arch, extents: None, compiler: None };
            records.index(&question).map_err(RunError::from)
        };
        let named = |pass| match source {
            Source::Embedded(entries) => {
                let entry = entries.iter().find(|entry| entry.pass == pass);
                entry.map_or(Ok(Vec::new()), |entry| entry.edited_schedules(rule, arch)).map_err(RunError::from)
            }
            Source::Generator => Ok(Vec::new()),
        };
        let trains = match source {
            Source::Embedded(entries) => entries.iter().any(|entry| entry.pass == Pass::Backward),
            Source::Generator => true,
        };
        let bank = Bank {
            arch,
            gpu,
            source,
            compiler: Compiler::new(Search::from_environment(None, None)),
            forward: Variants::new(index(Pass::Forward)?, &named(Pass::Forward)?),
            decode: Variants::new(index(Pass::Decode)?, &named(Pass::Decode)?),
            training: match trains {
                true => Some(Variants::new(index(Pass::Backward)?, &named(Pass::Backward)?)),
                false => None,
            },
            rule: rule.clone(),
        };
        bank.inference(Pass::Forward, None)?;
        bank.inference(Pass::Decode, None)?;
        Ok(bank)
    }

    /// The kernel of forward or decode for a call.
    pub fn inference(&self, pass: Pass, extents: Option<Extents>) -> Result<&Ready, RunError> {
        let variants = if pass == Pass::Decode { &self.decode } else { &self.forward };
        variants.get(extents, |schedule| self.ready(pass, schedule))
    }

    /// The kernel of forward for a call that brings no scratch memory: the built-in one where the call's own needs some.
    pub fn without_scratch(&self, extents: Extents) -> Result<&Ready, RunError> {
        let ready = self.inference(Pass::Forward, Some(extents))?;
        if ready.artifact.kernel.workspaces.is_empty() {
            return Ok(ready);
        }
        self.forward.built_in(|| self.ready(Pass::Forward, None))
    }

    fn ready(&self, pass: Pass, schedule: Option<Schedule>) -> Result<Ready, RunError> {
        let (artifact, origin) = self.make(pass, schedule)?;
        let launcher = self.launcher(&artifact)?;
        Ok(Ready { artifact, origin, launcher })
    }

    /// The kernels of training for a call.
    pub fn training(&self, extents: Extents) -> Result<&Trained, Error> {
        let variants = self.training.as_ref().ok_or_else(|| Error::NoBackward(self.rule.name.clone()))?;
        Ok(variants.get(Some(extents), |schedule| {
            let (backward, origin) = self.make(Pass::Backward, schedule)?;
            let forward = match backward.kernel.keeping_forward() {
                Some(overrides) => Some(self.keeping(&overrides)?),
                None => None,
            };
            let launchers = match self.launcher(&backward)? {
                Some(last) => Some((forward.as_ref().map(|first| self.launcher(first)).transpose()?.flatten(), last)),
                None => None,
            };
            Ok(Trained { kernels: Training { forward, backward }, origin, launchers })
        })?)
    }

    /// Makes ready what calls of a shape need.
    pub fn warmup(&self, extents: Extents) -> Result<(), Error> {
        self.without_scratch(extents)?;
        self.inference(Pass::Decode, Some(extents))?;
        if self.training.is_some() {
            self.training(extents)?;
        }
        Ok(())
    }

    /// Which kernel each pass of a shape gets.
    pub fn explain(&self, extents: Extents) -> Vec<Explanation> {
        let explain = |pass, (ready, schedule, step): (Option<(Schedule, Origin)>, Schedule, Step)| {
            let (schedule, origin) = ready.map_or((schedule, None), |(schedule, origin)| (schedule, Some(origin)));
            Explanation { pass, arch: self.arch, schedule, step, origin }
        };
        let ready = |variants: &Variants<Ready>| {
            let (variant, schedule, step) = variants.choose(Some(extents));
            let ready = variant.and_then(|variant| variant.ready.get());
            (ready.map(|ready| (ready.artifact.kernel.schedule, ready.origin)), schedule, step)
        };
        let trained = |variants: &Variants<Trained>| {
            let (variant, schedule, step) = variants.choose(Some(extents));
            let ready = variant.and_then(|variant| variant.ready.get());
            (ready.map(|ready| (ready.kernels.backward.kernel.schedule, ready.origin)), schedule, step)
        };
        let training = self.training.as_ref().map(|variants| explain(Pass::Backward, trained(variants)));
        let inference = [explain(Pass::Forward, ready(&self.forward)), explain(Pass::Decode, ready(&self.decode))];
        inference.into_iter().chain(training).collect()
    }

    fn launcher(&self, artifact: &Artifact) -> Result<Option<Launcher>, RunError> {
        Ok(self.gpu.as_ref().map(|gpu| Launcher::new(&**gpu, artifact)).transpose()?)
    }

    /// A kernel in a tuned schedule, or where there is none for want of a compiler, or none is asked for, the built-in
    /// one.
    fn make(&self, pass: Pass, schedule: Option<Schedule>) -> Result<(Artifact, Origin), RunError> {
        let Some(schedule) = schedule else { return self.built_in(pass) };
        if let Source::Embedded(entries) = self.source
            && let Some(entry) = entries.iter().find(|entry| entry.pass == pass)
            && let Some(edited) = entry.edited(&self.rule, self.arch, schedule, &self.compiler)?
        {
            return Ok(edited);
        }
        if let Source::Embedded(entries) = self.source
            && let Some(entry) = entries.iter().find(|entry| entry.pass == pass)
            && let Some(artifact) = entry.tuned(&self.rule, self.arch, schedule)?
        {
            return Ok((artifact, Origin::EmbeddedCubin));
        }
        match self.compile(pass, schedule) {
            Err(RunError::Nvrtc(NvrtcError::Missing { .. })) => {
                let (artifact, _) = self.built_in(pass)?;
                Ok((artifact, Origin::WithoutCompiler))
            }
            made => Ok((made?, Origin::Generated)),
        }
    }

    fn built_in(&self, pass: Pass) -> Result<(Artifact, Origin), RunError> {
        match self.source {
            Source::Embedded(entries) => {
                let entry = entries.iter().find(|entry| entry.pass == pass).ok_or(RunError::Pass(pass))?;
                entry.artifact(&self.rule, self.arch, &self.compiler)
            }
            Source::Generator => {
                let schedule = Schedule::default_for(&self.rule, pass, self.arch)?;
                Ok((self.compile(pass, schedule)?, Origin::Generated))
            }
        }
    }

    /// The forward kernel that keeps what a backward kernel reads: the embedded one where its chunk is the right one and
    /// sequences stay whole, or where there is no compiler.
    fn keeping(&self, overrides: &str) -> Result<Artifact, RunError> {
        let pass = Pass::ForwardForBackward;
        let wanted = Schedule::from_overrides(&self.rule, pass, self.arch, overrides)?;
        let embedded = || {
            let Source::Embedded(entries) = self.source else { return None };
            let entry = entries.iter().find(|entry| entry.pass == pass)?;
            let (artifact, _) = entry.artifact(&self.rule, self.arch, &self.compiler).ok()?;
            (artifact.kernel.schedule.chunk() == wanted.chunk()).then_some(artifact)
        };
        if wanted.segments() == 1
            && let Some(artifact) = embedded()
        {
            return Ok(artifact);
        }
        match self.compile(pass, wanted) {
            Err(missing @ RunError::Nvrtc(NvrtcError::Missing { .. })) => embedded().ok_or(missing),
            made => made,
        }
    }

    fn compile(&self, pass: Pass, schedule: Schedule) -> Result<Artifact, RunError> {
        let kernel = gdn2_codegen::bind(&self.rule, pass, schedule, self.arch)?;
        Ok(self.compiler.compile(kernel)?)
    }
}

/// The records of a GPU: those that come with the program, and the user's in their places.
fn records(gpu: &str, tuning: &[Tuning]) -> Records {
    let mut records = shipped(gpu);
    for own in tuning.iter().filter(|own| own.gpu == gpu) {
        Records::parse(own.records).0.iter().for_each(|record| records.insert(record.clone()));
    }
    records
}

impl Ready {
    /// Bytes of the scratch memory that the kernel takes.
    pub fn scratch_bytes(&self, extents: Extents) -> Result<usize, Error> {
        self.offset(None, extents)
    }

    /// Where a workspace starts in the scratch memory; without a name, where all end.
    fn offset(&self, name: Option<&str>, extents: Extents) -> Result<usize, Error> {
        place(self.artifact.kernel.workspaces.iter(), name, extents)
    }

    /// Puts the kernel on a stream.
    ///
    /// # Safety
    /// As [`Launcher::launch`]; the scratch memory has as many bytes as [`Ready::scratch_bytes`] says.
    pub unsafe fn launch(&self, stream: *mut c_void, call: &Arguments, scratch: u64) -> Result<(), Error> {
        let launcher = self.launcher.as_ref().ok_or(Error::NoStream)?;
        // SAFETY: the caller's promise.
        unsafe { put(launcher, stream, call, scratch, |name, extents| self.offset(Some(name), extents)) }
    }
}

/// Where a workspace starts among others that lie one after another; without a name, where all end.
fn place<'a>(
    workspaces: impl Iterator<Item = &'a Workspace>,
    name: Option<&str>,
    extents: Extents,
) -> Result<usize, Error> {
    let mut end = 0usize;
    for workspace in workspaces {
        if name == Some(workspace.name.as_str()) {
            return Ok(end);
        }
        end += raw::bytes_of(workspace, extents)?.next_multiple_of(ALIGNMENT);
    }
    Ok(end)
}

/// Puts a pass on a stream, each of its workspaces `offset` bytes into the scratch memory.
///
/// # Safety
/// As [`Launcher::launch`]; every workspace lies in the scratch memory.
unsafe fn put(
    pass: &Launcher,
    stream: *mut c_void,
    call: &Arguments,
    scratch: u64,
    offset: impl Fn(&str, Extents) -> Result<usize, Error>,
) -> Result<(), Error> {
    let extents = call.extents()?;
    let Kernel { workspaces, .. } = pass.kernel();
    let mut own = [0; MOST_WORKSPACES];
    for (place, workspace) in own.iter_mut().zip(workspaces) {
        *place = scratch + offset(&workspace.name, extents)? as u64;
    }
    let own = own.get(..workspaces.len()).unwrap_or(&own);
    // SAFETY: the caller's promise.
    Ok(unsafe { pass.launch(stream, call, own) }?)
}

impl Trained {
    /// Bytes of the scratch memory that the passes share.
    pub fn scratch_bytes(&self, extents: Extents) -> Result<usize, Error> {
        self.offset(None, extents)
    }

    /// Where a workspace starts in the scratch memory, each name of both passes once; without a name, where all end.
    fn offset(&self, name: Option<&str>, extents: Extents) -> Result<usize, Error> {
        let first = || self.kernels.forward.iter().flat_map(|artifact| &artifact.kernel.workspaces);
        let last = self.kernels.backward.kernel.workspaces.iter();
        let own = last.filter(|workspace| first().all(|known| known.name != workspace.name));
        place(first().chain(own), name, extents)
    }

    /// Puts forward, which keeps in the scratch memory what backward reads. `None` where nothing is kept: the forward
    /// pass of inference will do.
    ///
    /// # Safety
    /// As [`Launcher::launch`]; the scratch memory has as many bytes as [`Trained::scratch_bytes`] says.
    pub unsafe fn forward(&self, stream: *mut c_void, call: &Arguments, scratch: u64) -> Option<Result<(), Error>> {
        let (forward, _) = self.launchers.as_ref()?;
        // SAFETY: the caller's promise.
        forward.as_ref().map(|forward| unsafe { self.put(forward, stream, call, scratch) })
    }

    /// Puts backward.
    ///
    /// # Safety
    /// As [`Trained::forward`], after which it comes.
    pub unsafe fn backward(&self, stream: *mut c_void, call: &Arguments, scratch: u64) -> Result<(), Error> {
        let (_, backward) = self.launchers.as_ref().ok_or(Error::NoStream)?;
        // SAFETY: the caller's promise.
        unsafe { self.put(backward, stream, call, scratch) }
    }

    unsafe fn put(&self, pass: &Launcher, stream: *mut c_void, call: &Arguments, scratch: u64) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        unsafe { put(pass, stream, call, scratch, |name, extents| self.offset(Some(name), extents)) }
    }
}
