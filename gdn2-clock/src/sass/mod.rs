//! Machine code as data: the text of `nvdisasm -c -hex`, instruction by instruction, with operands and control words.

mod operand;

pub use operand::{Address, File, Operand, Register, ZERO};

use std::collections::HashMap;

/// What the assembler tells the scheduler with an instruction: bits 41 to 57 of its upper 64 bits. The layout is the one
/// that public studies of Volta found (arXiv 1804.06826, section 2.1); it has held since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// Clocks until this warp may issue its next instruction.
    pub stall: u8,
    /// Scoreboard that the result sets.
    pub write: Option<u8>,
    /// Scoreboard set when the operands have been read.
    pub read: Option<u8>,
    /// Scoreboards that must be clear before this instruction issues, one bit each.
    pub wait: u8,
}

impl Control {
    fn of(upper: u64) -> Control {
        let board = |at: u32| Some((upper >> at & 7) as u8).filter(|board| *board < 6);
        Control { stall: (upper >> 41 & 15) as u8, write: board(46), read: board(49), wait: (upper >> 52 & 63) as u8 }
    }
}

/// The predicate before an instruction: `@!P0`, `@UP1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// Of which file.
    pub file: File,
    /// Which; 7 is always true.
    pub index: u8,
    /// Whether the instruction runs where it does not hold.
    pub negated: bool,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// Bytes behind the start of its kernel.
    pub address: u32,
    /// The predicate before it.
    pub guard: Option<Guard>,
    /// Mnemonic without modifiers.
    pub name: String,
    /// Modifiers in order.
    pub modifiers: Vec<String>,
    /// Operands in order, branch targets left out.
    pub operands: Vec<Operand>,
    /// The instruction that a branch leads to.
    pub target: Option<usize>,
    /// Control word.
    pub control: Control,
    /// Text, to quote.
    pub text: String,
}

impl Instruction {
    /// Whether it has a modifier.
    pub fn has(&self, modifier: &str) -> bool {
        self.modifiers.iter().any(|own| own == modifier)
    }
}

/// The machine code of one kernel with the subroutines that lie in its section.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    /// Instructions in order.
    pub instructions: Vec<Instruction>,
    by_address: HashMap<u32, usize>,
}

/// A text without the kernel, or with a line that is no instruction.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SassError {
    /// No machine code of the kernel.
    #[error("no machine code of `{entry}` in the disassembly")]
    NoEntry {
        /// Which.
        entry: String,
    },
    /// A branch to nowhere.
    #[error("{text}: no label `{label}`")]
    NoLabel {
        /// The instruction.
        text: String,
        /// The label.
        label: String,
    },
}

/// `/*04f0*/  TEXT ;  /* 0xWORD */` → address, text, word.
fn instruction_line(line: &str) -> Option<(u32, &str, u64)> {
    let (address, rest) = line.trim_start().strip_prefix("/*")?.split_once("*/")?;
    let address = u32::from_str_radix(address, 16).ok()?;
    let (text, comment) = rest.split_once(';').or_else(|| rest.split_once("/*"))?;
    Some((address, text.trim(), word(comment)?))
}

fn word(comment: &str) -> Option<u64> {
    let digits = comment.trim().trim_start_matches("/*").trim_end_matches("*/").trim().strip_prefix("0x")?;
    u64::from_str_radix(digits, 16).ok()
}

/// Splits at commas outside of brackets.
fn operands(text: &str) -> Vec<&str> {
    let (mut depth, mut from, mut parts) = (0, 0, Vec::new());
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'[' | b'(' => depth += 1,
            b']' | b')' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(text[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[from..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

fn guard(text: &str) -> Option<Guard> {
    let name = text.strip_prefix('@')?;
    let (negated, name) = name.strip_prefix('!').map_or((false, name), |name| (true, name));
    let (file, name) = name.strip_prefix('U').map_or((File::General, name), |name| (File::Uniform, name));
    let index = name.strip_prefix('P')?;
    Some(Guard { file, index: if index == "T" { 7 } else { index.parse().ok()? }, negated })
}

impl Program {
    /// Reads the machine code of `entry` from a disassembly with encodings.
    ///
    /// # Errors
    /// The text lacks the kernel, or one of its branches leads nowhere.
    pub fn parse(disassembly: &str, entry: &str) -> Result<Program, SassError> {
        let begin = format!(".text.{entry}:");
        let mut labels: HashMap<&str, usize> = HashMap::new();
        let mut targets: Vec<Option<&str>> = Vec::new();
        let mut instructions: Vec<Instruction> = Vec::new();
        let mut lines = disassembly.lines().skip_while(|line| line.trim() != begin).skip(1).peekable();
        labels.insert(entry, 0);
        while let Some(line) = lines.next() {
            if line.starts_with(".text.") || line.trim_start().starts_with(".section") {
                break;
            }
            if let Some(label) = line.trim_end().strip_suffix(':') {
                labels.insert(label, instructions.len());
                continue;
            }
            let Some((address, text, _)) = instruction_line(line) else { continue };
            let Some(upper) = lines.peek().and_then(|next| word(next)) else { continue };
            lines.next();
            let mut rest = text;
            let guard = text.split_whitespace().next().and_then(guard);
            if guard.is_some() {
                rest = text.split_once(char::is_whitespace).map_or("", |(_, rest)| rest.trim_start());
            }
            let (mnemonic, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            let (rest, target) = match rest.split_once("`(") {
                Some((before, behind)) => (before, behind.split(')').next()),
                None => (rest, None),
            };
            let mut words = mnemonic.split('.').map(str::to_owned);
            instructions.push(Instruction {
                address,
                guard,
                name: words.next().unwrap_or_default(),
                modifiers: words.collect(),
                operands: operands(rest).into_iter().map(Operand::parse).collect(),
                target: None,
                control: Control::of(upper),
                text: text.to_owned(),
            });
            targets.push(target);
        }
        if instructions.is_empty() {
            return Err(SassError::NoEntry { entry: entry.to_owned() });
        }
        for (instruction, target) in instructions.iter_mut().zip(targets) {
            let Some(label) = target else { continue };
            instruction.target = labels.get(label).copied();
            // A return names its function only to say what its address is counted from.
            if instruction.target.is_none() && instruction.name != "RET" {
                return Err(SassError::NoLabel { text: instruction.text.clone(), label: label.to_owned() });
            }
        }
        let by_address = instructions.iter().enumerate().map(|(at, one)| (one.address, at)).collect();
        Ok(Program { instructions, by_address })
    }

    /// The instruction at an address.
    pub fn at(&self, address: u32) -> Option<usize> {
        self.by_address.get(&address).copied()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SASS: &str = "\
.text.other:
        /*0000*/                   EXIT ;                          /* 0x000000000000794d */
                                                                   /* 0x000fea0003800000 */
.text.mine:
        /*0000*/              @!P0 LDS.64 R2, [R4+UR5+0x10] ;      /* 0x0000000002017984 */
                                                                   /* 0x001e680000000a00 */
.L_x_1:
        /*0010*/                   BRA.U !UP0, `(.L_x_1) ;         /* 0x0000000301017290 */
                                                                   /* 0x000fda000b800000 */
";

    #[test]
    fn operands_labels_and_control_words_are_read() {
        let program = Program::parse(SASS, "mine").unwrap();
        let [load, branch] = &program.instructions[..] else { panic!("{program:?}") };
        assert_eq!(load.guard, Some(Guard { file: File::General, index: 0, negated: true }));
        assert_eq!((load.name.as_str(), load.has("64")), ("LDS", true));
        assert_eq!(load.control, Control { stall: 4, write: Some(1), read: None, wait: 1 });
        assert_eq!((branch.target, branch.operands.len()), (Some(1), 1));
        assert!(Program::parse(SASS, "absent").is_err());
    }
}
