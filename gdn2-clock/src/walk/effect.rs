//! What the schedulers need to know of an executed instruction: passes, sectors, barriers, copies.

use super::lanes::{ALL, Bits, Lanes};
use super::memory::{passes, sectors, tile_passes};
use super::state::{Condition, State, Term};
use super::trace::Effect;
use crate::sass::{Address, Instruction, Operand, Register};
use std::collections::HashMap;

/// Sectors that the block has touched, numbered, and the list that steps refer to.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    numbers: HashMap<u64, u32>,
    pub(crate) list: Vec<u32>,
    pub(crate) bulk_bytes: u64,
}

impl Touched {
    fn push(&mut self, sectors: &[u64]) -> Effect {
        let first = self.list.len() as u32;
        for sector in sectors {
            let next = self.numbers.len() as u32;
            self.list.push(*self.numbers.entry(*sector).or_insert(next));
        }
        Effect::Sectors { first, count: sectors.len() as u16 }
    }

    pub(crate) fn distinct(&self) -> u32 {
        self.numbers.len() as u32
    }
}

/// How an instruction's effect is found, resolved once.
pub(crate) enum Finder {
    Nothing,
    Shared(Address, u32),
    Tiles(Address, u32),
    Global(Address, u32, Option<Condition>),
    Make(Address, Register),
    Wait(Address, Term),
    Arrive(Address, Arrivals, Option<Term>),
    ArriveLater(Address),
    Barrier(Vec<Term>, bool),
    Fetch(Register, Fetched),
    Put(Fetched),
}

/// What an arrival counts and announces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrivals {
    /// One a lane, the register's number, or none.
    count: Count,
    bytes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Count {
    None,
    One,
    Register,
}

/// Where a bulk copy's size stands: in a tensor map, or in a register that counts 16 bytes.
#[derive(Clone, Debug)]
pub(crate) enum Fetched {
    Map(Register),
    Register(Option<Term>),
}

pub(crate) fn access_width(instruction: &Instruction) -> u32 {
    match () {
        () if instruction.has("128") => 16,
        () if instruction.has("64") => 8,
        () if instruction.has("U16") || instruction.has("S16") => 2,
        () if instruction.has("U8") || instruction.has("S8") => 1,
        () => 4,
    }
}

/// The first address of an instruction.
pub(crate) fn memory(instruction: &Instruction) -> Option<Address> {
    instruction.operands.iter().find_map(|operand| match operand {
        Operand::Memory(address) => Some(address.clone()),
        _ => None,
    })
}

/// `A1T0`: arrivals one, no bytes; `A0TR`: none, bytes from a register; `ART0`: arrivals from a register.
fn arrivals(instruction: &Instruction) -> Arrivals {
    let form =
        instruction.modifiers.iter().find(|one| one.len() == 4 && one.starts_with('A') && one.as_bytes()[2] == b'T');
    let form = form.map_or("A1T0", String::as_str);
    let count = match &form[1..2] {
        "0" => Count::None,
        "R" => Count::Register,
        _ => Count::One,
    };
    Arrivals { count, bytes: form.ends_with('R') }
}

impl Finder {
    pub(crate) fn of(instruction: &Instruction) -> Finder {
        let address = memory(instruction);
        let last_register = || {
            instruction.operands.iter().rev().find_map(|operand| {
                matches!(operand, Operand::Register { .. } | Operand::Integer(_)).then(|| Term::of(operand))
            })
        };
        let inside = |index: usize| match instruction.operands.get(index) {
            Some(Operand::Memory(address)) => address.registers.first().map(|(register, ..)| *register),
            _ => None,
        };
        match (instruction.name.as_str(), address) {
            ("LDS" | "STS" | "ATOMS", Some(address)) => Finder::Shared(address, access_width(instruction)),
            ("LDSM" | "STSM", Some(address)) => {
                let count = instruction.modifiers.last().and_then(|count| count.parse().ok()).unwrap_or(1);
                Finder::Tiles(address, count)
            }
            ("LDG" | "STG" | "LD" | "ST" | "ATOMG" | "ATOM" | "RED" | "REDG", Some(address)) => {
                Finder::Global(address, access_width(instruction), None)
            }
            ("LDGSTS", _) => {
                // The first address is in shared memory; where a predicate at the end does not hold, zeros are stored.
                let mut addresses = instruction.operands.iter().filter_map(|operand| match operand {
                    Operand::Memory(address) => Some(address.clone()),
                    _ => None,
                });
                let read = instruction.operands.last().and_then(super::compile::condition);
                match addresses.nth(1) {
                    Some(address) => Finder::Global(address, access_width(instruction), read),
                    None => Finder::Nothing,
                }
            }
            ("SYNCS", Some(address)) if instruction.has("EXCH") => {
                match instruction.operands.last().and_then(Operand::register) {
                    Some(register) => Finder::Make(address, register),
                    None => Finder::Nothing,
                }
            }
            ("SYNCS", Some(address)) if instruction.has("PHASECHK") => match last_register() {
                Some(term) => Finder::Wait(address, term),
                None => Finder::Nothing,
            },
            ("SYNCS", Some(address)) if instruction.has("ARRIVE") => {
                Finder::Arrive(address, arrivals(instruction), instruction.operands.last().map(Term::of))
            }
            ("ARRIVES", Some(address)) => Finder::ArriveLater(address),
            ("BAR", _) => {
                let terms = instruction.operands.iter().filter(|operand| !matches!(operand, Operand::Predicate(..)));
                Finder::Barrier(terms.map(Term::of).collect(), !instruction.has("ARV"))
            }
            ("UTMALDG", _) => match (inside(0), inside(1)) {
                (Some(to), Some(map)) => Finder::Fetch(to, Fetched::Map(map)),
                _ => Finder::Nothing,
            },
            ("UTMASTG", _) => inside(1).or(inside(0)).map_or(Finder::Nothing, |map| Finder::Put(Fetched::Map(map))),
            ("UBLKCP", _) if instruction.modifiers.first().is_some_and(|to| to == "S") => match inside(0) {
                Some(to) => Finder::Fetch(to, Fetched::Register(last_register())),
                None => Finder::Nothing,
            },
            ("UBLKCP", _) => Finder::Put(Fetched::Register(last_register())),
            _ => Finder::Nothing,
        }
    }

    pub(crate) fn find(&self, state: &mut State, touched: &mut Touched, mask: u32) -> Effect {
        match self {
            Finder::Nothing => Effect::None,
            Finder::Shared(address, width) => {
                let at = state.shared_address(address);
                Effect::Passes(passes(&at, mask, *width) as u16)
            }
            Finder::Tiles(address, count) => Effect::Passes(tile_passes(&state.shared_address(address), *count) as u16),
            Finder::Global(address, width, read) => {
                let zeros = read.map_or(Bits::splat(false), |read| read.value(state).not());
                let reads = mask & !zeros.bits;
                if reads == 0 {
                    return Effect::None;
                }
                let (low, high) = state.address(address);
                match sectors(&low, &high, address.offset, reads, *width) {
                    Some(found) => touched.push(&found),
                    None => {
                        state
                            .note("global address not known: taken as one run of sectors, none seen before".to_owned());
                        Effect::Unseen((reads.count_ones() * width).div_ceil(32).max(1) as u16)
                    }
                }
            }
            Finder::Make(address, register) => {
                let at = state.shared_address(address).first(mask);
                let low = state.get(*register).first(mask);
                match (at, low) {
                    (Some(at), Some(low)) => {
                        Effect::Make { at, count: (0x10_0000u32).wrapping_sub(low >> 1) & 0xf_ffff }
                    }
                    _ => self.unknown(state, "an mbarrier's address or count"),
                }
            }
            Finder::Wait(address, parity) => {
                let at = state.shared_address(address).first(mask);
                let parity = parity.value(state).first(mask);
                match (at, parity) {
                    (Some(at), Some(parity)) => Effect::Wait { at, parity: parity >> 31 == 1 },
                    _ => self.unknown(state, "the address or parity that is waited for"),
                }
            }
            Finder::Arrive(address, arrivals, register) => {
                let at = state.shared_address(address).first(mask);
                let Some(at) = at else { return self.unknown(state, "an mbarrier's address") };
                let lanes = mask.count_ones();
                let number = register.as_ref().and_then(|term| term.value(state).first(mask)).unwrap_or(0);
                let count = match arrivals.count {
                    Count::None => 0,
                    Count::One => lanes,
                    Count::Register => lanes * number,
                };
                let bytes = if arrivals.bytes { lanes * number } else { 0 };
                Effect::Arrive { at, count: count as u16, bytes }
            }
            Finder::ArriveLater(address) => match state.shared_address(address).first(mask) {
                Some(at) => Effect::ArriveLater { at, count: mask.count_ones() as u16 },
                None => self.unknown(state, "an mbarrier's address"),
            },
            Finder::Barrier(terms, waits) => {
                let number = |at: usize| terms.get(at).and_then(|term| term.value(state).first(mask));
                let id = number(0).unwrap_or(0) as u16;
                let threads = number(1).unwrap_or_else(|| state.launch.threads().div_ceil(32) * 32) as u16;
                Effect::Barrier { id, threads, waits: *waits }
            }
            Finder::Fetch(to, how) => {
                let at = state.get(to.next(1)).first(mask);
                let bytes = how.bytes(state, mask);
                touched.bulk_bytes += u64::from(bytes);
                state.words.overwrite(&state.get(*to), 1 << mask.trailing_zeros().min(31), bytes);
                match at {
                    Some(at) => Effect::Fetch { at, bytes },
                    None => self.unknown(state, "the mbarrier of a bulk copy"),
                }
            }
            Finder::Put(how) => {
                let bytes = how.bytes(state, mask);
                touched.bulk_bytes += u64::from(bytes);
                Effect::Store { bytes }
            }
        }
    }

    fn unknown(&self, state: &mut State, what: &str) -> Effect {
        state.note(format!("not known: {what}; the instruction is taken as free"));
        Effect::None
    }
}

impl Fetched {
    fn bytes(&self, state: &mut State, mask: u32) -> u32 {
        let found = match self {
            Fetched::Map(register) => {
                let (low, high) = (state.get(*register).first(mask), state.get(register.next(1)).first(mask));
                low.zip(high).and_then(|(low, high)| {
                    state.constants.maps.get(&(u64::from(low) | u64::from(high) << 32)).copied()
                })
            }
            Fetched::Register(term) => {
                term.as_ref().and_then(|term| term.value(state).first(mask)).map(|count| 16 * count)
            }
        };
        found.unwrap_or_else(|| {
            state.note("size of a bulk copy not known: taken as 8,192 bytes".to_owned());
            8192
        })
    }
}

/// Whether lanes name more than one mbarrier, so that the arrivals must be told apart.
pub(crate) fn spread(address: &Lanes, mask: u32) -> bool {
    mask != 0 && address.uniform().is_none() && {
        let first = address.first(mask);
        (0..32).any(|lane| mask & ALL >> lane & 1 == 1 && address.lane(lane) != first)
    }
}
