//! Kernels as the macro embeds them, and how each is made ready for an architecture.

use std::fmt;

use gdn2_codegen::arch::Arch;
use gdn2_codegen::committed::{StampedCubin, StampedPtx, tuned_stem};
use gdn2_codegen::kernel::{CudaSource, Pass};
use gdn2_codegen::lookup::Step;
use gdn2_codegen::schedule::{Schedule, ScheduleError};
use gdn2_dsl::Rule;
use gdn2_runtime::artifact::{Artifact, Compiler};
use gdn2_runtime::engine::RunError;
use gdn2_runtime::nvrtc::NvrtcError;

/// One pass of a rule as the macro embeds it.
#[derive(Clone, Copy, Debug)]
pub struct Embedded {
    /// The pass.
    pub pass: Pass,
    /// Files of PTX compiled ahead, by architecture, each in the built-in schedule of its architecture.
    pub ptx: &'static [(Arch, &'static str)],
    /// Files of machine code compiled ahead in tuned schedules, by architecture, with their names.
    pub cubins: &'static [(Arch, &'static str, &'static [u8])],
    /// Texts that the program names for its kernels.
    pub edited: &'static [EditedKernel],
}

/// A hand-edited text in the place of a pass's kernel on one architecture.
#[derive(Clone, Copy, Debug)]
pub struct EditedKernel {
    /// The architecture it was generated for.
    pub arch: Arch,
    /// The schedule it was generated in.
    pub schedule: &'static str,
    /// The file, as the macro call names it.
    pub file: &'static str,
    /// The text.
    pub cuda: &'static str,
    /// A file of PTX compiled ahead from it.
    pub ptx: Option<&'static str>,
}

/// A file of tuning records that the macro embeds: the user's own.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// The GPU, as its file is named.
    pub gpu: &'static str,
    /// The file.
    pub records: &'static [u8],
}

/// Where a kernel's code came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// Machine code of a tuned schedule that was compiled ahead of time and embedded.
    EmbeddedCubin,
    /// PTX that was compiled ahead of time for this architecture and embedded.
    EmbeddedPtx,
    /// PTX that was compiled ahead of time for an older architecture and embedded, since no compiler is here.
    OlderPtx,
    /// Generated and compiled when it was loaded.
    Generated,
    /// The built-in kernel in the place of a tuned one, which needs a compiler that is not here.
    WithoutCompiler,
    /// PTX that was compiled ahead of time from a hand-edited text that the program names.
    EditedPtx {
        /// The text's file.
        file: &'static str,
    },
    /// A hand-edited text that the program names, compiled when it was first loaded.
    EditedSource {
        /// The text's file.
        file: &'static str,
    },
}

/// Which kernel a call of some shape gets in one pass, and why.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Explanation {
    /// The pass.
    pub pass: Pass,
    /// The architecture it is generated for.
    pub arch: Arch,
    /// Its schedule.
    pub schedule: Schedule,
    /// Which tuning record chose the schedule, or that none applies.
    pub step: Step,
    /// Where its code came from; none where it is not made yet, which `warmup` or the first such call does.
    pub origin: Option<Origin>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}, {} ({}): ", self.pass, self.arch, self.schedule, self.step)?;
        let origin = match self.origin {
            Some(Origin::EditedPtx { file }) => return write!(f, "{file}, its embedded PTX"),
            Some(Origin::EditedSource { file }) => return write!(f, "{file}, compiled here"),
            Some(Origin::EmbeddedCubin) => "embedded machine code of a tuned schedule",
            Some(Origin::EmbeddedPtx) => "embedded PTX of this architecture",
            Some(Origin::OlderPtx) => "embedded PTX of an older architecture: no compiler was found",
            Some(Origin::Generated) => "generated and compiled here",
            Some(Origin::WithoutCompiler) => "the built-in kernel: the tuned one needs a compiler, none was found",
            None => "not ready yet: warmup makes it so",
        };
        f.write_str(origin)
    }
}

/// The architecture whose PTX every later one understands, and that the virtual machine stands in for.
pub(crate) const OLDEST: Arch = Arch::Sm80;

impl Embedded {
    /// The pass for an architecture: compiled ahead of time where that was done, else now, or earlier and cached. Where
    /// no compiler is found, PTX of the oldest architecture serves the newer ones that can hold its schedule.
    pub(crate) fn artifact(
        &self,
        rule: &Rule,
        arch: Arch,
        compiler: &Compiler,
    ) -> Result<(Artifact, Origin), RunError> {
        if let Some(ready) = self.compiled(rule, arch, arch)? {
            return Ok((ready, Origin::EmbeddedPtx));
        }
        let schedule = Schedule::default_for(rule, self.pass, arch)?;
        let kernel = gdn2_codegen::bind(rule, self.pass, schedule, arch)?;
        match compiler.compile(kernel) {
            Ok(artifact) => Ok((artifact, Origin::Generated)),
            Err(missing @ NvrtcError::Missing { .. }) => {
                let older = self.compiled(rule, OLDEST, arch).ok().flatten();
                older.map(|artifact| (artifact, Origin::OlderPtx)).ok_or(missing.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The pass in a tuned schedule, where machine code of exactly the text that is generated now is embedded.
    pub(crate) fn tuned(&self, rule: &Rule, arch: Arch, schedule: Schedule) -> Result<Option<Artifact>, RunError> {
        let named = tuned_stem(rule, self.pass, arch, schedule);
        let files = self.cubins.iter().filter(|(of, name, _)| *of == arch && *name == named);
        let Some(file) = files.filter_map(|(_, _, file)| StampedCubin::read(file)).next() else { return Ok(None) };
        let kernel = gdn2_codegen::bind(rule, self.pass, schedule, arch)?;
        let artifact = Artifact::from_cubin(kernel, file.cubin.to_vec(), file.compiler.parse().ok());
        Ok((artifact.source.hash == file.source).then_some(artifact))
    }

    /// The schedules of the hand-edited kernels that calls on an architecture get.
    pub(crate) fn edited_schedules(&self, rule: &Rule, arch: Arch) -> Result<Vec<Schedule>, ScheduleError> {
        let own = self.edited.iter().filter(|edited| edited.arch == arch);
        own.map(|edited| Schedule::from_overrides(rule, self.pass, arch, edited.schedule)).collect()
    }

    /// The hand-edited kernel in a schedule, if there is one.
    pub(crate) fn edited(
        &self,
        rule: &Rule,
        arch: Arch,
        schedule: Schedule,
        compiler: &Compiler,
    ) -> Result<Option<(Artifact, Origin)>, RunError> {
        let named = schedule.to_string();
        let Some(edited) = self.edited.iter().find(|own| own.arch == arch && own.schedule == named) else {
            return Ok(None);
        };
        let kernel = gdn2_codegen::bind(rule, self.pass, schedule, arch)?;
        let (source, file) = (CudaSource::new(edited.cuda.to_owned()), edited.file);
        // Nobody else may have touched what was compiled ahead since the macro looked.
        let ptx = edited.ptx.and_then(StampedPtx::read).filter(|stamped| stamped.source == source.hash);
        Ok(Some(match ptx {
            Some(stamped) => {
                (Artifact::from_ptx_of(kernel, source, stamped.ptx.to_owned()), Origin::EditedPtx { file })
            }
            None => (compiler.compile_text(kernel, source)?, Origin::EditedSource { file }),
        }))
    }

    /// The PTX made for one architecture, to run on another, where it was compiled from the text that is generated now.
    fn compiled(&self, rule: &Rule, made_for: Arch, arch: Arch) -> Result<Option<Artifact>, RunError> {
        let files = self.ptx.iter().filter(|(compiled_for, _)| *compiled_for == made_for);
        let stamped: Vec<StampedPtx<'_>> = files.filter_map(|(_, file)| StampedPtx::read(file)).collect();
        if stamped.is_empty() {
            return Ok(None);
        }
        let schedule = Schedule::default_for(rule, self.pass, made_for)?;
        let kernel = gdn2_codegen::bind(rule, self.pass, schedule, made_for)?;
        let source = gdn2_codegen::render(&kernel);
        let Some(own) = stamped.into_iter().find(|stamped| stamped.source == source.hash) else { return Ok(None) };
        let kernel = if made_for == arch { kernel } else { gdn2_codegen::bind(rule, self.pass, schedule, arch)? };
        Ok(Some(Artifact::from_ptx_of(kernel, source, own.ptx.to_owned())))
    }
}
