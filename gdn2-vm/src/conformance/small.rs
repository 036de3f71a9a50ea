//! Integers that share a word, dot products of bytes, and 8-bit floats.

use super::convert::F16;
use super::edges::{F32, I32, triples32};
use super::ptx::{Class, elementwise, words};
use super::{Expected, Kernel};

const COUNT: usize = 512;

fn halves(a: u32, b: u32, f: impl Fn(i16, i16) -> i16) -> u32 {
    let one = |k: u32| u32::from(f((a >> k) as i16, (b >> k) as i16) as u16) << k;
    one(0) | one(16)
}

/// Sum of byte distances, each at its own place or all together.
fn distances(a: u32, b: u32, signed: bool, place: impl Fn(u32) -> u32) -> u32 {
    let byte = |v: u32, k: u32| {
        let v = (v >> (8 * k)) as u8;
        if signed { i32::from(v as i8) } else { i32::from(v) }
    };
    (0..4).fold(0, |sum, k| sum + (byte(a, k).abs_diff(byte(b, k)) << place(k)))
}

/// c plus products of parts of a, `wide` bits each, and bytes of b from `first` on.
fn dot(a: u32, b: u32, c: u32, wide: u32, first: u32, signed: [bool; 2]) -> u32 {
    let part = |v: u32, k: u32, bits: u32, signed: bool| {
        let low = i64::from(v >> (bits * k)) & ((1 << bits) - 1);
        if signed && low >> (bits - 1) != 0 { low - (1 << bits) } else { low }
    };
    let product = |k: u32| part(a, k, wide, signed[0]) * part(b, k + first, 8, signed[1]);
    (0..32 / wide).fold(c, |sum, k| sum.wrapping_add(product(k) as u32))
}

type Word = fn(u32, u32, u32) -> u32;

const INTEGER: &[(&str, u32, &str, Word)] = &[
    ("add.u16x2", 90, "add.u16x2 %d, %a, %b;", |a, b, _| halves(a, b, i16::wrapping_add)),
    ("min.s16x2", 90, "min.s16x2 %d, %a, %b;", |a, b, _| halves(a, b, i16::min)),
    ("max.s16x2", 90, "max.s16x2 %d, %a, %b;", |a, b, _| halves(a, b, i16::max)),
    ("min.u16x2", 90, "min.u16x2 %d, %a, %b;", |a, b, _| halves(a, b, |a, b| (a as u16).min(b as u16) as i16)),
    ("max.u16x2", 90, "max.u16x2 %d, %a, %b;", |a, b, _| halves(a, b, |a, b| (a as u16).max(b as u16) as i16)),
    ("min.relu.s16x2", 90, "min.s16x2.relu %d, %a, %b;", |a, b, _| halves(a, b, |a, b| a.min(b).max(0))),
    ("max.relu.s16x2", 90, "max.s16x2.relu %d, %a, %b;", |a, b, _| halves(a, b, |a, b| a.max(b).max(0))),
    ("min.relu.s32", 90, "min.s32.relu %d, %a, %b;", |a, b, _| (a as i32).min(b as i32).max(0) as u32),
    ("max.relu.s32", 90, "max.s32.relu %d, %a, %b;", |a, b, _| (a as i32).max(b as i32).max(0) as u32),
    ("vabsdiff4.u32", 80, "vabsdiff4.u32.u32.u32 %d, %a, %b, %c;", |a, b, _| distances(a, b, false, |k| 8 * k)),
    ("vabsdiff4.s32", 80, "vabsdiff4.u32.s32.s32 %d, %a, %b, %c;", |a, b, _| distances(a, b, true, |k| 8 * k)),
    ("vabsdiff4.add", 80, "vabsdiff4.u32.u32.u32.add %d, %a, %b, %c;", |a, b, c| {
        c.wrapping_add(distances(a, b, false, |_| 0))
    }),
    ("dp4a.s32.s32", 80, "dp4a.s32.s32 %d, %a, %b, %c;", |a, b, c| dot(a, b, c, 8, 0, [true, true])),
    ("dp4a.u32.s32", 80, "dp4a.u32.s32 %d, %a, %b, %c;", |a, b, c| dot(a, b, c, 8, 0, [false, true])),
    ("dp2a.lo.s32.s32", 80, "dp2a.lo.s32.s32 %d, %a, %b, %c;", |a, b, c| dot(a, b, c, 16, 0, [true, true])),
    ("dp2a.hi.s32.u32", 80, "dp2a.hi.s32.u32 %d, %a, %b, %c;", |a, b, c| dot(a, b, c, 16, 2, [true, false])),
    ("dp2a.hi.u32.s32", 80, "dp2a.hi.u32.s32 %d, %a, %b, %c;", |a, b, c| dot(a, b, c, 16, 2, [false, true])),
];

/// A float of at most 8 bits: bits of the whole, of the mantissa, and of the largest number; the bias follows.
#[derive(Clone, Copy)]
pub(super) struct Float8 {
    bits: u32,
    mantissa: u32,
    most: u32,
}

pub(super) const E4M3: Float8 = Float8 { bits: 8, mantissa: 3, most: 0x7e };
pub(super) const E5M2: Float8 = Float8 { bits: 8, mantissa: 2, most: 0x7b };
const E3M2: Float8 = Float8 { bits: 6, mantissa: 2, most: 0x1f };
const E2M3: Float8 = Float8 { bits: 6, mantissa: 3, most: 0x1f };
const E2M1: Float8 = Float8 { bits: 4, mantissa: 1, most: 0x7 };

impl Float8 {
    /// The value of a byte; of e5m2's two infinities, infinite.
    pub(super) fn value(self, byte: u32) -> f64 {
        let Float8 { bits, mantissa, most } = self;
        let (size, bias) = (byte & ((1 << (bits - 1)) - 1), (1 << (bits - 2 - mantissa)) - 1);
        let (field, fraction) = ((size >> mantissa) as i32, f64::from(size & ((1 << mantissa) - 1)));
        let unit = 2f64.powi(field.max(1) - bias - mantissa as i32);
        let value = match size {
            _ if size <= most => unit * (fraction + if field == 0 { 0.0 } else { f64::from(1 << mantissa) }),
            0x7c => f64::INFINITY,
            _ => f64::NAN,
        };
        if byte >> (bits - 1) & 1 != 0 { -value } else { value }
    }

    /// The finite byte nearest to a number, of two as near the even one; the largest beyond it.
    pub(super) fn round(self, value: f64) -> u32 {
        if value.is_nan() {
            // Without a NaN of its own, the largest number.
            return if self.bits == 8 { 0x7f } else { self.most };
        }
        let sign = u32::from(value.is_sign_negative()) << (self.bits - 1);
        let size = value.abs().min(self.value(self.most));
        let off = |byte: &u32| (self.value(*byte) - size).abs();
        let nearest = (0..=self.most).min_by(|a, b| off(a).total_cmp(&off(b)).then((a & 1).cmp(&(b & 1))));
        sign | nearest.unwrap_or(0)
    }
}

fn f(bits: u32) -> f64 {
    f64::from(f32::from_bits(bits))
}

fn to_pair(format: Float8, a: f64, b: f64) -> u32 {
    format.round(a) << 8 | format.round(b)
}

fn from_pair(format: Float8, pair: u32) -> u32 {
    let half = |byte: u32| F16.round(format.value(byte));
    half(pair >> 8 & 0xff) << 16 | half(pair & 0xff)
}

const FLOAT: &[(&str, &str, Word)] = &[
    ("cvt.e4m3x2.f32", "cvt.rn.satfinite.e4m3x2.f32 %h0, %a, %b; cvt.u32.u16 %d, %h0;", |a, b, _| {
        to_pair(E4M3, f(a), f(b))
    }),
    ("cvt.e5m2x2.f32", "cvt.rn.satfinite.e5m2x2.f32 %h0, %a, %b; cvt.u32.u16 %d, %h0;", |a, b, _| {
        to_pair(E5M2, f(a), f(b))
    }),
    ("cvt.relu.e4m3x2.f32", "cvt.rn.satfinite.relu.e4m3x2.f32 %h0, %a, %a; cvt.u32.u16 %d, %h0;", |a, _, _| {
        let x = if f(a) < 0.0 { 0.0 } else { f(a) };
        to_pair(E4M3, x, x)
    }),
    ("cvt.e4m3x2.f16x2", "cvt.rn.satfinite.e4m3x2.f16x2 %h0, %a; cvt.u32.u16 %d, %h0;", |a, _, _| {
        to_pair(E4M3, F16.value(a >> 16), F16.value(a & 0xffff))
    }),
    ("cvt.e5m2x2.f16x2", "cvt.rn.satfinite.e5m2x2.f16x2 %h0, %a; cvt.u32.u16 %d, %h0;", |a, _, _| {
        to_pair(E5M2, F16.value(a >> 16), F16.value(a & 0xffff))
    }),
    ("cvt.f16x2.e4m3x2", "cvt.u16.u32 %h0, %a; cvt.rn.f16x2.e4m3x2 %d, %h0;", |a, _, _| from_pair(E4M3, a)),
    ("cvt.f16x2.e5m2x2", "cvt.u16.u32 %h0, %a; cvt.rn.f16x2.e5m2x2 %d, %h0;", |a, _, _| from_pair(E5M2, a)),
];

/// Of 4 and 6 bits: what, text, definition. The pair of four bits is one byte.
const SMALLER: &[(&str, &str, Word)] = &[
    ("cvt.e2m1x2.f32", "{.reg .b8 %y; cvt.rn.satfinite.e2m1x2.f32 %y, %a, %b; cvt.u32.u8 %d, %y;}", |a, b, _| {
        E2M1.round(f(a)) << 4 | E2M1.round(f(b))
    }),
    ("cvt.e2m3x2.f32", "cvt.rn.satfinite.e2m3x2.f32 %h0, %a, %b; cvt.u32.u16 %d, %h0;", |a, b, _| {
        to_pair(E2M3, f(a), f(b))
    }),
    (
        "cvt.e3m2x2.f32",
        "add.f32 %a, %a, 0f00000000; add.f32 %b, %b, 0f00000000; cvt.rn.satfinite.relu.e3m2x2.f32 %h0, %a, %b; \
         cvt.u32.u16 %d, %h0;",
        |a, b, _| {
            // No zero below zero: whether `.relu` keeps its sign nobody says.
            let positive = |x: f64| if x <= 0.0 { 0.0 } else { x };
            to_pair(E3M2, positive(f(a)), positive(f(b)))
        },
    ),
    ("cvt.f16x2.e2m1x2", "{.reg .b8 %y; cvt.u8.u32 %y, %a; cvt.rn.f16x2.e2m1x2 %d, %y;}", |a, _, _| {
        let half = |nibble: u32| F16.round(E2M1.value(nibble & 0xf));
        half(a >> 4) << 16 | half(a)
    }),
    ("cvt.f16x2.e2m3x2", "cvt.u16.u32 %h0, %a; and.b16 %h0, %h0, 0x3f3f; cvt.rn.f16x2.e2m3x2 %d, %h0;", |a, _, _| {
        from_pair(E2M3, a & 0x3f3f)
    }),
    ("cvt.f16x2.e3m2x2", "cvt.u16.u32 %h0, %a; and.b16 %h0, %h0, 0x3f3f; cvt.rn.f16x2.e3m2x2 %d, %h0;", |a, _, _| {
        from_pair(E3M2, a & 0x3f3f)
    }),
];

pub(super) fn kernels() -> Vec<Kernel> {
    let of = |name: &str, sm: u32, body: &str, [a, b, c]: &[Vec<u32>; 3], definition: &Word| {
        let expected = (0..COUNT).map(|i| definition(a[i], b[i], c[i])).collect();
        let inputs = vec![words(a), words(b), words(c)];
        elementwise(name, sm, &[Class::Word; 3], Class::Word, body, inputs, Expected::Words(expected))
    };
    let integers = triples32(&I32, COUNT, 61);
    let mut all: Vec<Kernel> =
        INTEGER.iter().map(|(name, sm, body, definition)| of(name, *sm, body, &integers, definition)).collect();
    // Most of all floats are far outside: half of them between 2^-12 and 2^20.
    let mut floats = triples32(&F32, COUNT, 62);
    for bits in floats.iter_mut().flat_map(|list| list.iter_mut().skip(1).step_by(2)) {
        *bits = (*bits & 0x807f_ffff) | (115 + (*bits >> 23 & 31)) << 23;
    }
    for (name, body, definition) in FLOAT {
        let kernel = of(name, 89, body, &floats, definition);
        all.push(Kernel { ptx: kernel.ptx.replacen(".version 7.8", ".version 8.1", 1), ..kernel });
    }
    for (name, body, definition) in SMALLER {
        let kernel = of(name, 120, body, &floats, definition);
        all.push(Kernel { ptx: kernel.ptx.replacen(".version 8.0", ".version 8.7", 1), ..kernel });
    }
    all
}
