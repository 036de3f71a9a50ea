//! `gdn2 micro`: what the clock must know of Hopper and no document says.

mod asked;
mod copies;
mod products;

use std::path::Path;

use gdn2_clock::gpu::Explanation;
use gdn2_codegen::arch::Arch;
use gdn2_runtime::device::Device;
use gdn2_runtime::toolchain::Nvdisasm;
use gdn2_tune::published::Learnt;
use gdn2_tune::timing;

use self::asked::Asked;
use self::copies::ROUTES;
use self::products::QUESTIONS;
use crate::error::CliError;
use crate::gpu::Target;
use crate::progress::Progress;
use crate::{Verdict, compiler, tuned, write};

/// Ask a Hopper GPU what the clock's explanations disagree about
///
/// A kernel for each question counts the clocks of a turn of warpgroup products: chains on one accumulator and on two, one
/// warpgroup and two, A in registers and in shared memory, small products beside them. Beside what was measured stands what
/// the clock says: at the data sheet's rate, with a slower pipe, and with a slower chain. Then the ways by which a chunk's
/// rows come into shared memory: the clocks in which they are asked for and in which they arrive. On the virtual machine the
/// kernels run under every check, and nothing is measured.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  gdn2 micro --device vm\n  gdn2 micro --device cuda:0 --json")]
pub struct Args {
    /// vm or cuda:N, which must be a Hopper GPU
    #[arg(long, value_name = "DEVICE")]
    device: String,
    /// GPU that the clock speaks of
    #[arg(long, default_value = "h200", value_name = "GPU")]
    target: String,
    #[command(flatten)]
    compiler: compiler::Flags,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(&self) -> Result<Verdict, CliError> {
        let device: Device = self.device.parse()?;
        if let Device::Cuda(gpu) = &device
            && gpu.arch() != Arch::Sm90a
        {
            let why = format!("--device: these kernels are sm_90a's, the GPU is {}", gpu.arch());
            return Err(CliError::Usage(why));
        }
        let target = Target::named(&self.target, Path::new(tuned::FOLDER))?;
        let gpu = timing::gpu(target.constants()?).map_err(|error| CliError::Usage(error.to_string()))?;
        let (disassembler, compiler) = (Nvdisasm::find(&self.compiler.search())?, self.compiler.bare());
        let asked = Asked { device: &device, nvrtc: compiler.nvrtc()?, disassembler: &disassembler, gpu: &gpu };
        let explanations = Explanation::both(Learnt::shipped()?.fit.wgmma_surplus);
        let progress = Progress::new("asking", QUESTIONS.len() + ROUTES.len());
        let (mut rows, mut copies) = (Vec::new(), Vec::new());
        for question in &QUESTIONS {
            progress.step(question.name);
            rows.push(question.answer(&asked, explanations)?);
        }
        for (number, route) in ROUTES.into_iter().enumerate() {
            progress.step(route);
            copies.push(copies::answer(&asked, number, route)?);
        }
        drop(progress);
        let text = if self.json {
            format!("{:#}\n", serde_json::json!({ "device": self.device, "rows": rows, "copies": copies }))
        } else {
            let basis = match device {
                Device::Cuda(_) => "a turn",
                _ => "rehearsed on the virtual machine: nothing is measured; a turn",
            };
            let (rows, copies) = (products::table(&rows), copies::table(&copies));
            format!("{basis} is 16 products of 64 x 64 x 16\n\n{rows}\n\n{copies}\n")
        };
        write::stdout(text.as_bytes())?;
        Ok(Verdict::Good)
    }
}
