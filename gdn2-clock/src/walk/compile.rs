//! From an instruction to what it does to the known part of a warp's state.

use super::lanes::{Bits, Lanes};
use super::state::{Condition, State, Term};
use super::{exchange, integer, numbers, words};
use crate::sass::{File, Instruction, Operand, Register};

/// What an instruction does to a warp's state, in the lanes of a mask.
pub(crate) type Action = Box<dyn Fn(&mut State, u32)>;

/// An instruction's operands by role: predicates before the destination, the destination, predicates behind it, sources,
/// predicates at the end.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) modifiers: Vec<String>,
    pub(crate) leading: Vec<Condition>,
    pub(crate) destination: Option<Register>,
    pub(crate) before: Vec<Condition>,
    pub(crate) terms: Vec<Term>,
    pub(crate) behind: Vec<Condition>,
    /// `.X`: takes carries in.
    pub(crate) extended: bool,
}

impl Parts {
    /// `writes`: whether the first register is a destination.
    fn of(instruction: &Instruction, writes: bool) -> Parts {
        let extended = instruction.has("X") || instruction.has("EX");
        let mut parts = Parts { modifiers: instruction.modifiers.clone(), extended, ..Parts::default() };
        let mut placed = !writes;
        for operand in &instruction.operands {
            match operand {
                Operand::Predicate(file, index, negated) => {
                    let condition = Condition(*file, *index, *negated);
                    let list = match (placed && writes, parts.terms.is_empty()) {
                        (false, true) => &mut parts.leading,
                        (true, true) => &mut parts.before,
                        (_, false) => &mut parts.behind,
                    };
                    list.push(condition);
                }
                Operand::Register { register, .. } if !placed => {
                    parts.destination = Some(*register);
                    placed = true;
                }
                other => parts.terms.push(Term::of(other)),
            }
        }
        parts
    }

    pub(crate) fn has(&self, modifier: &str) -> bool {
        self.modifiers.iter().any(|own| own == modifier)
    }
}

/// Opcodes that leave registers and predicates alone.
const EFFECTS_ONLY: [&str; 34] = [
    "STG",
    "STS",
    "STSM",
    "ST",
    "RED",
    "REDG",
    "BAR",
    "BRA",
    "BSSY",
    "BSYNC",
    "BREAK",
    "EXIT",
    "UTMALDG",
    "UTMASTG",
    "UTMAPF",
    "UTMACMDFLUSH",
    "UTMACCTL",
    "LDGSTS",
    "WARPGROUP",
    "WARPSYNC",
    "NOP",
    "DEPBAR",
    "MEMBAR",
    "FENCE",
    "ARRIVES",
    "LDGDEPBAR",
    "UBLKCP",
    "NANOSLEEP",
    "ERRBAR",
    "CCTL",
    "YIELD",
    "ENDCOLLECTIVE",
    "PREEXIT",
    "ACQBULK",
];

/// Floating point that decides no branch and makes no address: its results become unknown.
const FLOATING: [&str; 27] = [
    "FADD", "FMUL", "FFMA", "FMNMX", "FSETP", "FSET", "FCHK", "FSWZADD", "HADD2", "HMUL2", "HFMA2", "HSETP2", "HSET2",
    "HMNMX2", "DADD", "DMUL", "DFMA", "DSETP", "HMMA", "IMMA", "DMMA", "HGMMA", "MOVM", "F2FP", "F2F", "FRND", "I2FP",
];

/// Memory and exchanges whose results are unknown; narrow loads of shared memory, too.
const OPAQUE: [&str; 10] = ["LDS", "LDSM", "ATOMS", "ATOMG", "ATOM", "REDUX", "CREDUX", "QGMMA", "IGMMA", "MATCH"];

/// How many registers an opaque instruction writes.
fn width(instruction: &Instruction) -> u8 {
    let has = |modifier: &str| instruction.has(modifier);
    match instruction.name.as_str() {
        "HGMMA" | "QGMMA" | "IGMMA" => instruction
            .modifiers
            .first()
            .and_then(|shape| shape.split('x').nth(1))
            .map_or(4, |n| n.parse::<u16>().map_or(4, |n| (n / 2).min(128)) as u8),
        "HMMA" | "IMMA" | "DMMA" => 4,
        _ if has("128") || instruction.name == "LDSM" && has("4") => 4,
        _ if has("64") || instruction.name == "LDSM" && has("2") => 2,
        name if name.starts_with('D') && name != "DEPBAR" => 2,
        _ => 1,
    }
}

/// Destinations become unknown.
fn clobber(instruction: &Instruction) -> Action {
    let sets_predicates = ["SETP", "SETP2", "FCHK"].iter().any(|kind| instruction.name.contains(kind));
    let parts = Parts::of(instruction, !sets_predicates);
    let count = if sets_predicates { 2 } else { parts.leading.len() };
    let predicates: Vec<Condition> = parts.leading.iter().take(count).copied().collect();
    let registers: Vec<Register> =
        parts.destination.into_iter().flat_map(|first| (0..width(instruction)).map(move |by| first.next(by))).collect();
    Box::new(move |state, mask| {
        for register in &registers {
            state.set(*register, Lanes::UNKNOWN, mask);
        }
        for predicate in &predicates {
            predicate.set(state, Bits::UNKNOWN, mask);
        }
    })
}

fn nothing() -> Action {
    Box::new(|_, _| {})
}

/// Predicates come true: an mbarrier's phase that is waited for always ends, registers asked for are always had.
fn succeeds(instruction: &Instruction) -> Action {
    let parts = Parts::of(instruction, false);
    Box::new(move |state, mask| {
        for predicate in &parts.leading {
            predicate.set(state, Bits::splat(true), mask);
        }
    })
}

/// What an instruction does. An opcode that is not known makes its destinations unknown and is noted.
pub(crate) fn action(instruction: &Instruction) -> Action {
    let name = instruction.name.as_str();
    if EFFECTS_ONLY.contains(&name) {
        let stores = match name {
            "STS" => words::store(instruction),
            "STSM" | "LDGSTS" => words::overwrite(instruction),
            _ => None,
        };
        return stores.unwrap_or_else(nothing);
    }
    if name == "SYNCS" || name == "USETMAXREG" {
        return if name == "USETMAXREG" || instruction.has("PHASECHK") { succeeds(instruction) } else { nothing() };
    }
    if let Some(action) = known(instruction, name) {
        return action;
    }
    let clobber = clobber(instruction);
    if let Some(overwrite) = words::overwrite(instruction).filter(|_| name == "ATOMS") {
        return Box::new(move |state, mask| {
            overwrite(state, mask);
            clobber(state, mask);
        });
    }
    if FLOATING.contains(&name) || OPAQUE.contains(&name) || name.starts_with('F') {
        return clobber;
    }
    let text = format!("`{name}` is not known: its results are taken as unknown");
    Box::new(move |state, mask| {
        state.note(text.clone());
        clobber(state, mask);
    })
}

fn known(instruction: &Instruction, name: &str) -> Option<Action> {
    // The uniform form of an opcode does the same in one lane.
    let plain = match name.strip_prefix('U') {
        Some(rest) if !["BLKCP"].contains(&rest) => rest,
        _ => name,
    };
    let has = |modifier: &str| instruction.has(modifier);
    let writes = !["ISETP", "PLOP3"].contains(&plain);
    let parts = Parts::of(instruction, writes);
    match plain {
        "MOV" if has("64") => numbers::pair(&parts),
        "MOV" | "2UR" => integer::unary(&parts, |x| x),
        "R2UR" => exchange::to_uniform(&parts),
        "IADD3" | "IADD" if has("64") => integer::add64(&parts),
        "IADD3" | "IADD" | "VIADD" => integer::add3(&parts),
        "IMAD" => integer::multiply_add(&parts),
        "LEA" => integer::shift_add(&parts),
        "LOP3" => integer::logic(&parts),
        "SHF" => integer::shift(&parts),
        "ISETP" => integer::set_predicate(&parts),
        "PLOP3" => integer::predicate_logic(&parts),
        "SEL" | "FSEL" => integer::select(&parts),
        "VIMNMX" | "IMNMX" => integer::least_or_most(&parts, false),
        "VIADDMNMX" => integer::least_or_most(&parts, true),
        "PRMT" => integer::permute(&parts),
        "IABS" => integer::unary(&parts, |x| x.cast_signed().unsigned_abs()),
        "POPC" => integer::unary(&parts, u32::count_ones),
        "BREV" => integer::unary(&parts, u32::reverse_bits),
        "FLO" if has("SH") => integer::unary(&parts, u32::leading_zeros),
        "FLO" => integer::unary(&parts, |x| 31u32.wrapping_sub(x.leading_zeros())),
        "SGXT" if has("U32") => integer::binary(&parts, |x, n| if n > 31 { x } else { x & ((1 << n) - 1) }),
        "SGXT" => integer::binary(&parts, |x, n| match n {
            0 => 0,
            32.. => x,
            n => ((x << (32 - n)).cast_signed() >> (32 - n)).cast_unsigned(),
        }),
        "BMSK" => integer::binary(&parts, |at, n| {
            let ones = if n > 31 { u32::MAX } else { (1 << n) - 1 };
            ones.checked_shl(at).unwrap_or(0)
        }),
        "HFMA2" => numbers::two_halves(instruction, &parts),
        "I2F" => numbers::to_float(&parts),
        "F2I" => numbers::to_integer(&parts),
        "MUFU" if has("RCP") => numbers::reciprocal(&parts),
        "MUFU" | "I2I" => Some(clobber(instruction)),
        "CS2R" | "S2R" | "S2UR" => numbers::special(instruction, &parts),
        "LDC" | "LDCU" => numbers::constant(instruction, &parts),
        "P2R" => exchange::pack_predicates(instruction, &parts),
        "R2P" => exchange::unpack_predicates(instruction),
        "VOTE" | "VOTEU" => exchange::vote(instruction, &parts),
        "ELECT" => exchange::elect(instruction),
        "SHFL" => exchange::shuffle(&parts),
        "LDL" | "STL" => exchange::local(instruction),
        "LDG" | "LD" => exchange::load(instruction),
        "LDS" => words::load(instruction),
        _ => None,
    }
    .or_else(|| (name == "ULDC").then(|| numbers::constant(instruction, &parts)).flatten())
}

/// A predicate operand as the walk reads it.
pub(crate) fn condition(operand: &Operand) -> Option<Condition> {
    match operand {
        Operand::Predicate(file, index, negated) => Some(Condition(*file, *index, *negated)),
        _ => None,
    }
}

/// Every lane has the same value of this file.
pub(crate) fn is_uniform(file: File) -> bool {
    file == File::Uniform
}
