//! `gdn2 demo`: the project's main job in one command, from three rules to a table of errors.

use std::path::Path;

use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::Pass;
use gdn2_runtime::device::Device;
use gdn2_runtime::engine::{Engine, Run};
use gdn2_runtime::nvrtc::NvrtcError;
use gdn2_runtime::tensors::Case;

use crate::error::CliError;
use crate::progress::Progress;
use crate::rows::Rows;
use crate::select::Selection;
use crate::{Verdict, compiler, terminal, verify, write};

/// Generate the GDN, KDA and GDN-2 kernels, run them on the virtual machine, print their errors
///
/// Run in the repository's root. Fetches NVRTC with pip where there is none; where that fails too, the committed PTX
/// in kernels/ is run instead. No GPU is needed or used.
#[derive(clap::Args)]
pub struct Args {
    /// Architecture to generate for: sm_80 or sm_90a
    #[arg(long, default_value = "sm_80")]
    arch: Arch,
    #[command(flatten)]
    compiler: compiler::Flags,
}

const RULES: [&str; 3] = ["gdn", "kda", "gdn2"];

impl Args {
    pub fn run(&self) -> Result<Verdict, CliError> {
        let root = Path::new(".");
        if !root.join("tests/cases").is_dir() || !root.join("rules").is_dir() {
            let here = "demo reads rules/ and tests/cases/: run it in the repository's root";
            return Err(CliError::Usage(here.to_owned()));
        }
        let engine = self.engine()?;
        let device = Device::vm();
        let rules = RULES
            .iter()
            .map(|name| Selection::file(root.join(format!("rules/{name}.gdn2"))).rule())
            .collect::<Result<Vec<_>, _>>()?;
        let runs: Vec<Run<'_>> = rules
            .iter()
            .flat_map(|rule| [Pass::Forward, Pass::Decode].map(|pass| Run::new(rule, pass, &device)))
            .map(|run| Run { arch: Some(self.arch), ..run })
            .collect();
        let mut text = String::new();
        for run in &runs {
            let artifact = engine.artifact(run)?;
            let lines = artifact.source.text.lines().count();
            text += &format!("{:<5} {:<8} {lines:>5} lines of CUDA", run.rule.name, run.pass.name());
            for entry in &artifact.resources {
                let spilled = entry.spill_stores + entry.spill_loads;
                text += &format!(", {} registers, {spilled} bytes spilled", entry.registers);
            }
            text.push('\n');
        }
        write::stdout(format!("{text}\n").as_bytes())?;
        let mut rows = Rows::default();
        let cases = verify::cases(&[root.join("tests/cases")])?;
        let progress = Progress::new("running", cases.len());
        for path in cases {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            progress.step(&name);
            let case = Case::load(&path).map_err(|error| CliError::in_file(&path, error))?;
            let found = case.rule().map_err(|error| CliError::in_file(&path, error))?;
            let same = |run: &&Run<'_>| {
                run.rule.combination() == found.combination()
                    && (run.rule.key_dim, run.rule.value_dim) == (found.key_dim, found.value_dim)
            };
            for run in runs.iter().filter(same) {
                rows.judge(&name, &case, &engine, run)?;
            }
        }
        drop(progress);
        write::stdout(rows.table().as_bytes())?;
        Ok(rows.verdict())
    }

    /// An engine that can compile, or at least run what was committed.
    fn engine(&self) -> Result<Engine, CliError> {
        if let Err(missing @ NvrtcError::Missing { .. }) = self.compiler.bare().nvrtc() {
            let search = self.compiler.search();
            // Somebody who says where NVRTC is does not want another one.
            let told = search.explicit.is_some() || search.environment.is_some();
            let fetched = (!told).then(|| gdn2_runtime::toolchain::install(None, &mut terminal::note));
            match fetched {
                Some(Ok(_)) => {}
                Some(Err(reason)) => eprintln!("{missing}\n{reason}\nrunning the committed PTX in kernels/ instead"),
                None => eprintln!("{missing}\nrunning the committed PTX in kernels/ instead"),
            }
        }
        Ok(Engine::new(self.compiler.compiler(Path::new("kernels"))))
    }
}
