//! `gdn2 conformance`: one small kernel for every opcode and edge, each compared with its scalar definition.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use comfy_table::Table;
use gdn2_runtime::device::Device;
use gdn2_runtime::device::conformance::{ConformanceError, output};
use gdn2_vm::conformance::{Kernel, kernels};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use crate::error::CliError;
use crate::{Verdict, grid, write};

/// Run small kernels, one for every opcode and edge, and compare what they give with scalar definitions
///
/// On a GPU, --out keeps what the hardware gave, in a file named after it; those of gdn2-vm/fixtures are what the virtual
/// machine is held to. A kernel that fails does not end the run; after one that spoils the GPU's context, the rest run
/// in processes of their own.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gdn2 conformance --device cuda:0 --out gdn2-vm/fixtures")]
pub struct Args {
    /// vm or cuda:N
    #[arg(long, value_name = "DEVICE")]
    device: String,
    /// Only the kernels whose name starts so
    #[arg(long, default_value = "", value_name = "NAME", hide_default_value = true)]
    kernel: String,
    /// Folder to write the outputs to, as one safetensors file
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Only the kernel of exactly this name
    #[arg(long, hide = true)]
    exactly: bool,
}

/// What became of one kernel.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Row {
    kernel: String,
    /// passed, failed or skipped.
    verdict: String,
    /// The first difference, or the error.
    what: String,
}

/// What --json prints.
#[derive(Serialize, Deserialize)]
struct Printed {
    device: String,
    passed: usize,
    failed: usize,
    skipped: usize,
    rows: Vec<Row>,
}

impl Row {
    fn new(kernel: &Kernel, verdict: &str, what: impl Into<String>) -> Row {
        Row { kernel: kernel.name.clone(), verdict: verdict.to_owned(), what: what.into() }
    }
}

impl Args {
    pub fn run(&self) -> Result<Verdict, CliError> {
        let device: Device = self.device.parse()?;
        let all = kernels();
        let wanted = |kernel: &&Kernel| {
            if self.exactly { kernel.name == self.kernel } else { kernel.name.starts_with(&self.kernel) }
        };
        let chosen: Vec<&Kernel> = all.iter().filter(wanted).collect();
        if chosen.is_empty() {
            return Err(CliError::Usage(format!("no conformance kernel starts with `{}`", self.kernel)));
        }
        let file = self.out.as_ref().map(|folder| folder.join(file_name(&device)));
        let (mut rows, mut outputs, mut spoilt) = (Vec::new(), BTreeMap::new(), false);
        for kernel in chosen {
            if let Device::Cuda(gpu) = &device {
                let sm = gpu.arch().limits().sm;
                if !kernel.runs_on(sm) {
                    let (least, most) = (kernel.sm, kernel.until);
                    let range =
                        if most == u32::MAX { format!("sm_{least}") } else { format!("sm_{least} to sm_{most}") };
                    rows.push(Row::new(kernel, "skipped", format!("needs {range}, the GPU is sm_{sm}")));
                    continue;
                }
            }
            let (row, bytes) = if spoilt {
                self.apart(kernel)
            } else {
                let got = output(&device, kernel);
                spoilt = matches!(got, Err(ConformanceError::Device(_)));
                judged(kernel, got)
            };
            rows.push(row);
            outputs.extend(bytes.map(|bytes| (kernel.name.clone(), bytes)));
            // A kernel that hangs on a GPU must not take with it what the others gave.
            if let (Some(file), Device::Cuda(_)) = (&file, &device) {
                save(file, &outputs)?;
            }
        }
        if let Some(file) = &file {
            save(file, &outputs)?;
        }
        let count = |verdict: &str| rows.iter().filter(|row| row.verdict == verdict).count();
        let [passed, failed, skipped] = ["passed", "failed", "skipped"].map(count);
        let text = if self.json {
            let printed = Printed { device: self.device.clone(), passed, failed, skipped, rows };
            serde_json::to_string_pretty(&printed)? + "\n"
        } else {
            format!("{}\n\n{passed} passed, {failed} failed, {skipped} skipped\n", table(&rows))
        };
        write::stdout(text.as_bytes())?;
        Ok(if failed == 0 { Verdict::Good } else { Verdict::Bad })
    }

    /// The kernel in a process of its own.
    fn apart(&self, kernel: &Kernel) -> (Row, Option<Vec<u8>>) {
        let run = || -> Result<(Row, Option<Vec<u8>>), String> {
            let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
            let program = std::env::current_exe().map_err(|error| error.to_string())?;
            let result = Command::new(program)
                .args(["conformance", "--exactly", "--json", "--device", &self.device, "--kernel", &kernel.name])
                .arg("--out")
                .arg(folder.path())
                .output()
                .map_err(|error| error.to_string())?;
            let printed: Printed = serde_json::from_slice(&result.stdout)
                .map_err(|_| String::from_utf8_lossy(&result.stderr).trim().to_owned())?;
            let row = printed.rows.into_iter().next().ok_or("it reported nothing")?;
            let mut files = std::fs::read_dir(folder.path()).map_err(|error| error.to_string())?;
            let file = files.next().ok_or("it wrote no file")?.map_err(|error| error.to_string())?;
            let bytes = std::fs::read(file.path()).map_err(|error| error.to_string())?;
            let tensors = SafeTensors::deserialize(&bytes).map_err(|error| error.to_string())?;
            Ok((row, tensors.tensor(&kernel.name).ok().map(|view| view.data().to_vec())))
        };
        run().unwrap_or_else(|error| (Row::new(kernel, "failed", error), None))
    }
}

/// The device's name as a file's.
fn file_name(device: &Device) -> String {
    let name = match device {
        Device::Cuda(gpu) => gpu.name().unwrap_or_else(|_| "gpu".to_owned()),
        Device::Vm(_) | Device::Cpu(_) => "vm".to_owned(),
    };
    let safe = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    format!("{}.safetensors", name.chars().map(safe).collect::<String>())
}

fn save(file: &Path, outputs: &BTreeMap<String, Vec<u8>>) -> Result<(), CliError> {
    let mut views = Vec::with_capacity(outputs.len());
    for (name, bytes) in outputs {
        let view = TensorView::new(Dtype::U8, vec![bytes.len()], bytes);
        views.push((name, view.map_err(|error| CliError::Usage(error.to_string()))?));
    }
    let bytes = safetensors::serialize(views, None).map_err(|error| CliError::Usage(error.to_string()))?;
    write::file(file, &bytes)
}

fn judged(kernel: &Kernel, got: Result<Vec<u8>, ConformanceError>) -> (Row, Option<Vec<u8>>) {
    match got {
        Err(error) => (Row::new(kernel, "failed", error.to_string()), None),
        Ok(bytes) => match kernel.expected.compare(&kernel.name, &bytes) {
            Ok(()) => (Row::new(kernel, "passed", ""), Some(bytes)),
            Err(difference) => {
                let what =
                    format!("element {}: {}, expected {}", difference.index, difference.got, difference.expected);
                (Row::new(kernel, "failed", what), Some(bytes))
            }
        },
    }
}

fn table(rows: &[Row]) -> Table {
    let mut table = grid::table(["kernel", "verdict", ""]);
    for row in rows {
        table.add_row([&row.kernel, &row.verdict, &row.what]);
    }
    table
}
