//! Runs a kernel that knows nothing of this machine under the full checks, copies landing early and late.

use gdn2_vm::{Check, Landing, Launch, Limits, MapType, Memory, Module, Swizzle, TensorMap, Value, run};

/// One kernel argument.
pub enum Arg {
    /// A buffer the kernel reads.
    In(Vec<u8>),
    /// A buffer of so many bytes that it must write.
    Out(usize),
    /// A buffer it reads and writes.
    Both(Vec<u8>),
    /// A 32-bit number.
    Word(i32),
    /// A map of f32 over the buffer of another argument, which is left out of the parameters: dims, and the tile.
    Map(Box<Arg>, Vec<u64>, Vec<u32>),
}

/// A launch.
pub struct Call<'a> {
    /// The PTX text.
    pub ptx: &'a str,
    /// The kernel.
    pub entry: &'a str,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads.
    pub block: [u32; 3],
    /// In the kernel's order.
    pub args: Vec<Arg>,
}

impl Call<'_> {
    /// What the buffers that the kernel writes hold afterwards, in order of the arguments.
    pub fn run(&self) -> Vec<Vec<u8>> {
        let module = Module::parse(self.ptx).unwrap();
        let sm = self.ptx.split(".target sm_").nth(1).map(|t| t[..2].parse().unwrap()).unwrap();
        let mut results = [Landing::Early, Landing::Late].map(|landing| {
            let mut memory = Memory::new();
            let (mut args, mut written) = (Vec::new(), Vec::new());
            let mut outputs = Vec::new();
            for arg in &self.args {
                let (arg, map) = match arg {
                    Arg::Map(arg, dims, tile) => (&**arg, Some((dims, tile))),
                    arg => (arg, None),
                };
                let address = match arg {
                    Arg::In(bytes) => memory.upload("input", bytes),
                    Arg::Out(bytes) => memory.poisoned("output", *bytes),
                    Arg::Both(bytes) => memory.upload("both", bytes),
                    Arg::Word(v) => {
                        args.push(Value::I32(*v));
                        continue;
                    }
                    Arg::Map(..) => panic!("a map of a map"),
                };
                if !matches!(arg, Arg::In(_)) {
                    written.push(address);
                }
                if matches!(arg, Arg::Out(_)) {
                    outputs.push(address);
                }
                args.push(match map {
                    None => Value::Pointer(address.0),
                    Some((dims, tile)) => {
                        let strides = dims.iter().scan(4, |step, n| {
                            *step *= n;
                            Some(*step)
                        });
                        let strides = strides.take(dims.len() - 1).collect();
                        let (dims, tile, swizzle) = (dims.clone(), tile.clone(), Swizzle::None);
                        let map =
                            TensorMap { element: MapType::F32, address, dims, strides, tile, swizzle, fill_nan: false };
                        Value::Bytes(map.encode().unwrap().to_vec())
                    }
                });
            }
            let launch = Launch {
                entry: self.entry,
                grid: self.grid,
                block: self.block,
                shared_bytes: 0,
                args: &args,
                limits: Limits { shared_per_block: 163 * 1024, threads_per_block: 1024, sm },
                check: Check::Full,
                landing,
                order: None,
                outputs: &outputs,
                count: false,
                instructions: gdn2_vm::INSTRUCTIONS,
            };
            let report = run(&module, &launch, &mut memory).unwrap_or_else(|trap| panic!("{trap}"));
            let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
            assert!(findings.is_empty(), "{}: {}", self.entry, findings.join("\n"));
            written.iter().map(|address| memory.read(*address).to_vec()).collect::<Vec<_>>()
        });
        let [early, _] = &mut results;
        std::mem::take(early)
    }

    /// The only buffer that the kernel writes.
    pub fn one(&self) -> Vec<u8> {
        let mut all = self.run();
        assert_eq!(all.len(), 1);
        all.remove(0)
    }
}

/// A type of numbers in memory.
pub trait Number: Copy {
    /// Its bytes.
    fn bytes(self) -> Vec<u8>;
    /// From its bytes.
    fn read(bytes: &[u8]) -> Self;
}

macro_rules! number {
    ($($t:ty),*) => {
        $(impl Number for $t {
            fn bytes(self) -> Vec<u8> {
                self.to_le_bytes().to_vec()
            }
            fn read(bytes: &[u8]) -> Self {
                <$t>::from_le_bytes(bytes.try_into().unwrap())
            }
        })*
    };
}

number!(u8, i8, i16, u32, i32, u64, f32, f64, half::f16, half::bf16);

/// Bytes of numbers.
pub fn bytes<T: Number>(values: &[T]) -> Vec<u8> {
    values.iter().flat_map(|v| v.bytes()).collect()
}

/// Numbers of bytes.
pub fn numbers<T: Number>(bytes: &[u8]) -> Vec<T> {
    bytes.chunks_exact(size_of::<T>()).map(T::read).collect()
}

/// A fixed stream of words.
pub fn stream(seed: u64, count: usize) -> Vec<u32> {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    (0..count).map(next).collect()
}

/// Small integers.
pub fn small(seed: u64, count: usize) -> Vec<f32> {
    stream(seed, count).iter().map(|v| (v % 9) as f32 - 4.0).collect()
}
