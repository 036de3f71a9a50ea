//! The launch file of `gdn2 vm` for those who do not run it: sizes, values of arguments, contents that are given.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gdn2_vm::{Memory, Value};
use serde::Deserialize;

use crate::error::CliError;
use crate::vm::{Argument, Spec, three, usage};

/// A launch file.
pub struct LaunchFile {
    path: PathBuf,
    spec: Spec,
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
        Ok(LaunchFile { path: path.to_owned(), spec: Spec::read(path)? })
    }

    /// Its arguments as values.
    pub fn placed(&self) -> Result<Placed, CliError> {
        let mut memory = Memory::new();
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let (mut buffers, mut contents, mut bytes) = (BTreeMap::new(), BTreeMap::new(), 0.0);
        for (name, buffer) in &self.spec.buffers {
            let placed = buffer.place(name, folder, &mut memory)?;
            let held = memory.read(placed.address);
            bytes += held.len() as f64;
            if buffer.file.is_some() {
                contents.insert(placed.address.0, held.to_vec());
            }
            buffers.insert(name.clone(), placed);
        }
        let argument = |(index, given): (usize, &serde_json::Value)| {
            let known = Argument::deserialize(given).map_err(|_| {
                usage(format!("{}: args[{index}] is none that `gdn2 vm` takes: {given}", self.path.display()))
            })?;
            let tile = match &known {
                Argument::Map { tensor_map } => Some(tensor_map.tile_bytes()),
                _ => None,
            };
            Ok::<_, CliError>((known.value(&buffers)?, tile))
        };
        Ok(Placed {
            grid: three("grid", &self.spec.grid)?,
            block: three("block", &self.spec.block)?,
            shared_bytes: self.spec.shared_bytes,
            values: self.spec.args.iter().enumerate().map(argument).collect::<Result<_, _>>()?,
            contents,
            bytes,
        })
    }
}
