//! The launch file: buffers, and one launch or several over them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gdn2_vm::{Address, Memory, Value};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use super::argument::Argument;
use super::number::{self, Fill, Named};
use super::{read, usage};
use crate::error::CliError;

/// Bytes of one buffer, or of the file that holds it.
const MOST_BYTES: usize = 1 << 32;
/// Bytes of a launch file.
const MOST_LAUNCH: u64 = 1 << 24;

/// A launch file.
pub struct File {
    folder: PathBuf,
    buffers: BTreeMap<String, Buffer>,
    /// At least one.
    pub launches: Vec<Spec>,
}

/// One launch.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    #[serde(default)]
    buffers: BTreeMap<String, Buffer>,
    /// PTX or CUDA that holds it, its path relative to the launch file; without it what the command line names.
    pub kernel: Option<PathBuf>,
    /// Its name there.
    pub entry: Option<String>,
    grid: Vec<u32>,
    block: Option<Vec<u32>>,
    /// Dynamic shared memory.
    pub shared_bytes: Option<u32>,
    args: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Several {
    #[serde(default)]
    buffers: BTreeMap<String, Buffer>,
    launches: Vec<Spec>,
}

#[derive(Deserialize)]
struct Probe {
    launches: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Buffer {
    /// A tensor of a safetensors file, its path relative to the launch file.
    file: Option<PathBuf>,
    tensor: Option<String>,
    /// The dtype that it is to have here.
    #[serde(rename = "as")]
    cast: Option<Dtype>,
    bytes: Option<usize>,
    dtype: Option<Dtype>,
    shape: Option<Vec<usize>>,
    fill: Option<Fill>,
    #[serde(default)]
    output: bool,
}

/// A buffer in the machine's memory, and how it reads as a tensor.
pub struct Placed {
    /// Where.
    pub address: Address,
    /// Of its elements.
    pub dtype: Dtype,
    /// Elements.
    pub shape: Vec<usize>,
    /// It is to be written from end to end, and shown.
    pub output: bool,
    /// Its contents were given in a file.
    pub given: bool,
}

pub(super) fn three(name: &str, n: &[u32]) -> Result<[u32; 3], CliError> {
    if n.is_empty() || n.len() > 3 {
        return Err(usage(format!("{name} has {} numbers; give one to three", n.len())));
    }
    Ok([0, 1, 2].map(|i| n.get(i).copied().unwrap_or(1)))
}

impl File {
    /// Reads one.
    pub fn read(path: &Path) -> Result<File, CliError> {
        let bytes = read(path, MOST_LAUNCH)?;
        let wrong = |error: serde_json::Error| usage(format!("{}: {error}", path.display()));
        let folder = path.parent().unwrap_or(Path::new(".")).to_owned();
        let probe: Probe = serde_json::from_slice(&bytes).map_err(wrong)?;
        if probe.launches.is_none() {
            let mut one: Spec = serde_json::from_slice(&bytes).map_err(wrong)?;
            return Ok(File { folder, buffers: std::mem::take(&mut one.buffers), launches: vec![one] });
        }
        let Several { buffers, launches } = serde_json::from_slice(&bytes).map_err(wrong)?;
        let refused = |why: &str| usage(format!("{}: {why}", path.display()));
        if launches.is_empty() {
            return Err(refused("`launches` is empty"));
        }
        if launches.iter().any(|launch| !launch.buffers.is_empty()) {
            return Err(refused("give `buffers` once, beside `launches`: all launches share one memory"));
        }
        Ok(File { folder, buffers, launches })
    }

    /// A path that the file names.
    pub fn beside(&self, path: &Path) -> PathBuf {
        self.folder.join(path)
    }

    /// Its buffers in the machine's memory.
    pub fn place(&self, memory: &mut Memory) -> Result<BTreeMap<String, Placed>, CliError> {
        let place = |(name, buffer): (&String, &Buffer)| Ok((name.clone(), buffer.place(name, &self.folder, memory)?));
        self.buffers.iter().map(place).collect()
    }
}

impl Spec {
    /// Blocks.
    pub fn grid(&self) -> Result<[u32; 3], CliError> {
        three("grid", &self.grid)
    }

    /// Threads, if it says.
    pub fn block(&self) -> Result<Option<[u32; 3]>, CliError> {
        self.block.as_ref().map(|block| three("block", block)).transpose()
    }

    /// Its arguments, and the bytes of a tile where one is a tensor map.
    pub fn values(&self, buffers: &BTreeMap<String, Placed>) -> Result<Vec<(Value, Option<u32>)>, CliError> {
        let value = |(i, given)| {
            let argument = Argument::read(given).and_then(|known| Ok((known.value(buffers)?, known.tile_bytes())));
            argument.map_err(|error| usage(format!("args[{i}]: {error}")))
        };
        self.args.iter().enumerate().map(value).collect()
    }
}

impl Buffer {
    fn place(&self, name: &str, folder: &Path, memory: &mut Memory) -> Result<Placed, CliError> {
        if let Some(file) = &self.file {
            let path = folder.join(file);
            let bytes = read(&path, MOST_BYTES as u64)?;
            let wrong = |error| usage(format!("{}: {error}", path.display()));
            let tensors = SafeTensors::deserialize(&bytes).map_err(wrong)?;
            let view = tensors.tensor(self.tensor.as_deref().unwrap_or(name)).map_err(wrong)?;
            let (from, shape) = (view.dtype(), view.shape().to_vec());
            let dtype = self.cast.unwrap_or(from);
            let data = number::cast(view.data(), from, dtype).or((from == dtype).then(|| view.data().to_vec()));
            let data = data.ok_or_else(|| usage(format!("buffer `{name}`: {from:?} cannot be made {dtype:?}")))?;
            return Ok(Placed { address: memory.upload(name, &data), dtype, shape, output: self.output, given: true });
        }
        if self.cast.is_some() {
            return Err(usage(format!("buffer `{name}`: `as` is for a tensor of a file; give `dtype` here")));
        }
        let (dtype, shape) = match (self.bytes, &self.shape) {
            (Some(bytes), None) => (Dtype::U8, vec![bytes]),
            (None, Some(shape)) => (self.dtype.unwrap_or(Dtype::U8), shape.clone()),
            _ => return Err(usage(format!("buffer `{name}`: give file, bytes, or dtype and shape"))),
        };
        let elements = shape.iter().try_fold(1usize, |all, n| all.checked_mul(*n));
        let sized = elements.and_then(|elements| Some((elements, elements.checked_mul(dtype.bitsize())? / 8)));
        let Some((elements, len)) = sized.filter(|(_, len)| *len <= MOST_BYTES) else {
            return Err(usage(format!(
                "buffer `{name}`: {shape:?} of {dtype:?} is more than the {MOST_BYTES} bytes that a buffer may have"
            )));
        };
        let address = match &self.fill {
            None | Some(Fill::Named(Named::Nan)) => memory.poisoned(name, len),
            Some(Fill::Named(Named::Zero)) => memory.upload(name, &vec![0; len]),
            Some(fill) => match number::filled(fill, name, dtype, elements) {
                Some(bytes) => memory.upload(name, &bytes),
                None => {
                    let why = format!("buffer `{name}`: {dtype:?} takes the fills nan and zero, or a tensor of a file");
                    return Err(usage(why));
                }
            },
        };
        Ok(Placed { address, dtype, shape, output: self.output, given: false })
    }
}
