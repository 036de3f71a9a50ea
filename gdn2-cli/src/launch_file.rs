//! The launch file of `gdn2 vm` for those who do not run it: sizes, values of arguments, contents that are given.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gdn2_vm::{Memory, Value, launch_file};

use crate::error::CliError;
use crate::vm::{self, usage};

/// A launch file.
pub struct LaunchFile {
    path: PathBuf,
    file: launch_file::LaunchFile,
}

/// What it says, with its buffers placed.
pub struct Placed {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads.
    pub block: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub shared_bytes: u32,
    /// Arguments, and the bytes of a tile where one is a tensor map.
    pub values: Vec<(Value, Option<u32>)>,
    /// Contents of the buffers that come from files, by address.
    pub contents: BTreeMap<u64, Vec<u8>>,
    /// Bytes of all buffers.
    pub bytes: f64,
}

impl LaunchFile {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<LaunchFile, CliError> {
        Ok(LaunchFile { path: path.to_owned(), file: vm::launch_file(path)? })
    }

    /// Its arguments as values.
    pub fn placed(&self) -> Result<Placed, CliError> {
        let wrong = |why: &str| usage(format!("{}: {why}", self.path.display()));
        let [launch] = &self.file.launches[..] else {
            return Err(wrong("it holds several launches: give each a file of its own here"));
        };
        let mut memory = Memory::new();
        let buffers = vm::placed(&self.path, &self.file, &mut memory)?;
        let held = |address| memory.read(address).to_vec();
        let given = buffers.values().filter(|buffer| buffer.given);
        Ok(Placed {
            grid: launch.grid()?,
            block: launch.block()?.ok_or_else(|| wrong("missing field `block`"))?,
            shared_bytes: launch.shared_bytes.unwrap_or(0),
            values: launch.values(&buffers).map_err(|error| wrong(&error.to_string()))?,
            contents: given.map(|buffer| (buffer.address.0, held(buffer.address))).collect(),
            bytes: buffers.values().map(|buffer| memory.read(buffer.address).len() as f64).sum(),
        })
    }
}
