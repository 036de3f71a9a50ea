//! Kernel → CUDA text. Thin templates over views of ready strings; the device code they need is inlined, so the text
//! includes no file.

use crate::kernel::{CudaSource, Kernel, LaunchRole};
use crate::print::device::inline;
use crate::print::template::fill;
use crate::schedule::{Matrix, Schedule};
use crate::{backward, decode, forward};

/// Prints a bound kernel. The text is a function of the kernel alone.
pub fn render(kernel: &Kernel) -> CudaSource {
    let text = kernel.launches.iter().map(|launch| {
        let (template, view) = match kernel.schedule {
            Schedule::Forward(numbers) => match (launch.role, numbers.matrix) {
                (LaunchRole::SegmentJoin, _) => forward::view_join(kernel, numbers, launch),
                (_, Matrix::Mma) => forward::view_mma(kernel, numbers, launch),
                (_, Matrix::Wgmma) => forward::view_wgmma(kernel, numbers, launch),
            },
            Schedule::Decode(numbers) => decode::view(kernel, numbers, launch),
            Schedule::Backward(numbers) => backward::view(kernel, numbers, launch),
        };
        inline(&fill(template, &view))
    });
    CudaSource::new(text.collect::<Vec<_>>().join("\n"))
}
