//! `vprintf`: what a kernel prints, formatted as C does.

use crate::exec::access::{Request, addresses};
use crate::exec::block::Block;
use crate::exec::lanes::lanes;
use crate::exec::observe::{Agent, Kind, Observer};
use crate::exec::warp::Warp;
use crate::isa::inst::{Addr, Order, Space};
use crate::report::trap::Exec;

/// Bytes of a format, or of a string that it prints.
const MOST_TEXT: usize = 1 << 14;
/// Bytes that one launch may print: the rest is dropped, as a GPU's buffer drops it.
const MOST_PRINTED: usize = 1 << 20;

impl<O: Observer> Block<'_, O> {
    /// A value of at most 8 bytes at a generic (or a thread's own) address of one lane.
    fn peek(&mut self, w: &Warp, lane: usize, space: Space, at: u64, bytes: u32) -> Exec<u64> {
        let q = Request { space, kind: Kind::Read, agent: Agent::Warp, order: Order::Weak, bytes, align: bytes };
        let p = self.pointers(w, 1 << lane, &[at; 32], q)?[lane];
        let mut value = [0; 8];
        for (i, v) in value.iter_mut().enumerate().take(bytes as usize) {
            // SAFETY: the bytes were checked.
            *v = unsafe { p.add(i).read() };
        }
        Ok(u64::from_le_bytes(value))
    }

    /// The bytes up to a zero.
    fn string(&mut self, w: &Warp, lane: usize, at: u64) -> Exec<Vec<u8>> {
        let mut text = Vec::new();
        while text.len() < MOST_TEXT {
            match self.peek(w, lane, Space::Generic, at.wrapping_add(text.len() as u64), 1)? {
                0 => break,
                c => text.push(c as u8),
            }
        }
        Ok(text)
    }

    /// `format` and `args` are where the pointers to the format and to its arguments lie.
    pub(crate) fn print(&mut self, w: &Warp, mask: u32, format: Addr, args: Addr, result: Option<Addr>) -> Exec<()> {
        let [formats, lists] = [format, args].map(|a| addresses(w, a));
        let results = result.map(|a| addresses(w, a));
        for lane in lanes(mask) {
            let format = self.peek(w, lane, Space::Local, formats[lane], 8)?;
            let list = self.peek(w, lane, Space::Local, lists[lane], 8)?;
            let format = self.string(w, lane, format)?;
            let (text, n) = self.formatted(w, lane, &format, list)?;
            if self.printed.len() + text.len() <= MOST_PRINTED {
                self.printed.push_str(&text);
            }
            if let Some(results) = results {
                let q = Request {
                    space: Space::Local,
                    kind: Kind::Write,
                    agent: Agent::Warp,
                    order: Order::Weak,
                    bytes: 4,
                    align: 4,
                };
                let p = self.pointers(w, 1 << lane, &results, q)?[lane];
                // SAFETY: four bytes were checked.
                unsafe { p.cast::<u32>().write_unaligned(n) };
            }
        }
        Ok(())
    }

    fn formatted(&mut self, w: &Warp, lane: usize, format: &[u8], list: u64) -> Exec<(String, u32)> {
        let (mut out, mut at, mut n) = (String::new(), list, 0);
        let mut rest = format.iter().copied().peekable();
        while let Some(c) = rest.next() {
            if c != b'%' {
                out.push(c as char);
                continue;
            }
            let mut spec = Spec::default();
            while let Some(&c) = rest.peek() {
                match c {
                    b'-' => spec.left = true,
                    b'0' => spec.zeros = true,
                    b'+' => spec.plus = true,
                    b' ' => spec.space = true,
                    b'#' => spec.alternate = true,
                    _ => break,
                }
                rest.next();
            }
            spec.width = number(&mut rest).unwrap_or(0);
            if rest.peek() == Some(&b'.') {
                rest.next();
                spec.precision = Some(number(&mut rest).unwrap_or(0));
            }
            let mut wide = false;
            while let Some(b'l' | b'h' | b'z' | b'j' | b't') = rest.peek() {
                wide |= rest.next() != Some(b'h');
            }
            let Some(kind) = rest.next() else { break };
            if kind == b'%' {
                out.push('%');
                continue;
            }
            let bytes = match kind {
                b'd' | b'i' | b'u' | b'x' | b'X' | b'o' if !wide => 4,
                b'c' => 4,
                _ => 8,
            };
            at = at.next_multiple_of(u64::from(bytes));
            let bits = self.peek(w, lane, Space::Generic, at, bytes)?;
            at = at.wrapping_add(u64::from(bytes));
            n += 1;
            let text = match kind {
                b'd' | b'i' => {
                    let v = if bytes == 4 { i64::from(bits as i32) } else { bits as i64 };
                    spec.integer(v < 0, v.unsigned_abs().to_string())
                }
                b'u' => spec.integer(false, bits.to_string()),
                b'x' => spec.integer(false, format!("{}{bits:x}", if spec.alternate { "0x" } else { "" })),
                b'X' => spec.integer(false, format!("{}{bits:X}", if spec.alternate { "0X" } else { "" })),
                b'o' => spec.integer(false, format!("{bits:o}")),
                b'p' => spec.padded(format!("{bits:#x}")),
                b'c' => spec.padded(char::from(bits as u8).to_string()),
                b's' => {
                    let text = self.string(w, lane, bits)?;
                    let text: String = text.iter().map(|c| char::from(*c)).collect();
                    spec.padded(text.chars().take(spec.precision.unwrap_or(MOST_TEXT)).collect())
                }
                b'f' | b'F' | b'e' | b'E' | b'g' | b'G' | b'a' | b'A' => spec.float(kind, f64::from_bits(bits)),
                other => format!("%{}", char::from(other)),
            };
            out.push_str(&text);
        }
        Ok((out, n))
    }
}

/// A number in a format, if one stands next.
fn number(rest: &mut std::iter::Peekable<impl Iterator<Item = u8>>) -> Option<usize> {
    let mut n = None;
    while let Some(c @ b'0'..=b'9') = rest.peek().copied() {
        n = Some((n.unwrap_or(0) * 10 + usize::from(c - b'0')).min(MOST_TEXT));
        rest.next();
    }
    n
}

/// How one argument is printed.
#[derive(Clone, Copy, Debug, Default)]
struct Spec {
    left: bool,
    zeros: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
}

impl Spec {
    fn padded(self, text: String) -> String {
        let width = self.width;
        if self.left { format!("{text:<width$}") } else { format!("{text:>width$}") }
    }

    /// A sign, and digits that zeros may stand before.
    fn signed(self, negative: bool, digits: String, zeros: bool) -> String {
        let sign = match () {
            () if negative => "-",
            () if self.plus => "+",
            () if self.space => " ",
            () => "",
        };
        let fill = if zeros && !self.left { self.width.saturating_sub(sign.len()) } else { 0 };
        self.padded(format!("{sign}{digits:0>fill$}"))
    }

    fn integer(self, negative: bool, digits: String) -> String {
        let least = self.precision.unwrap_or(0);
        self.signed(negative, format!("{digits:0>least$}"), self.zeros && self.precision.is_none())
    }

    fn float(self, kind: u8, x: f64) -> String {
        if !x.is_finite() {
            let name = if x.is_nan() { "nan" } else { "inf" };
            return self.signed(x.is_sign_negative() && !x.is_nan(), name.to_owned(), false);
        }
        let (precision, a) = (self.precision.unwrap_or(6).min(1 << 10), x.abs());
        let text = match kind.to_ascii_lowercase() {
            b'f' => format!("{a:.precision$}"),
            b'e' => scientific(a, precision),
            b'g' => general(a, precision.max(1), self.alternate),
            // Hexadecimal: the bits say as much.
            _ => format!("{:#x}", a.to_bits()),
        };
        let text = if kind.is_ascii_uppercase() { text.to_ascii_uppercase() } else { text };
        self.signed(x.is_sign_negative(), text, self.zeros)
    }
}

/// An exponent of two digits at least, as C prints it.
fn scientific(a: f64, precision: usize) -> String {
    let text = format!("{a:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
    format!("{digits}e{sign}{exponent:0>2}")
}

fn general(a: f64, precision: usize, keeps_zeros: bool) -> String {
    let text = format!("{a:.*e}", precision - 1);
    let exponent: i32 = text.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    let trim = |text: String| match text.contains('.') && !keeps_zeros {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    };
    if exponent < -4 || exponent >= precision as i32 {
        let text = scientific(a, precision - 1);
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "+00"));
        return format!("{}e{exponent}", trim(digits.to_owned()));
    }
    let places = (precision as i32 - 1 - exponent).max(0) as usize;
    trim(format!("{a:.places$}"))
}
