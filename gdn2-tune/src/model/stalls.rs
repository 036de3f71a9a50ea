//! Stalls that the machine code states itself: the assembler writes into each instruction's control word how many clocks
//! its warp waits before the next one.
//!
//! That is the whole cost of a lone warp's instruction where its unit answers after a fixed number of clocks. Loads,
//! special functions and shuffles set a scoreboard instead, and matrix units are busy for longer than they take to issue:
//! for those the constants speak.

use super::counts::Unit;
use gdn2_vm::Class;
use std::collections::BTreeMap;

/// Clocks per PTX instruction of a unit.
pub type Stalls = BTreeMap<Unit, f64>;

/// What an instruction of 128 bits says in its upper half, lowest bit first: from bit 41 on 4 bits of stall, 1 bit of yield,
/// 3 bits that number the scoreboard its result sets, 7 for none. Public studies of Volta and later.
const STALL_BIT: u32 = 41;
const SCOREBOARD_BIT: u32 = 46;
const NO_SCOREBOARD: u64 = 7;

/// Units of fixed latency by mnemonic; what is in neither list of [`unit`] is integer work.
const FLOAT: [&str; 10] = ["FADD", "FMUL", "FFMA", "FMNMX", "FSEL", "FSETP", "FSET", "HADD2", "HMUL2", "HFMA2"];
const CONVERT: [&str; 6] = ["F2FP", "F2F", "F2I", "I2F", "I2FP", "FRND"];
const BRANCH: [&str; 10] = ["BRA", "BRX", "BSSY", "BSYNC", "BREAK", "CALL", "RET", "EXIT", "WARPSYNC", "NOP"];
const ELSEWHERE: [&str; 30] = [
    "LD",
    "LDC",
    "LDG",
    "LDGSTS",
    "LDGDEPBAR",
    "LDL",
    "LDS",
    "LDSM",
    "ST",
    "STG",
    "STL",
    "STS",
    "STSM",
    "ATOM",
    "ATOMS",
    "ATOMG",
    "RED",
    "MUFU",
    "SHFL",
    "MOVM",
    "BAR",
    "DEPBAR",
    "ERRBAR",
    "MEMBAR",
    "SYNCS",
    "WARPGROUP",
    "HMMA",
    "HGMMA",
    "IMMA",
    "ULDC",
];

fn unit(mnemonic: &str) -> Option<Unit> {
    match mnemonic {
        name if ELSEWHERE.contains(&name) => None,
        name if FLOAT.contains(&name) => Some(Unit::Float),
        name if CONVERT.contains(&name) => Some(Unit::Convert),
        name if BRANCH.contains(&name) => Some(Unit::Branch),
        _ => Some(Unit::Integer),
    }
}

/// What the machine code of a kernel says its fixed-latency instructions cost, spread over the PTX instructions they
/// came from. `sass` is a disassembly with encodings, of the whole cubin; a unit that either text lacks is left out.
pub fn stalls<'a>(sass: &str, entry: &str, ptx: impl Iterator<Item = (Class, &'a str)>) -> Stalls {
    let mut clocks = Stalls::new();
    for (mnemonic, word) in instructions(sass, entry) {
        if word >> SCOREBOARD_BIT & 7 == NO_SCOREBOARD
            && let Some(unit) = unit(mnemonic)
        {
            *clocks.entry(unit).or_default() += (word >> STALL_BIT & 15) as f64;
        }
    }
    let mut texts: BTreeMap<Unit, f64> = BTreeMap::new();
    for unit in ptx.filter_map(|(class, text)| Unit::of(class, text)) {
        *texts.entry(unit).or_default() += 1.0;
    }
    let each = |(unit, clocks): (Unit, f64)| Some((unit, clocks / texts.get(&unit)?));
    clocks.into_iter().filter_map(each).collect()
}

/// Mnemonics of a kernel with the upper half of their encoding, which stands in the comment of the line after.
fn instructions<'a>(sass: &'a str, entry: &str) -> impl Iterator<Item = (&'a str, u64)> {
    let begins = format!(".text.{entry}:");
    let mine = sass.lines().skip_while(move |line| *line != begins).skip(1);
    let mut before = None;
    mine.take_while(|line| !line.starts_with(".text.")).filter_map(move |line| {
        let word = encoding(line)?;
        match mnemonic(line) {
            Some(mnemonic) => {
                before = Some(mnemonic);
                None
            }
            None => Some((before.take()?, word)),
        }
    })
}

/// The number in a line's last comment.
fn encoding(line: &str) -> Option<u64> {
    let digits = line.trim_end().strip_suffix("*/")?.rsplit_once("/* 0x")?.1;
    u64::from_str_radix(digits.trim(), 16).ok()
}

/// `HMMA` of `/*4310*/   @!P0 HMMA.16816.F32.BF16 R12, R100, R146, R12 ;`.
fn mnemonic(line: &str) -> Option<&str> {
    let (address, rest) = line.trim_start().strip_prefix("/*")?.split_once("*/")?;
    u64::from_str_radix(address, 16).ok()?;
    let mut words = rest.split_whitespace();
    let first = words.next()?;
    let word = if first.starts_with('@') { words.next()? } else { first };
    word.split('.').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two instructions of the kernel with stalls of 4 and 13, one with a scoreboard, one of another kernel.
    const SASS: &str = "\
.text.other:
        /*0000*/                   IADD3 R1, R1, R2, RZ ;     /* 0x0000000301017210 */
                                                              /* 0x000fe20000000000 */
.text.mine:
        /*0000*/                   LDS R1, [R2] ;             /* 0x0000000002017984 */
                                                              /* 0x000e640000000800 */
        /*0010*/              @!P0 IADD3.X R1, R1, R2, RZ ;   /* 0x0000000301017210 */
                                                              /* 0x000fc80000000000 */
.L_x_1:
        /*0020*/                   UIADD3 UR1, UR1, UR2, URZ ; /* 0x0000000301017290 */
                                                              /* 0x000fda0000000000 */
        /*0030*/                   I2F.RP R0, R5 ;            /* 0x0000000500007306 */
                                                              /* 0x000e620000209400 */
";

    #[test]
    fn stalls_of_fixed_latency_are_read_from_the_control_words() {
        let ptx = [
            (Class::Shared, "ld.shared.u32 %r1, [%r2];"),
            (Class::Integer, "add.s32 %r1, %r2, %r3;"),
            (Class::Integer, "mov.u32 %r1, %r2;"),
            (Class::Convert, "cvt.rn.f32.s32 %f1, %r1;"),
        ];
        assert_eq!(stalls(SASS, "mine", ptx.into_iter()), Stalls::from([(Unit::Integer, 17.0)]));
        assert!(stalls(SASS, "absent", ptx.into_iter()).is_empty());
    }
}
