//! Conversions, packed 16-bit arithmetic and approximations, against definitions in f64.

use super::edges::{F32, I32, Stream, triples32};
use super::ptx::{Class, elementwise, words};
use super::{Expected, Kernel};

const COUNT: usize = 512;

/// A 16-bit float format: explicit mantissa bits and the exponent of its smallest normal.
#[derive(Clone, Copy)]
pub(super) struct Format {
    mantissa: i32,
    lowest: i32,
    highest: i32,
    nan: u32,
}

pub(super) const BF16: Format = Format { mantissa: 7, lowest: -126, highest: 127, nan: 0x7fff };
pub(super) const F16: Format = Format { mantissa: 10, lowest: -14, highest: 15, nan: 0x7fff };

impl Format {
    /// Bits of `value` rounded to nearest, ties to even; `value` must be exact.
    pub(super) fn round(self, value: f64) -> u32 {
        if value.is_nan() {
            return self.nan;
        }
        let sign = if value.is_sign_negative() { 1u32 << 15 } else { 0 };
        let magnitude = value.abs();
        let infinity = (self.highest + 1 + self.bias()) as u32;
        if magnitude == 0.0 {
            return sign;
        }
        let exponent = if magnitude.is_infinite() { self.highest } else { floor_log2(magnitude).max(self.lowest) };
        let steps = (magnitude / 2f64.powi(exponent - self.mantissa)).round_ties_even();
        if steps.is_infinite() || steps * 2f64.powi(exponent - self.mantissa) >= 2f64.powi(self.highest + 1) {
            return sign | infinity << self.mantissa;
        }
        // Steps of a subnormal are its mantissa; of a normal they carry the hidden bit into the exponent field.
        let below = (exponent - self.lowest) as u32;
        sign | (steps as u32 + (below << self.mantissa))
    }

    /// The exact value of 16 bits.
    pub(super) fn value(self, bits: u32) -> f64 {
        let sign = if bits >> 15 & 1 == 1 { -1.0 } else { 1.0 };
        let field = (bits >> self.mantissa) as i32 & ((1 << (15 - self.mantissa)) - 1);
        let fraction = f64::from(bits & ((1 << self.mantissa) - 1));
        let top = (1 << (15 - self.mantissa)) - 1;
        match field {
            0 => sign * fraction * 2f64.powi(self.lowest - self.mantissa),
            _ if field == top => {
                if fraction == 0.0 {
                    sign * f64::INFINITY
                } else {
                    f64::NAN
                }
            }
            _ => sign * (fraction + 2f64.powi(self.mantissa)) * 2f64.powi(field - self.bias() - self.mantissa),
        }
    }

    fn bias(self) -> i32 {
        1 - self.lowest
    }
}

fn floor_log2(magnitude: f64) -> i32 {
    (magnitude.to_bits() >> 52) as i32 - 1023
}

fn f(bits: u32) -> f64 {
    f64::from(f32::from_bits(bits))
}

/// `.rna` to tf32: 10 mantissa bits, ties away from zero, the low 13 bits zero.
fn tf32(bits: u32) -> u32 {
    let value = f32::from_bits(bits);
    if value.is_nan() {
        return 0x7fff_ffff;
    }
    if value.is_infinite() { bits } else { (bits + 0x1000) & !0x1fff }
}

/// Float to integer: toward zero or to nearest even, saturating, NaN to 0.
fn to_i32(value: f64) -> u32 {
    if value.is_nan() { 0 } else { value.clamp(f64::from(i32::MIN), f64::from(i32::MAX)) as i32 as u32 }
}

type Word = fn(u32, u32) -> u32;

const ROWS: &[(&str, u32, &str, Word)] = &[
    ("cvt.rn.bf16x2.f32", 80, "cvt.rn.bf16x2.f32 %d, %a, %b;", |a, b| BF16.round(f(a)) << 16 | BF16.round(f(b))),
    ("cvt.rn.bf16.f32", 80, "cvt.rn.bf16.f32 %h0, %a; mov.b32 %d, {%h0, %h0};", |a, _| BF16.round(f(a)) * 0x1_0001),
    ("cvt.rn.f16x2.f32", 80, "cvt.rn.f16x2.f32 %d, %a, %b;", |a, b| F16.round(f(a)) << 16 | F16.round(f(b))),
    ("cvt.rn.f16.f32", 80, "cvt.rn.f16.f32 %h0, %a; mov.b32 %d, {%h0, %h0};", |a, _| F16.round(f(a)) * 0x1_0001),
    ("cvt.rna.tf32.f32", 80, "cvt.rna.tf32.f32 %d, %a;", |a, _| tf32(a)),
    ("cvt.rzi.s32.f32", 80, "cvt.rzi.s32.f32 %d, %a;", |a, _| to_i32(f(a).trunc())),
    ("cvt.rni.s32.f32", 80, "cvt.rni.s32.f32 %d, %a;", |a, _| to_i32(f(a).round_ties_even())),
    ("cvt.rzi.u32.f32", 80, "cvt.rzi.u32.f32 %d, %a;", |a, _| {
        if f(a).is_nan() { 0 } else { f(a).trunc().clamp(0.0, f64::from(u32::MAX)) as u32 }
    }),
];

const FROM_INTEGER: &[(&str, u32, &str, Word)] = &[
    ("cvt.rn.f32.s32", 80, "cvt.rn.f32.s32 %d, %a;", |a, _| (a as i32 as f32).to_bits()),
    ("cvt.rn.f32.u32", 80, "cvt.rn.f32.u32 %d, %a;", |a, _| (a as f32).to_bits()),
    ("cvt.s32.s8", 80, "cvt.s32.s8 %d, %a;", |a, _| a as i8 as i32 as u32),
    ("cvt.u32.u16", 80, "cvt.u16.u32 %h0, %a; cvt.u32.u16 %d, %h0;", |a, _| a & 0xffff),
    ("cvt.s32.s16", 80, "cvt.u16.u32 %h0, %a; cvt.s32.s16 %d, %h0;", |a, _| a as u16 as i16 as i32 as u32),
    ("cvt.f32.f16", 80, "cvt.u16.u32 %h0, %a; cvt.f32.f16 %d, %h0;", |a, _| {
        let value = F16.value(a & 0xffff) as f32;
        if value.is_nan() { 0x7fff_ffff } else { value.to_bits() }
    }),
    ("mov.unpack", 80, "mov.b32 {%h0, %h1}, %a; mov.b32 %d, {%h1, %h0};", |a, _| a.rotate_left(16)),
];

/// Packed arithmetic on moderate values, whose sums and products are exact in f64.
type Packed = (&'static str, u32, &'static str, Format, fn(f64, f64, f64) -> f64);

const PACKED: &[Packed] = &[
    ("fma.rn.bf16x2", 80, "fma.rn.bf16x2 %d, %a, %b, %c;", BF16, |a, b, c| a * b + c),
    ("fma.rn.f16x2", 80, "fma.rn.f16x2 %d, %a, %b, %c;", F16, |a, b, c| a * b + c),
    ("add.f16x2", 80, "add.rn.f16x2 %d, %a, %b;", F16, |a, b, _| a + b),
    ("mul.f16x2", 80, "mul.rn.f16x2 %d, %a, %b;", F16, |a, b, _| a * b),
    ("add.bf16x2", 90, "add.rn.bf16x2 %d, %a, %b;", BF16, |a, b, _| a + b),
    ("mul.bf16x2", 90, "mul.rn.bf16x2 %d, %a, %b;", BF16, |a, b, _| a * b),
    ("max.bf16x2", 80, "max.bf16x2 %d, %a, %b;", BF16, |a, b, _| a.max(b)),
    ("min.f16x2", 80, "min.f16x2 %d, %a, %b;", F16, |a, b, _| a.min(b)),
];

/// Approximations: name, instruction, exact value, ulps and absolute error the PTX manual allows (each `.approx`
/// instruction's own table, "maximum relative error", rounded up to whole ulps).
type Approximation = (&'static str, &'static str, fn(f64) -> f64, f64, f64);

const TINY: f64 = 1.2e-38;

const APPROXIMATE: &[Approximation] = &[
    ("ex2.approx.f32", "ex2.approx.f32 %d, %a;", f64::exp2, 2.0, 0.0),
    ("ex2.approx.ftz.f32", "ex2.approx.ftz.f32 %d, %a;", f64::exp2, 2.0, TINY),
    ("lg2.approx.f32", "lg2.approx.f32 %d, %a;", f64::log2, 2.0, 3e-7),
    ("rcp.approx.ftz.f32", "rcp.approx.ftz.f32 %d, %a;", |x| 1.0 / x, 1.0, TINY),
    ("rsqrt.approx.f32", "rsqrt.approx.f32 %d, %a;", |x| 1.0 / x.sqrt(), 2.0, 0.0),
    ("sqrt.approx.f32", "sqrt.approx.f32 %d, %a;", f64::sqrt, 2.0, 0.0),
    ("tanh.approx.f32", "tanh.approx.f32 %d, %a;", f64::tanh, 8192.0, 0.0),
];

pub(super) fn kernels() -> Vec<Kernel> {
    let mut all = Vec::new();
    for (edges, rows, seed) in [(&F32[..], ROWS, 11), (&I32[..], FROM_INTEGER, 12)] {
        let [a, b, _] = triples32(edges, COUNT, seed);
        for (name, sm, body, definition) in rows {
            let expected = a.iter().zip(&b).map(|(a, b)| definition(*a, *b)).collect();
            let inputs = vec![words(&a), words(&b)];
            all.push(elementwise(name, *sm, &[Class::Word; 2], Class::Word, body, inputs, Expected::Words(expected)));
        }
    }
    for (name, sm, body, format, definition) in PACKED {
        let mut stream = Stream(13);
        let mut draw = || {
            let mut half = || format.round((stream.next() % 4096) as f64 / 256.0 - 8.0);
            half() << 16 | half()
        };
        let [a, b, c]: [Vec<u32>; 3] = std::array::from_fn(|_| (0..COUNT).map(|_| draw()).collect());
        let expected = (0..COUNT).map(|i| {
            let half = |shift: u32| {
                let value = |word: u32| format.value(word >> shift & 0xffff);
                format.round(definition(value(a[i]), value(b[i]), value(c[i])))
            };
            half(16) << 16 | half(0)
        });
        let expected = Expected::Words(expected.collect());
        let inputs = vec![words(&a), words(&b), words(&c)];
        all.push(elementwise(name, *sm, &[Class::Word; 3], Class::Word, body, inputs, expected));
    }
    for (name, body, definition, ulps, absolute) in APPROXIMATE {
        let a = every_exponent();
        let exact = a.iter().map(|bits| {
            // Denormal inputs count as zero in the `.ftz` forms, where the result is then within `absolute` anyway or
            // an infinity that only the flushed input gives.
            let value = f(*bits);
            let flushed = if name.contains(".ftz") && f32::from_bits(*bits).is_subnormal() {
                0f64.copysign(value)
            } else {
                value
            };
            definition(flushed)
        });
        let expected = Expected::Approximate { exact: exact.collect(), ulps: *ulps, absolute: *absolute };
        all.push(elementwise(name, 80, &[Class::Word], Class::Word, body, vec![words(&a)], expected));
    }
    all
}

/// Both signs of every second exponent with a mantissa of its own, then the edges: 280 values.
fn every_exponent() -> Vec<u32> {
    let mut stream = Stream(14);
    let mut all: Vec<u32> = (0..128u32)
        .flat_map(|e| [0, 1u32 << 31].map(|sign| sign | (e * 2 + 1) << 23 | stream.next() as u32 & 0x7f_ffff))
        .filter(|bits| bits & 0x7f80_0000 != 0x7f80_0000)
        .collect();
    all.extend(F32);
    all
}
