//! Exchanges between lanes, predicates as bits of registers, stack words, and reads of memory whose contents are known.

use super::compile::{Action, Parts, condition};
use super::lanes::{Bits, LANES, Lanes};
use super::numbers::bit;
use super::state::{Condition, Term};
use crate::sass::{File, Instruction, Operand};

fn mask_operand(instruction: &Instruction) -> u32 {
    let number = instruction.operands.iter().rev().find_map(|operand| match operand {
        Operand::Integer(number) => Some(*number as u32),
        _ => None,
    });
    number.unwrap_or(0x7f)
}

/// `P2R d, PR, a, mask`: the predicates of the mask, other bits from `a`.
pub(crate) fn pack_predicates(instruction: &Instruction, parts: &Parts) -> Option<Action> {
    let d = parts.destination?;
    let chosen = mask_operand(instruction);
    let rest = instruction.operands.get(2).map(Term::of)?;
    Some(Box::new(move |state, mask| {
        let rest = rest.value(state);
        let predicates: Vec<Bits> = (0..7).map(|index| state.predicate(File::General, index, false)).collect();
        let value = Lanes::maybe(|lane| {
            let mut word = rest.lane(lane)? & !chosen;
            for (index, bits) in predicates.iter().enumerate().filter(|(index, _)| chosen >> index & 1 == 1) {
                if bits.known >> lane & 1 == 0 {
                    return None;
                }
                word |= (bits.bits >> lane & 1) << index;
            }
            Some(word)
        });
        state.set(d, value, mask);
    }))
}

/// `R2P PR, a, mask`.
pub(crate) fn unpack_predicates(instruction: &Instruction) -> Option<Action> {
    let chosen = mask_operand(instruction);
    let source = instruction.operands.get(1).map(Term::of)?;
    Some(Box::new(move |state, mask| {
        let value = source.value(state);
        for index in (0..7u8).filter(|index| chosen >> index & 1 == 1) {
            state.set_predicate(File::General, index, bit(&value, u32::from(index)), mask);
        }
    }))
}

/// `VOTE.ALL p, q`, `VOTEU.ANY u, p, q`: a truth for the warp, and the lanes that hold it.
pub(crate) fn vote(instruction: &Instruction, parts: &Parts) -> Option<Action> {
    let source = instruction.operands.last().and_then(condition)?;
    let any = instruction.has("ANY");
    let outs: Vec<Condition> = {
        let all: Vec<Condition> = instruction.operands.iter().filter_map(condition).collect();
        all[..all.len().saturating_sub(1)].to_vec()
    };
    let d = parts.destination;
    Some(Box::new(move |state, mask| {
        let bits = source.value(state);
        let (yes, no) = (bits.bits & mask, bits.known & !bits.bits & mask);
        let known = bits.known & mask == mask;
        let truth = match any {
            true if yes != 0 => Bits::splat(true),
            true if known => Bits::splat(false),
            false if no != 0 => Bits::splat(false),
            false if known => Bits::splat(true),
            _ => Bits::UNKNOWN,
        };
        for out in &outs {
            out.set(state, truth, mask);
        }
        if let Some(d) = d {
            state.set(d, if known { Lanes::splat(yes) } else { Lanes::UNKNOWN }, mask);
        }
    }))
}

/// `R2UR p, u, a`: a lane's value for the warp. `p`, where it is asked for, holds in the lanes that have another: those that a
/// loop over distinct values, as `ARRIVES` is in where its address is in a register, has yet to serve.
pub(crate) fn to_uniform(parts: &Parts) -> Option<Action> {
    let (d, a) = (parts.destination?, parts.terms.first()?.clone());
    let unserved = parts.leading.first().copied();
    Some(Box::new(move |state, mask| {
        let value = a.value(state);
        state.set(d, value, mask);
        if let Some(unserved) = unserved {
            let other = |served: u32| {
                let lanes = (0..LANES).filter(|lane| value.lane(*lane).is_some_and(|own| own != served));
                Bits { known: mask, bits: lanes.fold(0, |bits, lane| bits | 1 << lane) & mask }
            };
            let chosen = value.first(mask).filter(|_| value.knows(mask));
            unserved.set(state, chosen.map_or(Bits::UNKNOWN, other), mask);
        }
    }))
}

/// `ELECT p, u, q`: the lowest lane.
pub(crate) fn elect(instruction: &Instruction) -> Option<Action> {
    let outs: Vec<Condition> = instruction.operands.iter().filter_map(condition).collect();
    Some(Box::new(move |state, mask| {
        let chosen = Bits { known: u32::MAX, bits: mask & mask.wrapping_neg() };
        for out in outs.iter().take(1) {
            out.set(state, chosen, mask);
        }
    }))
}

/// `SHFL.BFLY p, d, a, lane, clamp`.
pub(crate) fn shuffle(parts: &Parts) -> Option<Action> {
    let d = parts.destination?;
    let [a, b, c] = <[Term; 3]>::try_from(parts.terms.clone()).ok()?;
    let mode = parts.modifiers.first()?.clone();
    Some(Box::new(move |state, mask| {
        let (value, by, clamp) = (a.value(state), b.value(state), c.value(state));
        let result = if value.uniform().is_some() {
            value
        } else {
            Lanes::maybe(|lane| {
                let (by, clamp) = (by.lane(lane)? as usize, clamp.lane(lane)? as usize);
                let segment = clamp >> 8 & 31;
                let last = lane & segment | clamp & 31 & !segment;
                let from = match mode.as_str() {
                    "IDX" => Some(lane & segment | by & 31 & !segment).filter(|from| *from <= last),
                    "BFLY" => Some(lane ^ by & 31).filter(|from| *from <= last),
                    "UP" => lane.checked_sub(by & 31).filter(|from| *from >= last),
                    _ => Some(lane + (by & 31)).filter(|from| *from <= last),
                };
                value.lane(from.unwrap_or(lane) % LANES)
            })
        };
        state.set(d, result, mask);
    }))
}

/// How many words a load or store moves for each lane.
pub(crate) fn words(instruction: &Instruction) -> u8 {
    match (instruction.has("128"), instruction.has("64")) {
        (true, _) => 4,
        (_, true) => 2,
        _ => 1,
    }
}

/// `LDL`, `STL`: every lane has its own stack, at the same addresses.
pub(crate) fn local(instruction: &Instruction) -> Option<Action> {
    let loads = instruction.name == "LDL";
    let (address, data) = match instruction.operands.as_slice() {
        [Operand::Memory(address), data] | [data, Operand::Memory(address)] => (address.clone(), data.register()?),
        _ => return None,
    };
    let count = words(instruction);
    Some(Box::new(move |state, mask| {
        let at = state.shared_address(&address).first(mask);
        for by in 0..count {
            let place = at.map(|at| at.wrapping_add(4 * u32::from(by)));
            if loads {
                let value = place.and_then(|place| state.local.get(&place).copied()).unwrap_or(Lanes::UNKNOWN);
                state.set(data.next(by), value, mask);
            } else if let Some(place) = place {
                let value = state.get(data.next(by));
                let unsure = state.unsure;
                state.local.entry(place).or_insert(Lanes::UNKNOWN).blend(&value, mask, unsure);
            } else {
                state.local.clear();
            }
        }
    }))
}

/// `LDG d, [address]`, where the launch says what memory holds.
pub(crate) fn load(instruction: &Instruction) -> Option<Action> {
    let d = instruction.operands.first()?.register()?;
    let address = instruction.operands.iter().find_map(|operand| match operand {
        Operand::Memory(address) => Some(address.clone()),
        _ => None,
    })?;
    let (size, count, signed) = match () {
        () if instruction.has("U8") => (1, 1, None),
        () if instruction.has("S8") => (1, 1, Some(24)),
        () if instruction.has("U16") => (2, 1, None),
        () if instruction.has("S16") => (2, 1, Some(16)),
        () => (4, words(instruction), None),
    };
    Some(Box::new(move |state, mask| {
        let (low, high) = state.address(&address);
        let launch = state.launch;
        for by in 0..count {
            let value = if launch.memory.is_empty() {
                Lanes::UNKNOWN
            } else {
                Lanes::maybe(|lane| {
                    let at = u64::from(low.lane(lane)?) | u64::from(high.lane(lane)?) << 32;
                    let at = at.wrapping_add_signed(address.offset + 4 * i64::from(by));
                    let word = launch.read(at, size)? as u32;
                    Some(signed.map_or(word, |shift| ((word << shift).cast_signed() >> shift).cast_unsigned()))
                })
            };
            state.set(d.next(by), value, mask);
        }
    }))
}
