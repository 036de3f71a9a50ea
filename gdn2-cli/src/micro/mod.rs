//! `gdn2 micro`: the questions about Hopper's matrix units that the clock's two explanations answer differently.

use std::fmt::Write as _;
use std::path::Path;

use comfy_table::{CellAlignment, Table};
use gdn2_clock::gpu::{Explanation, Gpu};
use gdn2_clock::kernel::Kernel;
use gdn2_clock::launch::{Argument, Launch};
use gdn2_codegen::arch::Arch;
use gdn2_runtime::device::Device;
use gdn2_runtime::device::conformance::output;
use gdn2_runtime::nvrtc::{Compiled, Options};
use gdn2_runtime::toolchain::Nvdisasm;
use gdn2_tune::published::Learnt;
use gdn2_tune::timing;
use gdn2_vm::conformance::{Expected, Kernel as Small};
use serde::Serialize;

use crate::error::CliError;
use crate::gpu::Target;
use crate::progress::Progress;
use crate::{Verdict, compiler, grid, tuned, write};

const PRODUCTS: &str = include_str!("products.cu");

/// Turns of a measurement: what a turn costs is the difference between many and few.
const FEW: u32 = 16;
const MANY: u32 = 80;
/// Where the predictions' launches have their buffers.
const TURNS_AT: u64 = 0x10_0000;
const CLOCKS_AT: u64 = 0x20_0000;

/// Ask Hopper's matrix units what the clock's explanations disagree about
///
/// A kernel for each question counts the clocks of a turn of warpgroup products: chains on one accumulator and on two, one
/// warpgroup and two, A in registers and in shared memory, small products beside them. Beside what was measured stands what
/// the clock says: at the data sheet's rate, with a slower pipe, and with a slower chain. On the virtual machine the kernels
/// run under every check, and nothing is measured.
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

/// What is asked.
struct Question {
    name: &'static str,
    warpgroups: u32,
    /// Products of each group that is waited for.
    groups: &'static [u32],
    accumulators: u32,
    registers: bool,
    /// Small products a turn of one warp more.
    small: u32,
}

const QUESTIONS: [Question; 9] = [
    Question { name: "chain of 16", groups: &[16], ..ONE },
    Question { name: "chain of 16 on two accumulators", groups: &[16], accumulators: 2, ..ONE },
    Question { name: "chain of 16, A in shared memory", groups: &[16], registers: false, ..ONE },
    Question { name: "chains of 8, 4, 4", ..ONE },
    Question { name: "chain of 16, two warpgroups", groups: &[16], warpgroups: 2, ..ONE },
    Question { name: "chains of 8, 4, 4, two warpgroups", warpgroups: 2, ..ONE },
    Question { name: "the same, A in shared memory", warpgroups: 2, registers: false, ..ONE },
    Question { name: "chain of 16, 8 small products beside it", groups: &[16], small: 8, ..ONE },
    Question {
        name: "two warpgroups' chains, 8 small products beside them",
        groups: &[16],
        warpgroups: 2,
        small: 8,
        ..ONE
    },
];

/// As the state's warpgroups of the forward kernels have it.
const ONE: Question =
    Question { name: "", warpgroups: 1, groups: &[8, 4, 4], accumulators: 1, registers: true, small: 0 };

/// The answer, in clocks of a turn.
#[derive(Serialize)]
struct Row {
    question: &'static str,
    /// Of the slowest warp of the warpgroups; absent on the virtual machine.
    measured: Option<f64>,
    /// Of the warp with small products.
    measured_small: Option<f64>,
    data_sheet: f64,
    on_the_pipe: f64,
    in_a_chain: f64,
}

impl Question {
    fn threads(&self) -> u32 {
        self.warpgroups * 128 + if self.small > 0 { 32 } else { 0 }
    }

    fn source(&self) -> String {
        let group = |at: usize| self.groups.get(at).copied().unwrap_or(0).to_string();
        let groups = [0, 1, 2].map(group).join(", ");
        let numbers = [
            ("WARPGROUPS", self.warpgroups.to_string()),
            ("GROUPS", groups),
            ("ACCUMULATORS", self.accumulators.to_string()),
            ("A_IN_REGISTERS", u32::from(self.registers).to_string()),
            ("SMALL", self.small.to_string()),
        ];
        let mut text = String::new();
        for (name, value) in numbers {
            let _ = writeln!(text, "#define {name} {value}");
        }
        text + PRODUCTS
    }

    /// Clocks of each warp.
    fn run(&self, device: &Device, ptx: &str, turns: u32) -> Result<Vec<u64>, CliError> {
        let numbers = (self.threads() / 32 + self.threads()) as usize;
        let kernel = Small {
            name: self.name.to_owned(),
            ptx: ptx.to_owned(),
            sm: 90,
            threads: self.threads(),
            inputs: vec![turns.to_le_bytes().to_vec()],
            maps: Vec::new(),
            expected: Expected::Wides(vec![0; numbers]),
        };
        let bytes = output(device, &kernel).map_err(|error| CliError::Usage(format!("{}: {error}", self.name)))?;
        Ok(bytes.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect())
    }

    /// What the clock says a turn takes.
    fn predicted(&self, kernel: &Kernel, gpu: &Gpu, explanation: Explanation) -> Result<f64, CliError> {
        let total = |turns: u32| {
            let launch = Launch {
                grid: [1; 3],
                block: [self.threads(), 1, 1],
                arguments: vec![Argument::word64(TURNS_AT), Argument::word64(CLOCKS_AT)],
                memory: [(TURNS_AT, turns.to_le_bytes().to_vec())].into(),
                ..Launch::default()
            };
            let sample = kernel.sample(&launch)?;
            kernel.clocks(&launch, &sample, 1, gpu, explanation).map(|clocks| clocks.total)
        };
        let failed = |error: gdn2_clock::kernel::ClockError| CliError::Usage(format!("{}: {error}", self.name));
        Ok((total(MANY).map_err(failed)? - total(FEW).map_err(failed)?) / f64::from(MANY - FEW))
    }
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
        let measures = matches!(device, Device::Cuda(_));
        let target = Target::named(&self.target, Path::new(tuned::FOLDER))?;
        let constants = target.constants()?;
        let gpu = timing::gpu(constants).map_err(|error| CliError::Usage(error.to_string()))?;
        let disassembler = Nvdisasm::find(&self.compiler.search())?;
        let compiler = self.compiler.bare();
        let learnt = Learnt::shipped()?;
        let [pipe, chain] = Explanation::both(learnt.fit.wgmma_surplus);
        let progress = Progress::new("asking", QUESTIONS.len());
        let mut rows = Vec::new();
        for question in &QUESTIONS {
            progress.step(question.name);
            let Compiled { ptx, cubin, .. } =
                compiler.nvrtc()?.compile(&question.source(), Arch::Sm90a.target(), &Options::default())?;
            let few = question.run(&device, &ptx, FEW)?;
            // Whatever was loaded or clocked up for the first run is there for the second.
            let few = if measures { question.run(&device, &ptx, FEW)? } else { few };
            let many = if measures { question.run(&device, &ptx, MANY)? } else { few.clone() };
            let turn = |warps: std::ops::Range<usize>| {
                let slowest = |of: &[u64]| of.get(warps.clone()).and_then(|of| of.iter().max()).copied();
                let clocks = slowest(&many)?.saturating_sub(slowest(&few)?);
                measures.then(|| clocks as f64 / f64::from(MANY - FEW))
            };
            let large = question.warpgroups as usize * 4;
            let kernel = Kernel::read(&cubin, &disassembler.encoded_sass(&cubin)?, Some("k"))
                .map_err(|error| CliError::Usage(format!("{}: {error}", question.name)))?;
            rows.push(Row {
                question: question.name,
                measured: turn(0..large),
                measured_small: turn(large..large + 1).filter(|_| question.small > 0),
                data_sheet: question.predicted(&kernel, &gpu, Explanation::DataSheet)?,
                on_the_pipe: question.predicted(&kernel, &gpu, pipe)?,
                in_a_chain: question.predicted(&kernel, &gpu, chain)?,
            });
        }
        drop(progress);
        let text = match self.json {
            true => format!("{:#}\n", serde_json::json!({ "device": self.device, "rows": rows })),
            false => page(&rows, measures),
        };
        write::stdout(text.as_bytes())?;
        Ok(Verdict::Good)
    }
}

fn page(rows: &[Row], measured: bool) -> String {
    let mut table: Table =
        grid::table(["clocks of a turn", "measured", "small", "data sheet", "slow pipe", "slow chain"]);
    for row in rows {
        let number = |clocks: Option<f64>| clocks.map_or_else(String::new, |clocks| format!("{clocks:.0}"));
        let clocks =
            [row.measured, row.measured_small, Some(row.data_sheet), Some(row.on_the_pipe), Some(row.in_a_chain)];
        table.add_row(std::iter::once(row.question.to_owned()).chain(clocks.map(number)));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let basis = match measured {
        true => "a turn is 16 products of 64 x 64 x 16",
        false => "rehearsed on the virtual machine: nothing is measured; a turn is 16 products of 64 x 64 x 16",
    };
    format!("{basis}\n\n{table}\n")
}
