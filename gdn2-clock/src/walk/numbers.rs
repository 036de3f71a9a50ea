//! Moves of pairs, constants, special registers, and the conversions that integer division is made of.

use super::compile::{Action, Parts};
use super::lanes::{Bits, Lanes};
use super::state::{State, Term};
use crate::sass::{Instruction, Operand};
use half::f16;

/// `MOV.64 d, a`.
pub(crate) fn pair(parts: &Parts) -> Option<Action> {
    let (d, a) = (parts.destination?, parts.terms.first()?.clone());
    let top = a.further(1);
    Some(Box::new(move |state, mask| {
        let (low, high) = (a.value(state), top.raw(state));
        state.set(d, low, mask);
        state.set(d.next(1), high, mask);
    }))
}

/// `HFMA2 d, -RZ, RZ, high, low`: how the assembler makes a constant on the other pipe.
pub(crate) fn two_halves(instruction: &Instruction, parts: &Parts) -> Option<Action> {
    let d = parts.destination?;
    let [_, a, b, high, low] = instruction.operands.as_slice() else { return None };
    let zero = |operand: &Operand| operand.register().is_some_and(|register| register.index == crate::sass::ZERO);
    let half = |operand: &Operand| match operand {
        Operand::Integer(number) => Some(f16::from_f64(*number as f64)),
        Operand::Float(number) => Some(f16::from_f64(*number)),
        _ => None,
    };
    if !zero(a) || !zero(b) {
        return None;
    }
    let value = u32::from(half(high)?.to_bits()) << 16 | u32::from(half(low)?.to_bits());
    Some(Box::new(move |state, mask| state.set(d, Lanes::splat(value), mask)))
}

/// The float at or above a number.
fn round_up(number: u64) -> f32 {
    let float = number as f32;
    if (float as f64) < number as f64 { f32::from_bits(float.to_bits() + 1) } else { float }
}

/// `I2F.RP`, `I2F.U32.RP`, `I2F.U64.RP`.
pub(crate) fn to_float(parts: &Parts) -> Option<Action> {
    let (d, a) = (parts.destination?, parts.terms.first()?.clone());
    let (long, unsigned) = (parts.has("U64"), parts.has("U32"));
    if parts.has("S64") || parts.has("F64") || parts.has("F16") {
        return None;
    }
    let top = a.further(1);
    Some(Box::new(move |state, mask| {
        let value = if long {
            a.value(state).zip(&top.raw(state), |low, high| round_up(u64::from(low) | u64::from(high) << 32).to_bits())
        } else {
            a.value(state).map(|x| match unsigned || x.cast_signed() >= 0 {
                true => round_up(u64::from(x)).to_bits(),
                false => (x.cast_signed() as f32).to_bits(),
            })
        };
        state.set(d, value, mask);
    }))
}

/// `F2I.U32.TRUNC`, `F2I.U64.TRUNC`.
pub(crate) fn to_integer(parts: &Parts) -> Option<Action> {
    let (d, a) = (parts.destination?, parts.terms.first()?.clone());
    let (long, unsigned) = (parts.has("U64"), parts.has("U32"));
    if !long && !unsigned || parts.has("F64") {
        return None;
    }
    Some(Box::new(move |state, mask| {
        let value = a.value(state);
        if long {
            state.set(d, value.map(|bits| f32::from_bits(bits) as u64 as u32), mask);
            state.set(d.next(1), value.map(|bits| (f32::from_bits(bits) as u64 >> 32) as u32), mask);
        } else {
            state.set(d, value.map(|bits| f32::from_bits(bits) as u32), mask);
        }
    }))
}

/// `MUFU.RCP`: a bit of its last place more or less is corrected by the division that it is part of.
pub(crate) fn reciprocal(parts: &Parts) -> Option<Action> {
    let (d, a) = (parts.destination?, parts.terms.first()?.clone());
    Some(Box::new(move |state, mask| {
        let value = a.value(state).map(|bits| (1.0 / f32::from_bits(bits)).to_bits());
        state.set(d, value, mask);
    }))
}

/// `S2R d, SR_TID.X` and the like. What a special register that is not in the list holds is unknown.
pub(crate) fn special(instruction: &Instruction, parts: &Parts) -> Option<Action> {
    let d = parts.destination?;
    let name = instruction.operands.iter().find_map(|operand| match operand {
        Operand::Other(name) => Some(name.clone()),
        _ => None,
    });
    let name = name.unwrap_or_else(|| "SRZ".to_owned());
    let wide = instruction.name == "CS2R" && !instruction.has("32");
    Some(Box::new(move |state, mask| {
        let [block, grid, threads] = [state.block, state.launch.grid, state.launch.block];
        let value = match name.as_str() {
            "SRZ" | "SR_CgaCtaId" | "SR_SWINHI" | "SR_SWINLO" | "SR_SMEMSZ" => Lanes::splat(0),
            "SR_CTAID.X" => Lanes::splat(block[0]),
            "SR_CTAID.Y" => Lanes::splat(block[1]),
            "SR_CTAID.Z" => Lanes::splat(block[2]),
            "SR_NCTAID.X" => Lanes::splat(grid[0]),
            "SR_NCTAID.Y" => Lanes::splat(grid[1]),
            "SR_NCTAID.Z" => Lanes::splat(grid[2]),
            "SR_NTID.X" => Lanes::splat(threads[0]),
            "SR_TID.X" => state.thread[0],
            "SR_TID.Y" => state.thread[1],
            "SR_TID.Z" => state.thread[2],
            "SR_LANEID" => Lanes::each(|lane| lane as u32),
            "SR_LTMASK" => Lanes::each(|lane| (1u32 << lane) - 1),
            "SR_CgaSize" => Lanes::splat(1),
            _ => Lanes::UNKNOWN,
        };
        state.set(d, value, mask);
        if wide {
            state.set(d.next(1), value, mask);
        }
    }))
}

/// `LDC`, `ULDC`, `LDCU` of one, two or four words.
pub(crate) fn constant(instruction: &Instruction, parts: &Parts) -> Option<Action> {
    let (d, first) = (parts.destination?, parts.terms.first()?.clone());
    let words: u8 = match (instruction.has("128"), instruction.has("64")) {
        (true, _) => 4,
        (_, true) => 2,
        _ => 1,
    };
    let small = match () {
        () if instruction.has("U8") => 0xff,
        () if instruction.has("U16") => 0xffff,
        () => u32::MAX,
    };
    let terms: Vec<Term> = (0..words).map(|by| first.further(by)).collect();
    Some(Box::new(move |state: &mut State, mask| {
        for (by, term) in terms.iter().enumerate() {
            let value = term.value(state).map(|word| word & small);
            state.set(d.next(by as u8), value, mask);
        }
    }))
}

/// Bits of a word as predicates, from its lowest.
pub(crate) fn bit(value: &Lanes, bit: u32) -> Bits {
    value.test(&Lanes::splat(1), |value, one| value >> bit & 1 == one)
}
