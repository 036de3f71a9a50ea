//! Registers, predicates and constants of a warp, and how operands read and write them.

use super::lanes::{ALL, Bits, Lanes};
use super::words::Words;
use crate::cubin::Entry;
use crate::launch::{Argument, Launch};
use crate::sass::{Address, File, Operand, Register};
use std::collections::{BTreeMap, HashMap};

/// Where the walk puts the parameters in the generic address space; kernels hand addresses of tensor maps on.
const PARAMETERS_AT: u64 = 0x7f00_0000_0000;
/// Where a thread's stack ends.
const STACK_AT: u32 = 0x00ff_fdc0;

/// Constant bank 0 of a launch, other banks, tensor maps.
#[derive(Debug)]
pub(crate) struct Constants {
    words: HashMap<u32, u32>,
    banks: BTreeMap<u8, Vec<u8>>,
    /// Bytes of a tile by the map's generic address.
    pub(crate) maps: HashMap<u64, u32>,
}

impl Constants {
    pub(crate) fn new(entry: &Entry, launch: &Launch) -> Constants {
        let mut words = HashMap::new();
        let mut maps = HashMap::new();
        let mut next = 0u32;
        for (index, argument) in launch.arguments.iter().enumerate() {
            let size = match argument {
                Argument::Bytes(bytes) => bytes.len() as u32,
                Argument::TensorMap { .. } => 128,
            };
            let aligned = |to: u32| next.div_ceil(to.max(1)) * to.max(1);
            let offset = entry.parameters.get(index).map_or_else(|| aligned(size.min(8)), |place| place.offset);
            next = offset + size;
            match argument {
                Argument::Bytes(bytes) => {
                    for (at, four) in bytes.chunks(4).enumerate() {
                        let word = four.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
                        let place = entry.parameter_base + offset + 4 * at as u32;
                        match place % 4 {
                            0 => *words.entry(place).or_insert(0) = word,
                            // Several small parameters share a word.
                            by => *words.entry(place - by).or_insert(0) |= word << (8 * by),
                        }
                    }
                }
                Argument::TensorMap { tile_bytes } => {
                    maps.insert(PARAMETERS_AT + u64::from(entry.parameter_base + offset), *tile_bytes);
                    maps.insert(PARAMETERS_AT + u64::from(offset), *tile_bytes);
                }
            }
        }
        // Sizes of the launch, the stack's end, the window of the parameters: by compute capability, as compiled code
        // reads them.
        let [sizes, grid, stack, window] = match entry.sm {
            100.. => [0x360, 0x370, 0x37c, 0x358],
            90.. => [0x0, 0xc, 0x28, 0x198],
            _ => [0x0, 0xc, 0x28, 0x118],
        };
        for axis in 0..3 {
            words.insert(sizes + 4 * axis as u32, launch.block[axis]);
            words.insert(grid + 4 * axis as u32, launch.grid[axis]);
        }
        words.insert(stack, STACK_AT);
        if entry.sm < 100 {
            words.insert(window, PARAMETERS_AT as u32);
            words.insert(window + 4, (PARAMETERS_AT >> 32) as u32);
        }
        Constants { words, banks: entry.banks.clone(), maps }
    }

    pub(crate) fn word(&self, bank: u8, offset: u32) -> Option<u32> {
        if bank == 0 {
            return self.words.get(&offset).copied();
        }
        let bytes = self.banks.get(&bank)?.get(offset as usize..offset as usize + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }
}

/// A warp's architectural state.
#[derive(Debug)]
pub(crate) struct State<'a> {
    pub(crate) launch: &'a Launch,
    pub(crate) constants: &'a Constants,
    general: Vec<Lanes>,
    uniform: Vec<Lanes>,
    predicates: [Bits; 8],
    uniform_predicates: [Bits; 8],
    /// Lanes that wait for each other, by barrier register.
    pub(crate) convergence: HashMap<String, u32>,
    /// Stack words by address.
    pub(crate) local: HashMap<u32, Lanes>,
    /// The thread's coordinates.
    pub(crate) thread: [Lanes; 3],
    /// The block's.
    pub(crate) block: [u32; 3],
    /// Lanes that have not left.
    pub(crate) alive: u32,
    /// Lanes of the running instruction whose guard is not known.
    pub(crate) unsure: u32,
    pub(crate) notes: BTreeMap<String, u32>,
    /// Its number in the block.
    pub(crate) warp: u32,
    /// What is known of shared memory.
    pub(crate) words: Words,
}

impl<'a> State<'a> {
    pub(crate) fn new(
        launch: &'a Launch,
        constants: &'a Constants,
        block: [u32; 3],
        warp: u32,
        words: Words,
    ) -> State<'a> {
        let [x, y, _] = launch.block.map(|n| n.max(1));
        let thread = |lane: usize| 32 * warp + lane as u32;
        let mut yes = [Bits::splat(false); 8];
        yes[7] = Bits::splat(true);
        let alive = (0..32).filter(|lane| thread(*lane) < launch.threads()).fold(0, |all, lane| all | 1 << lane);
        State {
            launch,
            constants,
            // The assembler keeps sets of flags in registers that it never wrote as a whole: they start as zeros.
            general: vec![Lanes::splat(0); 256],
            uniform: vec![Lanes::splat(0); 256],
            predicates: yes,
            uniform_predicates: yes,
            convergence: HashMap::new(),
            local: HashMap::new(),
            thread: [
                Lanes::each(|lane| thread(lane) % x),
                Lanes::each(|lane| thread(lane) / x % y),
                Lanes::each(|lane| thread(lane) / (x * y)),
            ],
            block,
            alive,
            unsure: 0,
            notes: BTreeMap::new(),
            warp,
            words,
        }
    }

    pub(crate) fn note(&mut self, text: String) {
        *self.notes.entry(text).or_default() += 1;
    }

    pub(crate) fn get(&self, register: Register) -> Lanes {
        match (register.index, register.file) {
            (crate::sass::ZERO, _) => Lanes::splat(0),
            (index, File::General) => self.general[usize::from(index)],
            (index, File::Uniform) => self.uniform[usize::from(index)],
        }
    }

    pub(crate) fn set(&mut self, register: Register, value: Lanes, mask: u32) {
        if register.index == crate::sass::ZERO {
            return;
        }
        let unsure = self.unsure;
        match register.file {
            File::General => {
                let slot = &mut self.general[usize::from(register.index)];
                if mask == ALL && unsure == 0 {
                    *slot = value;
                } else {
                    slot.blend(&value, mask, unsure);
                }
            }
            File::Uniform => {
                let slot = &mut self.uniform[usize::from(register.index)];
                let value = value.first(mask).map_or(Lanes::UNKNOWN, Lanes::splat);
                if unsure == 0 {
                    *slot = value;
                } else {
                    slot.blend(&value, ALL, ALL);
                }
            }
        }
    }

    pub(crate) fn predicate(&self, file: File, index: u8, negated: bool) -> Bits {
        let bits = match file {
            File::General => self.predicates[usize::from(index & 7)],
            File::Uniform => self.uniform_predicates[usize::from(index & 7)],
        };
        if negated { bits.not() } else { bits }
    }

    pub(crate) fn set_predicate(&mut self, file: File, index: u8, value: Bits, mask: u32) {
        if index == 7 {
            return;
        }
        let unsure = self.unsure;
        match file {
            File::General => self.predicates[usize::from(index & 7)].blend(value, mask, unsure),
            File::Uniform => {
                let lane = if mask == 0 { 0 } else { mask.trailing_zeros() };
                let value = match value.known >> lane & 1 {
                    0 => Bits::UNKNOWN,
                    _ => Bits::splat(value.bits >> lane & 1 == 1),
                };
                self.uniform_predicates[usize::from(index & 7)].blend(value, ALL, if unsure == 0 { 0 } else { ALL });
            }
        }
    }

    /// Low and high half of an address, its constant part left out.
    pub(crate) fn address(&self, address: &Address) -> (Lanes, Lanes) {
        let mut sum = (Lanes::splat(0), Lanes::splat(0));
        for (register, wide, times) in &address.registers {
            let low = self.get(*register);
            let high = if *wide { self.get(register.next(1)) } else { Lanes::splat(0) };
            let add = |low: u32, high: u32, sum: u64| {
                let part = u64::from(low).wrapping_mul(u64::from(*times)) | u64::from(high) << 32;
                sum.wrapping_add(part)
            };
            sum = Lanes::wide(&low, &high, (&sum.0, &sum.1), add);
        }
        sum
    }

    /// The address in shared memory that an operand reaches, the constant part with it.
    pub(crate) fn shared_address(&self, address: &Address) -> Lanes {
        let mut sum = Lanes::splat(address.offset as u32);
        for (register, _, times) in &address.registers {
            sum = sum.zip(&self.get(*register), |sum, part| sum.wrapping_add(part.wrapping_mul(*times)));
        }
        sum
    }
}

/// A source of 32 bits, resolved once.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Known(u32),
    Register(Register, bool),
    Constant(u8, u32, Option<Register>, bool),
    Unknown,
}

/// A source and whether its negative is meant.
#[derive(Clone, Debug)]
pub(crate) struct Term {
    source: Source,
    pub(crate) negated: bool,
}

impl Term {
    pub(crate) fn of(operand: &Operand) -> Term {
        match operand {
            Operand::Register { register, negated, inverted, .. } => {
                Term { source: Source::Register(*register, *inverted), negated: *negated }
            }
            Operand::Integer(number) => Term { source: Source::Known(*number as u32), negated: false },
            Operand::Float(number) => Term { source: Source::Known((*number as f32).to_bits()), negated: false },
            Operand::Constant { bank, index, offset, negated, inverted } => {
                Term { source: Source::Constant(*bank, *offset, *index, *inverted), negated: *negated }
            }
            _ => Term { source: Source::Unknown, negated: false },
        }
    }

    /// The word that lies this many registers or words further.
    pub(crate) fn further(&self, by: u8) -> Term {
        let source = match &self.source {
            Source::Register(register, inverted) => Source::Register(register.next(by), *inverted),
            Source::Constant(bank, offset, index, inverted) => {
                Source::Constant(*bank, offset + 4 * u32::from(by), *index, *inverted)
            }
            Source::Known(value) if *value >> 31 == 1 => Source::Known(u32::MAX),
            Source::Known(_) => Source::Known(0),
            Source::Unknown => Source::Unknown,
        };
        Term { source, negated: self.negated }
    }

    /// Its value, sign left out.
    pub(crate) fn raw(&self, state: &State) -> Lanes {
        match &self.source {
            Source::Known(value) => Lanes::splat(*value),
            Source::Register(register, false) => state.get(*register),
            Source::Register(register, true) => state.get(*register).map(|value| !value),
            Source::Constant(bank, offset, index, inverted) => {
                let word = |offset: u32| state.constants.word(*bank, offset);
                let flip = |value: u32| if *inverted { !value } else { value };
                match index.map(|index| state.get(index)) {
                    None => word(*offset).map_or(Lanes::UNKNOWN, |value| Lanes::splat(flip(value))),
                    Some(index) => Lanes::maybe(|lane| word(offset.wrapping_add(index.lane(lane)?)).map(flip)),
                }
            }
            Source::Unknown => Lanes::UNKNOWN,
        }
    }

    /// Its value.
    pub(crate) fn value(&self, state: &State) -> Lanes {
        let raw = self.raw(state);
        if self.negated { raw.map(u32::wrapping_neg) } else { raw }
    }
}

/// A predicate operand, or true.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Condition(pub(crate) File, pub(crate) u8, pub(crate) bool);

impl Condition {
    pub(crate) fn value(self, state: &State) -> Bits {
        state.predicate(self.0, self.1, self.2)
    }

    pub(crate) fn set(self, state: &mut State, value: Bits, mask: u32) {
        state.set_predicate(self.0, self.1, value, mask);
    }
}
