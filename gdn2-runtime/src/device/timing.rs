//! Time on a GPU: events around replays of a captured graph, so that what the host does between launches is not in it.

use super::DeviceError;
use super::cuda::{Buffer, Cuda, Loaded, driver};
use crate::raw::{Arguments, Workspaces};
use cudarc::driver::CudaGraph;
use cudarc::driver::sys::{CUdevice_attribute, CUevent_flags, CUgraphInstantiate_flags, CUstreamCaptureMode};

/// How a kernel is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Samples whose time is thrown away: clocks rise, code and tables are loaded.
    pub warm_up: u32,
    /// Samples.
    pub samples: u32,
    /// Runs per sample, back to back in one graph; 1 with a cold cache.
    pub runs: u32,
    /// Whether the level-two cache is overwritten before each sample.
    pub cold: bool,
}

/// Microseconds of one run, one number per sample, in the order taken.
///
/// # Errors
/// A call that makes no launches, or a failing driver call.
///
/// # Safety
/// As [`Loaded::launch`], until this returns.
pub unsafe fn time(
    gpu: &Cuda,
    loaded: &Loaded,
    call: &Arguments,
    workspaces: Workspaces<'_>,
    timing: Timing,
) -> Result<Vec<f64>, DeviceError> {
    let stream = gpu.stream();
    let runs = if timing.cold { 1 } else { timing.runs.max(1) };
    // SAFETY: the caller's promise; the stream is the GPU's own.
    let graph = unsafe { captured(gpu, loaded, call, workspaces, runs)? };
    let scrub = if timing.cold { Some(Buffer::poisoned(gpu, 2 * l2_bytes(gpu)?)?) } else { None };
    let event = || stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(driver("recording an event"));
    let mut micros = Vec::with_capacity(timing.samples as usize);
    for sample in 0..timing.warm_up + timing.samples {
        if let Some(scrub) = &scrub {
            scrub.fill(stream)?;
        }
        let begin = event()?;
        graph.launch().map_err(driver("launching a graph"))?;
        let end = event()?;
        let elapsed = begin.elapsed_ms(&end).map_err(driver("reading an event"))?;
        if sample >= timing.warm_up {
            micros.push(f64::from(elapsed) * 1e3 / f64::from(runs));
        }
    }
    Ok(micros)
}

/// The kernel's launches, `runs` times, as a graph.
///
/// # Safety
/// As [`time`].
unsafe fn captured(
    gpu: &Cuda,
    loaded: &Loaded,
    call: &Arguments,
    workspaces: Workspaces<'_>,
    runs: u32,
) -> Result<CudaGraph, DeviceError> {
    let stream = gpu.stream();
    stream
        .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .map_err(driver("beginning a capture"))?;
    let launched = (0..runs).try_for_each(|_| {
        // SAFETY: the caller's promise.
        unsafe { loaded.launch(stream.cu_stream(), call, workspaces) }
    });
    // The capture ends whatever happened in it: a stream left capturing is of no use to anybody.
    let graph = stream
        .end_capture(CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH)
        .map_err(driver("ending a capture"));
    launched?;
    let graph = graph?.ok_or(DeviceError::NothingCaptured)?;
    graph.upload().map_err(driver("uploading a graph"))?;
    Ok(graph)
}

fn l2_bytes(gpu: &Cuda) -> Result<usize, DeviceError> {
    let bytes = gpu
        .context()
        .attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)
        .map_err(driver("asking for the cache size"))?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}
