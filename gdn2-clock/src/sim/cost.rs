//! What each instruction of a program costs the schedulers, resolved once per program and GPU.

use crate::gpu::Gpu;
use crate::sass::{Instruction, Operand, Program};

/// What a warp may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// Stall counts: results of fixed latency, and the pace of one warp.
    Own,
    /// An issue slot, which another warp of the scheduler has.
    Slot,
    /// The float pipe.
    Float,
    /// The integer pipe.
    Integer,
    /// Conversions.
    Convert,
    /// Special functions.
    Special,
    /// The uniform datapath.
    Uniform,
    /// The queue to memory, shared memory and exchanges.
    Queue,
    /// Warp matrix instructions.
    Mma,
    /// Warpgroup matrix instructions: a full queue, an accumulator, or a group that is waited for.
    Wgmma,
    /// Results from shared memory and exchanges.
    Shared,
    /// Results from global memory.
    Memory,
    /// Groups of asynchronous copies.
    Copies,
    /// Named barriers.
    Barrier,
    /// Phases of mbarriers.
    Mbarrier,
    /// Results from elsewhere: constants, special registers, fences.
    Other,
}

/// How many kinds of waits there are.
pub(crate) const WAITS: usize = 16;

impl Wait {
    /// Every kind.
    pub const ALL: [Wait; WAITS] = [
        Wait::Own,
        Wait::Slot,
        Wait::Float,
        Wait::Integer,
        Wait::Convert,
        Wait::Special,
        Wait::Uniform,
        Wait::Queue,
        Wait::Mma,
        Wait::Wgmma,
        Wait::Shared,
        Wait::Memory,
        Wait::Copies,
        Wait::Barrier,
        Wait::Mbarrier,
        Wait::Other,
    ];

    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Wait::Own => "its own instructions",
            Wait::Slot => "issue slots",
            Wait::Float => "float pipe",
            Wait::Integer => "integer pipe",
            Wait::Convert => "conversions",
            Wait::Special => "special functions",
            Wait::Uniform => "uniform datapath",
            Wait::Queue => "memory queue",
            Wait::Mma => "mma",
            Wait::Wgmma => "wgmma",
            Wait::Shared => "shared memory",
            Wait::Memory => "memory",
            Wait::Copies => "asynchronous copies",
            Wait::Barrier => "barriers",
            Wait::Mbarrier => "mbarriers",
            Wait::Other => "other latencies",
        }
    }
}

/// Pipes of a scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pipe {
    Float,
    Multiply,
    Integer,
    Convert,
    Special,
    Uniform,
    Queue,
}

pub(crate) const PIPES: usize = 7;

impl Pipe {
    pub(crate) fn wait(self) -> Wait {
        match self {
            Pipe::Float => Wait::Float,
            Pipe::Multiply | Pipe::Integer => Wait::Integer,
            Pipe::Convert => Wait::Convert,
            Pipe::Special => Wait::Special,
            Pipe::Uniform => Wait::Uniform,
            Pipe::Queue => Wait::Queue,
        }
    }
}

/// What has to be simulated beyond pipe and latency.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Plain,
    Shared,
    Exchange,
    Load,
    Store,
    Copy,
    CommitCopies,
    /// Groups of copies that may stay open.
    WaitCopies(u32),
    Mma {
        clocks: f64,
    },
    Wgmma(Product),
    /// Groups of products that may stay open.
    WaitProducts(u32),
    Mbarrier,
    Barrier,
    ArriveLater,
    Bulk,
}

/// A product of a warpgroup.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Product {
    /// Clocks of the matrix pipe at the data sheet's rate.
    pub(crate) clocks: f64,
    /// Passes over shared memory, a warp's share.
    pub(crate) passes: f64,
    /// Whether A comes from shared memory.
    pub(crate) from_shared: bool,
    /// First register of the accumulator.
    pub(crate) accumulator: u8,
    /// Whether it adds to what the accumulator holds.
    pub(crate) adds: bool,
    /// Whether it ends a group.
    pub(crate) ends_group: bool,
}

/// An instruction's cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) pipe: Option<(Pipe, f64)>,
    pub(crate) latency: f64,
    pub(crate) kind: Kind,
    pub(crate) stall: f64,
    pub(crate) write: Option<u8>,
    pub(crate) read: Option<u8>,
    pub(crate) wait: u8,
    /// What a warp that waits for its result waits for.
    pub(crate) result: Wait,
}

const FLOAT: [&str; 6] = ["FFMA", "FMUL", "FADD", "HFMA2", "HMUL2", "HADD2"];
const INTEGER: [&str; 28] = [
    "IADD3",
    "IADD",
    "LOP3",
    "SHF",
    "ISETP",
    "SEL",
    "PRMT",
    "LEA",
    "VIADD",
    "MOV",
    "PLOP3",
    "VIADDMNMX",
    "IABS",
    "SGXT",
    "IMNMX",
    "VIMNMX",
    "FMNMX",
    "FSEL",
    "FSETP",
    "FSET",
    "P2R",
    "R2P",
    "BMSK",
    "VOTE",
    "CS2R",
    "I2FP",
    "HSETP2",
    "HMNMX2",
];
const CONVERSIONS: [&str; 5] = ["F2F", "F2I", "I2F", "FRND", "I2I"];
const SLOW_INTEGER: [&str; 4] = ["FLO", "POPC", "BREV", "REDUX"];

/// `64x128x16` of an opcode's modifiers → 128.
fn columns(instruction: &Instruction) -> f64 {
    let shape = instruction.modifiers.iter().find(|one| one.starts_with("64x"));
    shape.and_then(|shape| shape.split('x').nth(1)?.parse().ok()).unwrap_or(64.0)
}

fn product(instruction: &Instruction, gpu: &Gpu) -> Product {
    let n = columns(instruction);
    let text = |at: usize| match instruction.operands.get(at) {
        Some(Operand::Other(text)) => text.as_str(),
        _ => "",
    };
    let from_shared = text(1).starts_with("gdesc");
    // A tile of 64 × 16 and one of 16 × N, two bytes an element, 128 bytes a pass; four warps share them.
    let passes = n / 4.0 + if from_shared { 16.0 } else { 0.0 };
    let clocks = n * 1024.0 / gpu.wgmma;
    Product {
        clocks: if from_shared { clocks.max(passes) } else { clocks },
        passes: passes / 4.0,
        from_shared,
        accumulator: instruction.operands.first().and_then(Operand::register).map_or(0, |register| register.index),
        adds: !instruction.operands.iter().any(|operand| matches!(operand, Operand::Predicate(_, 7, true))),
        ends_group: instruction.text.contains("gsb0"),
    }
}

/// Clocks of the matrix pipe for a warp's product, at the rate of m16n8k16 in 16 bits.
fn mma(instruction: &Instruction, gpu: &Gpu) -> f64 {
    let whole = 4.0 * 2048.0 / gpu.mma;
    let part = match instruction.modifiers.first().map(String::as_str) {
        Some("16816" | "16832" | "16864") => 1.0,
        Some("1688" | "16816F8") => 0.5,
        Some("1684" | "8816") => 0.25,
        _ => 1.0,
    };
    // tf32 has half the rate of 16 bits.
    whole * part * if instruction.has("TF32") { 2.0 } else { 1.0 }
}

fn number(operand: Option<&Operand>) -> u32 {
    match operand {
        Some(Operand::Integer(number)) => *number as u32,
        _ => 0,
    }
}

fn cost(instruction: &Instruction, gpu: &Gpu) -> Cost {
    let a = &gpu.latency;
    let name = instruction.name.as_str();
    let control = instruction.control;
    let mut cost = Cost {
        pipe: None,
        latency: 0.0,
        kind: Kind::Plain,
        stall: f64::from(control.stall.max(1)),
        write: control.write,
        read: control.read,
        wait: control.wait,
        result: Wait::Other,
    };
    let queue = Some((Pipe::Queue, a.queue_rate));
    let (pipe, latency, kind, result) = match name {
        "HGMMA" | "QGMMA" | "IGMMA" => (None, 0.0, Kind::Wgmma(product(instruction, gpu)), Wait::Wgmma),
        "HMMA" | "IMMA" | "DMMA" | "QMMA" => (None, 0.0, Kind::Mma { clocks: mma(instruction, gpu) }, Wait::Mma),
        "MUFU" => (Some((Pipe::Special, gpu.special_rate())), a.special, Kind::Plain, Wait::Special),
        name if CONVERSIONS.contains(&name) => {
            (Some((Pipe::Special, gpu.special_rate())), a.conversion, Kind::Plain, Wait::Convert)
        }
        "F2FP" => (Some((Pipe::Convert, gpu.convert_rate())), 0.0, Kind::Plain, Wait::Convert),
        name if FLOAT.contains(&name) => (Some((Pipe::Float, gpu.float_rate())), 0.0, Kind::Plain, Wait::Float),
        "IMAD" => (Some((Pipe::Multiply, gpu.integer_rate())), 0.0, Kind::Plain, Wait::Integer),
        name if INTEGER.contains(&name) => (Some((Pipe::Integer, gpu.integer_rate())), 0.0, Kind::Plain, Wait::Integer),
        name if SLOW_INTEGER.contains(&name) => {
            (Some((Pipe::Special, gpu.special_rate())), a.conversion, Kind::Plain, Wait::Integer)
        }
        "LDS" | "ATOMS" => (queue, a.shared, Kind::Shared, Wait::Shared),
        "LDSM" => (queue, a.tiles, Kind::Shared, Wait::Shared),
        "STS" | "STSM" => (queue, a.shared_store, Kind::Shared, Wait::Shared),
        "SHFL" => (queue, a.shuffle, Kind::Exchange, Wait::Shared),
        "MOVM" => (queue, a.transpose, Kind::Exchange, Wait::Shared),
        "LDG" | "LD" | "ATOMG" | "ATOM" => (queue, a.dram, Kind::Load, Wait::Memory),
        "LDL" => (queue, a.l1, Kind::Plain, Wait::Memory),
        "STL" => (queue, a.shared_store, Kind::Plain, Wait::Memory),
        "STG" | "ST" | "RED" | "REDG" => (queue, a.store, Kind::Store, Wait::Memory),
        "LDGSTS" => (queue, a.dram, Kind::Copy, Wait::Memory),
        "LDGDEPBAR" => (None, a.other, Kind::CommitCopies, Wait::Copies),
        "DEPBAR" if matches!(instruction.operands.first(), Some(Operand::Other(name)) if name == "SB0") => {
            (None, 0.0, Kind::WaitCopies(number(instruction.operands.last())), Wait::Copies)
        }
        "WARPGROUP" if instruction.has("DEPBAR") => {
            (None, 0.0, Kind::WaitProducts(number(instruction.operands.last())), Wait::Wgmma)
        }
        "SYNCS" => (queue, a.shared_store, Kind::Mbarrier, Wait::Mbarrier),
        "BAR" => (queue, a.store, Kind::Barrier, Wait::Barrier),
        "ARRIVES" => (queue, a.store, Kind::ArriveLater, Wait::Mbarrier),
        "UTMALDG" | "UTMASTG" | "UBLKCP" => (queue, a.store, Kind::Bulk, Wait::Memory),
        "S2R" | "S2UR" => (queue, a.special_register, Kind::Plain, Wait::Other),
        "LDC" => (queue, a.constant, Kind::Plain, Wait::Other),
        "MEMBAR" | "FENCE" | "ERRBAR" => (None, a.fence, Kind::Plain, Wait::Other),
        "ULDC" | "LDCU" => (Some((Pipe::Uniform, a.uniform_rate)), a.constant / 2.0, Kind::Plain, Wait::Other),
        "R2UR" | "VOTEU" => (Some((Pipe::Integer, gpu.integer_rate())), a.to_uniform, Kind::Plain, Wait::Uniform),
        "UBREV" | "UFLO" | "UPOPC" => (Some((Pipe::Uniform, a.uniform_rate)), a.to_uniform, Kind::Plain, Wait::Uniform),
        name if name.starts_with('U') => (Some((Pipe::Uniform, a.uniform_rate)), 0.0, Kind::Plain, Wait::Uniform),
        _ => (None, a.other, Kind::Plain, Wait::Other),
    };
    (cost.pipe, cost.latency, cost.kind, cost.result) = (pipe, latency, kind, result);
    cost
}

/// The costs of a program's instructions.
pub(crate) fn costs(program: &Program, gpu: &Gpu) -> Vec<Cost> {
    program.instructions.iter().map(|instruction| cost(instruction, gpu)).collect()
}
