//! Operands of machine code.

/// A register file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum File {
    /// One value per lane.
    General,
    /// One value per warp.
    Uniform,
}

/// The index that stands for zero in either file.
pub const ZERO: u8 = 255;

/// A register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Register {
    /// Its file.
    pub file: File,
    /// Its number; [`ZERO`] reads as zero.
    pub index: u8,
}

impl Register {
    fn parse(text: &str) -> Option<Register> {
        let (file, rest) = match text.strip_prefix('U') {
            Some(rest) => (File::Uniform, rest),
            None => (File::General, text),
        };
        let digits = rest.strip_prefix('R')?;
        let index = if digits == "Z" { ZERO } else { digits.parse().ok()? };
        Some(Register { file, index })
    }

    /// The next register of its file; zero stays zero.
    pub fn next(self, by: u8) -> Register {
        let index = if self.index == ZERO { ZERO } else { self.index.saturating_add(by) };
        Register { index, ..self }
    }
}

/// The sum that a memory instruction reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Registers that are added, whether 64 bits of each count, and by what each is multiplied.
    pub registers: Vec<(Register, bool, u32)>,
    /// A constant.
    pub offset: i64,
}

/// An operand.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A register.
    Register {
        /// Which.
        register: Register,
        /// `-R0`.
        negated: bool,
        /// `~R0`.
        inverted: bool,
        /// `R0.64`.
        wide: bool,
    },
    /// A predicate: file, number (7 is always true), whether it is negated.
    Predicate(File, u8, bool),
    /// 32 bits or more of a number.
    Integer(i64),
    /// A number with a decimal point, or an infinity.
    Float(f64),
    /// A word of a constant bank.
    Constant {
        /// Bank.
        bank: u8,
        /// Register that is added to the offset.
        index: Option<Register>,
        /// Offset in bytes.
        offset: u32,
        /// `-c[0x0][0x0]`.
        negated: bool,
        /// `~c[0x0][0x0]`.
        inverted: bool,
    },
    /// An address in brackets.
    Memory(Address),
    /// Anything else: special registers, scoreboards, matrix descriptors.
    Other(String),
}

/// Hexadecimal with an optional sign.
fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let digits = digits.strip_prefix('+').unwrap_or(digits);
    let value = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok()? as i64,
        None => digits.parse().ok()?,
    };
    Some(if negative { value.wrapping_neg() } else { value })
}

fn float(text: &str) -> Option<f64> {
    match text.trim_start_matches(['+', '-']) {
        "INF" => Some(if text.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY }),
        "QNAN" | "SNAN" => Some(f64::NAN),
        _ => text.parse().ok(),
    }
}

fn predicate(text: &str) -> Option<Operand> {
    let (negated, name) = text.strip_prefix(['!', '~']).map_or((false, text), |name| (true, name));
    let (file, name) = name.strip_prefix('U').map_or((File::General, name), |name| (File::Uniform, name));
    let index = name.strip_prefix('P')?;
    let index = if index == "T" { 7 } else { index.parse().ok().filter(|index| *index < 8)? };
    Some(Operand::Predicate(file, index, negated))
}

/// `R2.X4+UR4+-0x10` as a sum.
fn sum(text: &str) -> Option<Address> {
    let mut address = Address { registers: Vec::new(), offset: 0 };
    for part in text.split('+').map(str::trim).filter(|part| !part.is_empty()) {
        if let Some(number) = integer(part) {
            address.offset += number;
            continue;
        }
        let mut words = part.split('.');
        let register = Register::parse(words.next()?)?;
        let (mut wide, mut times) = (false, 1);
        for word in words {
            match word {
                "64" => wide = true,
                "X4" => times = 4,
                "X8" => times = 8,
                "X16" => times = 16,
                _ => {}
            }
        }
        if register.index != ZERO {
            address.registers.push((register, wide, times));
        }
    }
    Some(address)
}

impl Operand {
    /// Reads an operand; what is not known stays text.
    pub fn parse(text: &str) -> Operand {
        let other = || Operand::Other(text.to_owned());
        let plain = text.strip_suffix(".reuse").unwrap_or(text);
        if let Some(operand) = predicate(plain) {
            return operand;
        }
        if let Some(number) = integer(plain) {
            return Operand::Integer(number);
        }
        if let Some(number) = float(plain) {
            return Operand::Float(number);
        }
        // A cache policy comes before the address it is for; matrix descriptors are no addresses.
        let plain = match plain.strip_prefix("desc[") {
            Some(rest) => match rest.split_once(']') {
                Some((_, address)) if !address.is_empty() => address,
                _ => return other(),
            },
            None => plain,
        };
        if let Some(inner) = plain.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
            return sum(inner).map_or_else(other, Operand::Memory);
        }
        let (negated, body) = plain.strip_prefix('-').map_or((false, plain), |body| (true, body));
        let (inverted, body) = body.strip_prefix('~').map_or((false, body), |body| (true, body));
        if let Some(rest) = body.strip_prefix("c[") {
            let parts = rest.trim_end_matches(".64").trim_end_matches(']').split_once("][");
            let Some((bank, inner)) = parts else { return other() };
            let (Some(bank), Some(inner)) = (integer(bank), sum(inner)) else { return other() };
            let index = inner.registers.first().map(|(register, ..)| *register);
            return Operand::Constant { bank: bank as u8, index, offset: inner.offset as u32, negated, inverted };
        }
        let body = body.strip_suffix(".reuse").unwrap_or(body);
        let mut words = body.split('.');
        match words.next().and_then(Register::parse) {
            Some(register) => {
                let wide = words.any(|word| word == "64");
                Operand::Register { register, negated, inverted, wide }
            }
            None => other(),
        }
    }

    /// The register, where it is one.
    pub fn register(&self) -> Option<Register> {
        match self {
            Operand::Register { register, .. } => Some(*register),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_an_operand_is_told_apart() {
        let general = |index| Register { file: File::General, index };
        let register =
            |index| Operand::Register { register: general(index), negated: false, inverted: false, wide: false };
        assert_eq!(Operand::parse("R72.reuse"), register(72));
        assert_eq!(Operand::parse("RZ"), register(ZERO));
        assert_eq!(
            Operand::parse("-UR5"),
            Operand::Register {
                register: Register { file: File::Uniform, index: 5 },
                negated: true,
                inverted: false,
                wide: false
            }
        );
        assert_eq!(Operand::parse("!UPT"), Operand::Predicate(File::Uniform, 7, true));
        assert_eq!(Operand::parse("-0x200"), Operand::Integer(-512));
        assert_eq!(Operand::parse("5.9604644775390625e-08"), Operand::Float(5.960_464_477_539_063e-8));
        let address = Address { registers: vec![(general(6), true, 1)], offset: -512 };
        assert_eq!(Operand::parse("desc[UR20][R6.64+-0x200]"), Operand::Memory(address));
        let bank =
            |offset| Operand::Constant { bank: 3, index: Some(general(2)), offset, negated: false, inverted: false };
        assert_eq!(Operand::parse("c[0x3][R2+0x10]"), bank(16));
        assert_eq!(Operand::parse("gdesc[UR12].tnspB"), Operand::Other("gdesc[UR12].tnspB".to_owned()));
    }
}
