//! Splits PTX text into tokens; words keep their dots and `::`, so an opcode is one token.

use crate::error::LoadError;

/// One token with where it stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Token<'a> {
    pub(crate) kind: Kind<'a>,
    /// Line from 1.
    pub(crate) line: u32,
    /// Byte offset of its start.
    pub(crate) start: usize,
    /// Byte offset after its end.
    pub(crate) end: usize,
}

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind<'a> {
    /// An opcode, directive, register, label or symbol.
    Word(&'a str),
    /// An integer, as its 64 bits.
    Int(u64),
    /// `0fXXXXXXXX`.
    F32(u32),
    /// `0dXXXXXXXXXXXXXXXX`, or a decimal literal.
    F64(u64),
    /// A quoted string.
    Text(&'a str),
    /// Any other character.
    Punct(u8),
}

fn word_byte(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

fn number(text: &str) -> Option<Kind<'_>> {
    let t = text.trim_end_matches('U');
    if let Some(h) = t.strip_prefix("0x").or_else(|| t.strip_prefix("0X")) {
        return u64::from_str_radix(h, 16).ok().map(Kind::Int);
    }
    if let Some(h) = t.strip_prefix("0f").or_else(|| t.strip_prefix("0F")) {
        return u32::from_str_radix(h, 16).ok().map(Kind::F32);
    }
    if let Some(h) = t.strip_prefix("0d").or_else(|| t.strip_prefix("0D")) {
        return u64::from_str_radix(h, 16).ok().map(Kind::F64);
    }
    if let Some(b) = t.strip_prefix("0b").or_else(|| t.strip_prefix("0B")) {
        return u64::from_str_radix(b, 2).ok().map(Kind::Int);
    }
    if t.contains(['.', 'e', 'E']) {
        return t.parse::<f64>().ok().map(|v| Kind::F64(v.to_bits()));
    }
    if t.len() > 1 && t.starts_with('0') {
        return u64::from_str_radix(t, 8).ok().map(Kind::Int);
    }
    t.parse().ok().map(Kind::Int)
}

/// All tokens of `text`, comments dropped.
pub(crate) fn lex(text: &str) -> Result<Vec<Token<'_>>, LoadError> {
    let s = text.as_bytes();
    let mut out = Vec::with_capacity(s.len() / 4);
    let (mut i, mut line) = (0, 1u32);
    let bad = |line, message: &str| LoadError::Malformed { line, message: message.to_owned() };
    while i < s.len() {
        let c = s[i];
        let start = i;
        if c == b'\n' {
            line += 1;
            i += 1;
        } else if c.is_ascii_whitespace() || c == 0 {
            i += 1;
        } else if s[i..].starts_with(b"//") {
            while i < s.len() && s[i] != b'\n' {
                i += 1;
            }
        } else if s[i..].starts_with(b"/*") {
            i += 2;
            while i < s.len() && !s[i..].starts_with(b"*/") {
                line += u32::from(s[i] == b'\n');
                i += 1;
            }
            i = (i + 2).min(s.len());
        } else if c == b'"' {
            i += 1;
            while i < s.len() && s[i] != b'"' {
                i += 1 + usize::from(s[i] == b'\\');
            }
            let body = text.get(start + 1..i).ok_or_else(|| bad(line, "a string does not end"))?;
            i += 1;
            out.push(Token { kind: Kind::Text(body), line, start, end: i });
        } else if word_byte(c) {
            while i < s.len()
                && (word_byte(s[i]) || (s[i..].starts_with(b"::") && s.get(i + 2).is_some_and(|&c| word_byte(c))))
            {
                i += if s[i] == b':' { 2 } else { 1 };
            }
            // A decimal float may have a signed exponent.
            let decimal = c.is_ascii_digit() && s[start..i - 1].iter().all(|c| c.is_ascii_digit() || *c == b'.');
            if decimal
                && matches!(s[i - 1], b'e' | b'E')
                && matches!(s.get(i), Some(b'+' | b'-'))
                && s.get(i + 1).is_some_and(u8::is_ascii_digit)
            {
                i += 1;
                while i < s.len() && s[i].is_ascii_digit() {
                    i += 1;
                }
            }
            let w = &text[start..i];
            let kind = if c.is_ascii_digit() {
                number(w).ok_or_else(|| bad(line, &format!("`{w}` is not a number")))?
            } else {
                Kind::Word(w)
            };
            out.push(Token { kind, line, start, end: i });
        } else {
            i += 1;
            if !c.is_ascii() {
                return Err(bad(line, "a character outside ASCII"));
            }
            out.push(Token { kind: Kind::Punct(c), line, start, end: i });
        }
    }
    Ok(out)
}
