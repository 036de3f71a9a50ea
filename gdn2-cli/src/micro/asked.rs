//! What every question is asked with: a device, a compiler and the clock.

use std::ops::Range;

use gdn2_clock::gpu::{Explanation, Gpu};
use gdn2_clock::kernel::{ClockError, Kernel};
use gdn2_clock::launch::Launch;
use gdn2_codegen::arch::Arch;
use gdn2_runtime::device::Device;
use gdn2_runtime::device::conformance::output;
use gdn2_runtime::nvrtc::{Compiled, Nvrtc, Options};
use gdn2_runtime::toolchain::Nvdisasm;
use gdn2_vm::conformance::Kernel as Small;

use crate::error::CliError;

/// Turns of a measurement: what a turn costs is the difference between many and few.
const FEW: u32 = 16;
const MANY: u32 = 80;
/// Where the predictions' launches have their buffers.
pub const TURNS_AT: u64 = 0x10_0000;
pub const CLOCKS_AT: u64 = 0x20_0000;

/// Who answers.
pub struct Asked<'a> {
    pub device: &'a Device,
    pub nvrtc: &'a Nvrtc,
    pub disassembler: &'a Nvdisasm,
    pub gpu: &'a Gpu,
}

/// Clocks that the warps of a kernel counted over few turns and over many.
pub struct Counted {
    few: Vec<u64>,
    many: Vec<u64>,
}

impl Asked<'_> {
    pub fn compiled(&self, text: &str) -> Result<Compiled, CliError> {
        Ok(self.nvrtc.compile(text, Arch::Sm90a.target(), &Options::default())?)
    }

    pub fn kernel(&self, name: &str, compiled: &Compiled) -> Result<Kernel, CliError> {
        let sass = self.disassembler.encoded_sass(&compiled.cubin)?;
        Kernel::read(&compiled.cubin, &sass, Some("k")).map_err(|error| CliError::Usage(format!("{name}: {error}")))
    }

    fn clocks(&self, kernel: &Small) -> Result<Vec<u64>, CliError> {
        let bytes =
            output(self.device, kernel).map_err(|error| CliError::Usage(format!("{}: {error}", kernel.name)))?;
        Ok(bytes.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect())
    }

    /// Runs a kernel for few turns and for many; on the virtual machine, where its checks are what is wanted, for few
    /// alone, and nothing is measured.
    pub fn counted(&self, kernel: impl Fn(u32) -> Small) -> Result<Option<Counted>, CliError> {
        self.clocks(&kernel(FEW))?;
        if !matches!(self.device, Device::Cuda(_)) {
            return Ok(None);
        }
        // Whatever was loaded or clocked up for the first run is there for the next.
        Ok(Some(Counted { few: self.clocks(&kernel(FEW))?, many: self.clocks(&kernel(MANY))? }))
    }

    /// What the clock says a turn takes.
    pub fn predicted(
        &self,
        kernel: &Kernel,
        launch: impl Fn(u32) -> Launch,
        explanation: Explanation,
    ) -> Result<f64, ClockError> {
        let total = |turns: u32| {
            let launch = launch(turns);
            let sample = kernel.sample(&launch)?;
            kernel.clocks(&launch, &sample, 1, self.gpu, explanation).map(|clocks| clocks.total)
        };
        Ok((total(MANY)? - total(FEW)?) / f64::from(MANY - FEW))
    }
}

impl Counted {
    /// Clocks of a turn of the slowest of some numbers.
    pub fn turn(&self, of: Range<usize>) -> Option<f64> {
        let slowest = |of: &[u64], range: Range<usize>| of.get(range).and_then(|of| of.iter().max()).copied();
        let clocks = slowest(&self.many, of.clone())?.saturating_sub(slowest(&self.few, of)?);
        Some(clocks as f64 / f64::from(MANY - FEW))
    }
}
