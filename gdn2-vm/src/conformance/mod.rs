//! One small kernel for every opcode and edge, with what it must give from a scalar definition of its own: the same
//! kernels run on the virtual machine in the tests and on a GPU in the hardware check, which writes what the hardware
//! gave as fixtures.
//!
//! Every kernel has the entry `k`, takes the addresses of its inputs and then of its output, and runs in one block.

mod arith;
mod convert;
mod copies;
mod directed;
mod edges;
mod fragments;
mod matrix;
mod parts;
mod ptx;
mod small;
mod sums;
mod warp;
mod warpgroup;

use crate::api::{Address, Check, Landing, Launch, Limits, Value};
use crate::error::LoadError;
use crate::memory::Memory;
use crate::memory::tensor_map::{MapType, Swizzle, TensorMap, TensorMapError};
use crate::module::Module;
use crate::report::trap::Trap;

/// One conformance kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Opcode and what is exercised, unique.
    pub name: String,
    /// The whole PTX module; its entry is `k`.
    pub ptx: String,
    /// The smallest architecture that has the instruction, as compute capability times ten.
    pub sm: u32,
    /// The largest one that it is for: what needs 9.0 is compiled for sm_90a, and sums of products differ.
    pub until: u32,
    /// Threads of the one block.
    pub threads: u32,
    /// Input buffers, in parameter order.
    pub inputs: Vec<Vec<u8>>,
    /// Tensor maps, the last parameters.
    pub maps: Vec<Map>,
    /// What the output buffer must hold.
    pub expected: Expected,
}

/// A tensor map over one of a kernel's buffers; fields as in [`TensorMap`].
#[derive(Clone, Debug)]
pub struct Map {
    /// Index of the input, or their count for the output.
    pub buffer: usize,
    /// Element type.
    pub element: MapType,
    /// Elements of each dimension, innermost first.
    pub dims: Vec<u64>,
    /// Bytes between neighbours of each dimension but the first.
    pub strides: Vec<u64>,
    /// Elements of a tile.
    pub tile: Vec<u32>,
    /// Permutation in shared memory.
    pub swizzle: Swizzle,
    /// Elements outside arrive as NaN.
    pub fill_nan: bool,
}

/// Why a kernel gave no output on the virtual machine.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// Its text is not known.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A tensor map that cannot be.
    #[error(transparent)]
    Map(#[from] TensorMapError),
    /// It did something wrong.
    #[error(transparent)]
    Trap(#[from] Trap),
}

impl Kernel {
    fn new(name: impl Into<String>, sm: u32, ptx: String, inputs: Vec<Vec<u8>>, expected: Expected) -> Kernel {
        let until = if sm == 90 { 90 } else { u32::MAX };
        Kernel { name: name.into(), ptx, sm, until, threads: 32, inputs, maps: Vec::new(), expected }
    }

    /// Whether it is for a GPU of that compute capability times ten.
    #[must_use]
    pub fn runs_on(&self, sm: u32) -> bool {
        (self.sm..=self.until).contains(&sm)
    }

    /// What the output buffer holds after a run on the virtual machine under the full checks, copies landing late.
    ///
    /// # Errors
    /// PTX the machine does not know, or a trap.
    pub fn on_vm(&self) -> Result<Vec<u8>, RunError> {
        let module = Module::parse(&self.ptx)?;
        let mut memory = Memory::new();
        let mut buffers: Vec<Address> = self.inputs.iter().map(|bytes| memory.upload("input", bytes)).collect();
        let out = memory.poisoned("output", self.expected.bytes());
        buffers.push(out);
        let mut args: Vec<Value> = buffers.iter().map(|buffer| Value::Pointer(buffer.0)).collect();
        for map in &self.maps {
            let Map { element, swizzle, fill_nan, .. } = *map;
            let address = buffers.get(map.buffer).copied().unwrap_or(out);
            let (dims, strides, tile) = (map.dims.clone(), map.strides.clone(), map.tile.clone());
            let map = TensorMap { element, address, dims, strides, tile, swizzle, fill_nan };
            args.push(Value::Bytes(map.encode()?.to_vec()));
        }
        let launch = Launch {
            entry: "k",
            grid: [1, 1, 1],
            block: [self.threads, 1, 1],
            shared_bytes: 0,
            args: &args,
            limits: Limits { shared_per_block: 48 << 10, threads_per_block: 1024, sm: self.sm },
            check: Check::Full,
            landing: Landing::Late,
            order: None,
            outputs: &[out],
            count: false,
            instructions: crate::INSTRUCTIONS,
        };
        crate::run(&module, &launch, &mut memory)?;
        Ok(memory.read(out).to_vec())
    }

    /// Compares what the machine gave with what a GPU gave: the same bits, but for approximations, which must each be
    /// within the kernel's bound.
    ///
    /// # Errors
    /// The first [`Difference`].
    pub fn matches(&self, machine: &[u8], hardware: &[u8]) -> Result<(), Difference> {
        match &self.expected {
            Expected::Words(_) | Expected::Wides(_) => {
                let words = hardware.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
                Expected::Words(words).compare(&self.name, machine)
            }
            Expected::Approximate { .. } => {
                self.expected.compare(&self.name, hardware)?;
                self.expected.compare(&self.name, machine)
            }
        }
    }
}

/// What an output buffer must hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    /// These 32-bit words, exactly.
    Words(Vec<u32>),
    /// These 64-bit words, exactly.
    Wides(Vec<u64>),
    /// An f32 approximation: each within `ulps` units in the last place of the exact value, or within `absolute` of it.
    Approximate {
        /// Exact values; NaN and infinities must be met exactly.
        exact: Vec<f64>,
        /// Largest error in units in the last place of the result.
        ulps: f64,
        /// Largest absolute error that passes whatever its ulps.
        absolute: f64,
    },
}

/// The first element of an output that is not what it must be.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{kernel}: element {index} is {got}, expected {expected}")]
pub struct Difference {
    /// The kernel's name.
    pub kernel: String,
    /// Element of the output.
    pub index: usize,
    /// What was there.
    pub got: String,
    /// What must be there.
    pub expected: String,
}

impl Expected {
    /// Bytes of the output buffer.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Expected::Words(words) => words.len() * 4,
            Expected::Wides(words) => words.len() * 8,
            Expected::Approximate { exact, .. } => exact.len() * 4,
        }
    }

    /// Compares an output with what it must be.
    ///
    /// # Errors
    /// The first [`Difference`].
    pub fn compare(&self, kernel: &str, output: &[u8]) -> Result<(), Difference> {
        let differ = |index: usize, got: String, expected: String| {
            Err(Difference { kernel: kernel.to_owned(), index, got, expected })
        };
        if output.len() != self.bytes() {
            return differ(0, format!("{} bytes", output.len()), format!("{} bytes", self.bytes()));
        }
        let words = output.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b));
        match self {
            Expected::Words(expected) => {
                for (index, (got, want)) in words.zip(expected).enumerate() {
                    if got != *want {
                        return differ(index, format!("{got:#010x}"), format!("{want:#010x}"));
                    }
                }
            }
            Expected::Wides(expected) => {
                let wides = output.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b));
                for (index, (got, want)) in wides.zip(expected).enumerate() {
                    if got != *want {
                        return differ(index, format!("{got:#018x}"), format!("{want:#018x}"));
                    }
                }
            }
            Expected::Approximate { exact, ulps, absolute } => {
                for (index, (got, want)) in words.map(f32::from_bits).zip(exact).enumerate() {
                    if !approximates(got, *want, *ulps, *absolute) {
                        return differ(index, format!("{got:e}"), format!("{want:e} ± {ulps} ulp"));
                    }
                }
            }
        }
        Ok(())
    }
}

fn approximates(got: f32, want: f64, ulps: f64, absolute: f64) -> bool {
    if want.is_nan() {
        return got.is_nan();
    }
    let rounded = want as f32;
    if rounded.is_infinite() || got.is_infinite() {
        return got == rounded;
    }
    let error = (f64::from(got) - want).abs();
    let exponent = ((rounded.to_bits() >> 23 & 0xff) as i32).max(1) - 127;
    error <= absolute || error <= ulps * 2f64.powi(exponent - 23)
}

/// All conformance kernels, in a fixed order.
#[must_use]
pub fn kernels() -> Vec<Kernel> {
    let mut all = arith::kernels();
    all.extend(convert::kernels());
    all.extend(small::kernels());
    all.extend(parts::kernels());
    all.extend(directed::kernels());
    all.extend(warp::kernels());
    all.extend(matrix::kernels());
    all.extend(fragments::kernels());
    all.extend(warpgroup::kernels());
    all.extend(copies::kernels());
    all
}
