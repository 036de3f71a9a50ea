//! Launch files: JSON that says which buffers there are, and one launch or several over them. `gdn2 vm --help` describes
//! the format.

mod argument;
mod number;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::api::{Address, Value};
use crate::memory::Memory;
use argument::Argument;
use number::{Fill, Named};

/// Bytes of a launch file.
pub const MOST_TEXT: u64 = 1 << 24;
/// Bytes that all buffers of a launch file together may have, and a file that holds some of them.
pub const MOST_BYTES: usize = 1 << 32;

/// Why a launch file means nothing: the field, what it says, and what it may say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LaunchFileError(String);

fn refused(why: impl Into<String>) -> LaunchFileError {
    LaunchFileError(why.into())
}

/// A launch file.
#[derive(Debug)]
pub struct LaunchFile {
    buffers: BTreeMap<String, Buffer>,
    /// At least one.
    pub launches: Vec<Spec>,
}

/// One launch of a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    #[serde(default)]
    buffers: BTreeMap<String, Buffer>,
    /// PTX or CUDA that holds the kernel, its path relative to the launch file; none where the reader is to know.
    pub kernel: Option<PathBuf>,
    /// Its name there.
    pub entry: Option<String>,
    grid: Vec<u32>,
    block: Option<Vec<u32>>,
    /// Dynamic shared memory, bytes.
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

#[derive(Debug, Deserialize)]
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
#[derive(Clone, Debug)]
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

impl Placed {
    /// Its numbers as they are now; none where its elements are of a dtype without numbers.
    pub fn numbers(&self, memory: &Memory) -> Option<Vec<f64>> {
        number::numbers(memory.read(self.address), self.dtype)
    }
}

/// The three dimensions of a grid or block that has one to three numbers.
///
/// # Errors
/// None or more than three; `name` is what the error calls them.
pub fn three(name: &str, n: &[u32]) -> Result<[u32; 3], LaunchFileError> {
    if n.is_empty() || n.len() > 3 {
        return Err(refused(format!("{name} has {} numbers; give one to three", n.len())));
    }
    Ok([0, 1, 2].map(|i| n.get(i).copied().unwrap_or(1)))
}

impl LaunchFile {
    /// Reads a text.
    ///
    /// # Errors
    /// What is no launch file: the line and the field.
    pub fn parse(text: &[u8]) -> Result<LaunchFile, LaunchFileError> {
        let wrong = |error: serde_json::Error| refused(error.to_string());
        let probe: Probe = serde_json::from_slice(text).map_err(wrong)?;
        if probe.launches.is_none() {
            let mut one: Spec = serde_json::from_slice(text).map_err(wrong)?;
            return Ok(LaunchFile { buffers: std::mem::take(&mut one.buffers), launches: vec![one] });
        }
        let Several { buffers, launches } = serde_json::from_slice(text).map_err(wrong)?;
        if launches.is_empty() {
            return Err(refused("`launches` is empty"));
        }
        if launches.iter().any(|launch| !launch.buffers.is_empty()) {
            return Err(refused("give `buffers` once, beside `launches`: all launches share one memory"));
        }
        Ok(LaunchFile { buffers, launches })
    }

    /// Its buffers in the machine's memory, `most` bytes of them: [`MOST_BYTES`], or less. `read` gives the bytes of a file
    /// that a buffer names, whose path is relative to the launch file's folder.
    ///
    /// # Errors
    /// A buffer without a size, or for which those before it leave no room, a file that is not read, a tensor that it
    /// does not hold, a fill or cast that its dtype does not have.
    pub fn place<E: From<LaunchFileError>>(
        &self,
        memory: &mut Memory,
        most: usize,
        read: impl Fn(&Path) -> Result<Vec<u8>, E>,
    ) -> Result<BTreeMap<String, Placed>, E> {
        let mut room = Room { most, left: most };
        let place = |(name, buffer): (&String, &Buffer)| {
            let placed = match &buffer.file {
                Some(file) => buffer.given(name, &read(file)?, room, memory),
                None => buffer.made(name, room, memory),
            };
            let placed = placed?;
            room.left -= memory.read(placed.address).len();
            Ok((name.clone(), placed))
        };
        self.buffers.iter().map(place).collect()
    }
}

/// Bytes for buffers, and how many of them are left.
#[derive(Clone, Copy)]
struct Room {
    most: usize,
    left: usize,
}

impl Room {
    /// Elements and bytes of a tensor that there is room for.
    fn sized(self, name: &str, shape: &[usize], dtype: Dtype) -> Result<(usize, usize), LaunchFileError> {
        let elements = shape.iter().try_fold(1usize, |all, n| all.checked_mul(*n));
        let bits = elements.and_then(|elements| Some((elements, elements.checked_mul(dtype.bitsize())?)));
        let Some((elements, bits)) = bits.filter(|(_, bits)| bits / 8 <= self.left) else {
            return Err(refused(format!(
                "buffer `{name}`: {shape:?} of {dtype:?} does not fit: all buffers together may have {} bytes, and {} are \
                 left",
                self.most, self.left
            )));
        };
        if bits % 8 != 0 {
            return Err(refused(format!(
                "buffer `{name}`: {shape:?} of {dtype:?} ends within a byte; make it whole bytes"
            )));
        }
        Ok((elements, bits / 8))
    }
}

impl Spec {
    /// Blocks.
    ///
    /// # Errors
    /// No numbers, or more than three.
    pub fn grid(&self) -> Result<[u32; 3], LaunchFileError> {
        three("grid", &self.grid)
    }

    /// Threads, if it says.
    ///
    /// # Errors
    /// No numbers, or more than three.
    pub fn block(&self) -> Result<Option<[u32; 3]>, LaunchFileError> {
        self.block.as_ref().map(|block| three("block", block)).transpose()
    }

    /// Its arguments, and the bytes of a tile where one is a tensor map.
    ///
    /// # Errors
    /// What is no argument, or names a buffer that is not there.
    pub fn values(&self, buffers: &BTreeMap<String, Placed>) -> Result<Vec<(Value, Option<u32>)>, LaunchFileError> {
        let value = |(i, given)| {
            let argument = Argument::read(given).and_then(|known| Ok((known.value(buffers)?, known.tile_bytes())));
            argument.map_err(|error| refused(format!("args[{i}]: {error}")))
        };
        self.args.iter().enumerate().map(value).collect()
    }
}

impl Buffer {
    /// A tensor of a file.
    fn given(&self, name: &str, bytes: &[u8], room: Room, memory: &mut Memory) -> Result<Placed, LaunchFileError> {
        let file = self.file.as_deref().unwrap_or(Path::new("")).display();
        let wrong = |error| refused(format!("buffer `{name}`: {file}: {error}"));
        let tensors = SafeTensors::deserialize(bytes).map_err(wrong)?;
        let view = tensors.tensor(self.tensor.as_deref().unwrap_or(name)).map_err(wrong)?;
        let (from, shape) = (view.dtype(), view.shape().to_vec());
        let dtype = self.cast.unwrap_or(from);
        room.sized(name, &shape, dtype)?;
        let data = number::cast(view.data(), from, dtype);
        let data = data.ok_or_else(|| refused(format!("buffer `{name}`: {from:?} cannot be made {dtype:?}")))?;
        Ok(Placed { address: memory.upload(name, &data), dtype, shape, output: self.output, given: true })
    }

    /// One of a size that the launch file says.
    fn made(&self, name: &str, room: Room, memory: &mut Memory) -> Result<Placed, LaunchFileError> {
        if self.cast.is_some() {
            return Err(refused(format!("buffer `{name}`: `as` is for a tensor of a file; give `dtype` here")));
        }
        let (dtype, shape) = match (self.bytes, &self.shape) {
            (Some(bytes), None) => (Dtype::U8, vec![bytes]),
            (None, Some(shape)) => (self.dtype.unwrap_or(Dtype::U8), shape.clone()),
            _ => return Err(refused(format!("buffer `{name}`: give file, bytes, or dtype and shape"))),
        };
        let (elements, len) = room.sized(name, &shape, dtype)?;
        let address = match &self.fill {
            None | Some(Fill::Named(Named::Nan)) => memory.poisoned(name, len),
            Some(Fill::Named(Named::Zero)) => memory.upload(name, &vec![0; len]),
            Some(fill) => match number::filled(fill, name, dtype, elements) {
                Some(bytes) => memory.upload(name, &bytes),
                None => {
                    let why = format!("buffer `{name}`: {dtype:?} takes the fills nan and zero, or a tensor of a file");
                    return Err(refused(why));
                }
            },
        };
        Ok(Placed { address, dtype, shape, output: self.output, given: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(text: &str) -> Result<BTreeMap<String, Placed>, String> {
        let read = |path: &Path| Err(refused(format!("{} is not here", path.display())));
        let file = LaunchFile::parse(text.as_bytes());
        file.and_then(|file| file.place(&mut Memory::new(), MOST_BYTES, read)).map_err(|error| error.to_string())
    }

    #[test]
    fn buffers_have_a_limit_together() {
        let two = |bytes: u64| {
            let buffers = format!("{{\"x\": {{\"bytes\": 16}}, \"y\": {{\"bytes\": {bytes}}}}}");
            placed(&format!("{{\"grid\": [1], \"args\": [], \"buffers\": {buffers}}}"))
        };
        assert_eq!(two(64).map(|all| all.len()), Ok(2));
        for bytes in [(1 << 32) - 15, 1 << 32, u64::MAX] {
            let said = two(bytes);
            assert!(
                said.as_ref().is_err_and(|why| why.contains("buffer `y`") && why.contains("4294967296")),
                "{said:?}"
            );
        }
    }

    #[test]
    fn a_cast_that_there_is_no_room_for_is_not_begun() {
        let data = vec![0; 1 << 16];
        let tensor = safetensors::tensor::TensorView::new(Dtype::U8, vec![1 << 16], &data).map_err(|e| e.to_string());
        let file = tensor.and_then(|view| safetensors::serialize([("x", view)], None).map_err(|e| e.to_string()));
        let file = file.unwrap_or_default();
        let buffer: Buffer = serde_json::from_str(r#"{"file": "x", "as": "F64"}"#).unwrap_or_else(|e| panic!("{e}"));
        let mut memory = Memory::new();
        let room = |left| Room { most: MOST_BYTES, left };
        assert!(buffer.given("x", &file, room(1 << 19), &mut memory).is_ok());
        assert!(buffer.given("x", &file, room((1 << 19) - 1), &mut memory).is_err_and(|why| why.0.contains("`x`")));
    }

    #[test]
    fn elements_of_less_than_a_byte_fill_whole_ones() {
        let of = |shape: &str| {
            let buffer = format!("{{\"dtype\": \"F4\", \"shape\": {shape}}}");
            placed(&format!("{{\"grid\": [1], \"args\": [], \"buffers\": {{\"x\": {buffer}}}}}"))
        };
        assert!(of("[4]").is_ok());
        assert!(of("[3]").is_err_and(|why| why.contains("within a byte")));
    }
}
