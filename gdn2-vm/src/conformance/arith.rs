//! Integer and f32 arithmetic, comparison and selection, against Rust's own scalar arithmetic.

use super::edges::{F32, I32, triples32, triples64};
use super::ptx::{Class, elementwise, wides, words};
use super::{Expected, Kernel};

const COUNT: usize = 512;
type Word = fn(u32, u32, u32) -> u32;
type Wide = fn(u64, u64, u64) -> u64;

pub(super) fn f(bits: u32) -> f32 {
    f32::from_bits(bits)
}

/// A float result as PTX gives it: any NaN is the canonical one.
pub(super) fn bits(value: f32) -> u32 {
    if value.is_nan() { 0x7fff_ffff } else { value.to_bits() }
}

/// Denormals to zero of the same sign.
pub(super) fn flush(value: f32) -> f32 {
    if value.is_subnormal() { 0f32.copysign(value) } else { value }
}

/// `min`/`max`: the number where one operand is NaN, and -0 below +0.
fn least(a: f32, b: f32) -> f32 {
    match (a.is_nan(), b.is_nan()) {
        (true, _) => b,
        (_, true) => a,
        _ if a == b => f(a.to_bits() | b.to_bits()),
        _ => a.min(b),
    }
}

fn most(a: f32, b: f32) -> f32 {
    match (a.is_nan(), b.is_nan()) {
        (true, _) => b,
        (_, true) => a,
        _ if a == b => f(a.to_bits() & b.to_bits()),
        _ => a.max(b),
    }
}

fn wide_signed(a: u32, b: u32) -> i64 {
    i64::from(a as i32) * i64::from(b as i32)
}

/// `prmt`: byte i of the result is byte `c[4i..4i+3]` of b:a, or its sign spread over the byte.
fn permute(a: u32, b: u32, c: u32) -> u32 {
    let pool = u64::from(a) | u64::from(b) << 32;
    (0..4).fold(0, |acc, i| {
        let select = c >> (4 * i) & 0xf;
        let byte = (pool >> (8 * (select & 7))) as u8;
        let byte = if select & 8 != 0 { if byte & 0x80 != 0 { 0xff } else { 0 } } else { byte };
        acc | u32::from(byte) << (8 * i)
    })
}

fn field_mask(length: u32) -> u64 {
    (1u64 << length.min(32)) - 1
}

/// `bfe.u32` and `bfe.s32` with position and length taken from the low bytes of b and c.
fn extract(a: u32, b: u32, c: u32) -> u32 {
    let (position, length) = (b & 0xff, c & 0xff);
    (0..32).fold(0, |acc, i| {
        let source = position + i;
        let bit = if i < length && source < 32 { a >> source & 1 } else { 0 };
        acc | bit << i
    })
}

fn extract_signed(a: u32, b: u32, c: u32) -> u32 {
    let (position, length) = (b & 0xff, c & 0xff);
    let sign = if length == 0 { 0 } else { a >> (position + length - 1).min(31) & 1 };
    (0..32).fold(0, |acc, i| {
        let source = position + i;
        let bit = if i < length && source < 32 { a >> source & 1 } else { sign };
        acc | bit << i
    })
}

/// Integer rows: name, instruction, definition. `%d` from `%a %b %c`.
const INTEGER: &[(&str, &str, Word)] = &[
    ("add.s32", "add.s32 %d, %a, %b;", |a, b, _| a.wrapping_add(b)),
    ("sub.s32", "sub.s32 %d, %a, %b;", |a, b, _| a.wrapping_sub(b)),
    ("add.sat.s32", "add.sat.s32 %d, %a, %b;", |a, b, _| (a as i32).saturating_add(b as i32) as u32),
    ("sub.sat.s32", "sub.sat.s32 %d, %a, %b;", |a, b, _| (a as i32).saturating_sub(b as i32) as u32),
    ("mul.lo.s32", "mul.lo.s32 %d, %a, %b;", |a, b, _| a.wrapping_mul(b)),
    ("mul.hi.s32", "mul.hi.s32 %d, %a, %b;", |a, b, _| (wide_signed(a, b) >> 32) as u32),
    ("mul.hi.u32", "mul.hi.u32 %d, %a, %b;", |a, b, _| ((u64::from(a) * u64::from(b)) >> 32) as u32),
    ("mad.lo.s32", "mad.lo.s32 %d, %a, %b, %c;", |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
    ("min.s32", "min.s32 %d, %a, %b;", |a, b, _| (a as i32).min(b as i32) as u32),
    ("max.s32", "max.s32 %d, %a, %b;", |a, b, _| (a as i32).max(b as i32) as u32),
    ("min.u32", "min.u32 %d, %a, %b;", |a, b, _| a.min(b)),
    ("max.u32", "max.u32 %d, %a, %b;", |a, b, _| a.max(b)),
    ("neg.s32", "neg.s32 %d, %a;", |a, _, _| a.wrapping_neg()),
    ("abs.s32", "abs.s32 %d, %a;", |a, _, _| (a as i32).wrapping_abs() as u32),
    ("and.b32", "and.b32 %d, %a, %b;", |a, b, _| a & b),
    ("or.b32", "or.b32 %d, %a, %b;", |a, b, _| a | b),
    ("xor.b32", "xor.b32 %d, %a, %b;", |a, b, _| a ^ b),
    ("not.b32", "not.b32 %d, %a;", |a, _, _| !a),
    ("shl.b32", "shl.b32 %d, %a, %b;", |a, b, _| if b > 31 { 0 } else { a << b }),
    ("shr.u32", "shr.u32 %d, %a, %b;", |a, b, _| if b > 31 { 0 } else { a >> b }),
    ("shr.s32", "shr.s32 %d, %a, %b;", |a, b, _| ((a as i32) >> b.min(31)) as u32),
    ("shf.l.wrap", "shf.l.wrap.b32 %d, %a, %b, %c;", |a, b, c| {
        (((u64::from(b) << 32 | u64::from(a)) << (c & 31)) >> 32) as u32
    }),
    ("shf.r.wrap", "shf.r.wrap.b32 %d, %a, %b, %c;", |a, b, c| {
        ((u64::from(b) << 32 | u64::from(a)) >> (c & 31)) as u32
    }),
    ("shf.r.clamp", "shf.r.clamp.b32 %d, %a, %b, %c;", |a, b, c| {
        ((u64::from(b) << 32 | u64::from(a)) >> c.min(32)) as u32
    }),
    ("lop3.0xe8", "lop3.b32 %d, %a, %b, %c, 0xe8;", |a, b, c| (a & b) | (a & c) | (b & c)),
    ("lop3.0x1b", "lop3.b32 %d, %a, %b, %c, 0x1b;", |a, b, c| {
        (0..32).fold(0, |acc, i| {
            let index = (a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1);
            acc | (0x1bu32 >> index & 1) << i
        })
    }),
    ("prmt.b32", "prmt.b32 %d, %a, %b, %c;", permute),
    ("bfe.u32", "bfe.u32 %d, %a, %b, %c;", extract),
    ("bfe.s32", "bfe.s32 %d, %a, %b, %c;", extract_signed),
    ("bfi.b32", "and.b32 %t, %c, 31; bfi.b32 %d, %a, %b, %t, 8;", |a, b, c| {
        let mask = (field_mask(8) << (c & 31)) as u32;
        (b & !mask) | (((u64::from(a) << (c & 31)) as u32) & mask)
    }),
    ("popc.b32", "popc.b32 %d, %a;", |a, _, _| a.count_ones()),
    ("clz.b32", "clz.b32 %d, %a;", |a, _, _| a.leading_zeros()),
    ("brev.b32", "brev.b32 %d, %a;", |a, _, _| a.reverse_bits()),
    (
        "setp.lt.s32",
        "setp.lt.s32 %p, %a, %b; selp.b32 %d, %c, %a, %p;",
        |a, b, c| if (a as i32) < b as i32 { c } else { a },
    ),
    ("setp.hi.u32", "setp.gt.u32 %p, %a, %b; selp.b32 %d, %c, %a, %p;", |a, b, c| if a > b { c } else { a }),
    ("setp.and", "setp.ne.s32 %q, %c, 0; setp.ge.and.u32 %p, %a, %b, %q; selp.b32 %d, 1, 0, %p;", |a, b, c| {
        u32::from(a >= b && c != 0)
    }),
    ("guard", "mov.b32 %d, %a; setp.lt.s32 %p, %b, 0; @%p mov.b32 %d, %c; @!%p add.s32 %d, %d, 1;", |a, b, c| {
        if (b as i32) < 0 { c } else { a.wrapping_add(1) }
    }),
];

/// f32 rows. Results go through the canonical NaN.
const FLOAT: &[(&str, &str, Word)] = &[
    ("add.f32", "add.rn.f32 %d, %a, %b;", |a, b, _| bits(f(a) + f(b))),
    ("sub.f32", "sub.rn.f32 %d, %a, %b;", |a, b, _| bits(f(a) - f(b))),
    ("mul.f32", "mul.rn.f32 %d, %a, %b;", |a, b, _| bits(f(a) * f(b))),
    ("add.ftz.f32", "add.rn.ftz.f32 %d, %a, %b;", |a, b, _| bits(flush(flush(f(a)) + flush(f(b))))),
    ("mul.ftz.f32", "mul.rn.ftz.f32 %d, %a, %b;", |a, b, _| bits(flush(flush(f(a)) * flush(f(b))))),
    ("mul.sat.f32", "mul.rn.sat.f32 %d, %a, %b;", |a, b, _| {
        let product = f(a) * f(b);
        if product.is_nan() { 0 } else { (product.clamp(0.0, 1.0) + 0.0).to_bits() }
    }),
    ("fma.rn.f32", "fma.rn.f32 %d, %a, %b, %c;", |a, b, c| bits(f(a).mul_add(f(b), f(c)))),
    ("div.rn.f32", "div.rn.f32 %d, %a, %b;", |a, b, _| bits(f(a) / f(b))),
    ("sqrt.rn.f32", "sqrt.rn.f32 %d, %a;", |a, _, _| bits(f(a).sqrt())),
    ("rcp.rn.f32", "rcp.rn.f32 %d, %a;", |a, _, _| bits(1.0 / f(a))),
    ("min.f32", "min.f32 %d, %a, %b;", |a, b, _| bits(least(f(a), f(b)))),
    ("max.f32", "max.f32 %d, %a, %b;", |a, b, _| bits(most(f(a), f(b)))),
    ("neg.f32", "neg.f32 %t, %a; add.f32 %d, %t, %b;", |a, b, _| bits(-f(a) + f(b))),
    ("abs.f32", "abs.f32 %t, %a; add.f32 %d, %t, %b;", |a, b, _| bits(f(a).abs() + f(b))),
    ("setp.lt.f32", "setp.lt.f32 %p, %a, %b; selp.b32 %d, 1, 0, %p;", |a, b, _| u32::from(f(a) < f(b))),
    ("setp.neu.f32", "setp.neu.f32 %p, %a, %b; selp.b32 %d, 1, 0, %p;", |a, b, _| {
        u32::from(f(a).is_nan() || f(b).is_nan() || f(a) != f(b))
    }),
    ("setp.geu.f32", "setp.geu.f32 %p, %a, %b; selp.b32 %d, 1, 0, %p;", |a, b, _| {
        u32::from(f(a).is_nan() || f(b).is_nan() || f(a) >= f(b))
    }),
    ("setp.nan.f32", "setp.nan.f32 %p, %a, %b; selp.b32 %d, 1, 0, %p;", |a, b, _| {
        u32::from(f(a).is_nan() || f(b).is_nan())
    }),
];

/// 64-bit integer rows.
const WIDE: &[(&str, &str, Wide)] =
    &[
        ("add.s64", "add.s64 %wd, %wa, %wb;", |a, b, _| a.wrapping_add(b)),
        ("sub.s64", "sub.s64 %wd, %wa, %wb;", |a, b, _| a.wrapping_sub(b)),
        ("mul.lo.s64", "mul.lo.s64 %wd, %wa, %wb;", |a, b, _| a.wrapping_mul(b)),
        ("mad.lo.s64", "mad.lo.s64 %wd, %wa, %wb, %wc;", |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        ("mul.wide.s32", "cvt.u32.u64 %t, %wa; cvt.u32.u64 %u, %wb; mul.wide.s32 %wd, %t, %u;", |a, b, _| {
            wide_signed(a as u32, b as u32) as u64
        }),
        ("mad.wide.u32", "cvt.u32.u64 %t, %wa; cvt.u32.u64 %u, %wb; mad.wide.u32 %wd, %t, %u, %wc;", |a, b, c| {
            (u64::from(a as u32) * u64::from(b as u32)).wrapping_add(c)
        }),
        ("and.b64", "and.b64 %wd, %wa, %wb;", |a, b, _| a & b),
        (
            "shl.b64",
            "cvt.u32.u64 %t, %wb; shl.b64 %wd, %wa, %t;",
            |a, b, _| if b as u32 > 63 { 0 } else { a << (b as u32) },
        ),
        ("shr.s64", "cvt.u32.u64 %t, %wb; shr.s64 %wd, %wa, %t;", |a, b, _| ((a as i64) >> (b as u32).min(63)) as u64),
        ("setp.lt.s64", "setp.lt.s64 %p, %wa, %wb; selp.b64 %wd, %wc, %wa, %p;", |a, b, c| {
            if (a as i64) < b as i64 { c } else { a }
        }),
        ("div.u64", "or.b64 %wt, %wb, 1; div.u64 %wd, %wa, %wt;", |a, b, _| a / (b | 1)),
        ("rem.s64", "or.b64 %wt, %wb, 1; rem.s64 %wd, %wa, %wt;", |a, b, _| {
            (a as i64).wrapping_rem((b | 1) as i64) as u64
        }),
    ];

pub(super) fn kernels() -> Vec<Kernel> {
    let mut all = Vec::new();
    for (edges, rows, seed) in [(&I32[..], INTEGER, 1), (&F32[..], FLOAT, 2)] {
        let [a, b, c] = triples32(edges, COUNT, seed);
        for (name, body, definition) in rows {
            let expected = (0..COUNT).map(|i| definition(a[i], b[i], c[i])).collect();
            let inputs = vec![words(&a), words(&b), words(&c)];
            all.push(elementwise(name, 80, &[Class::Word; 3], Class::Word, body, inputs, Expected::Words(expected)));
        }
    }
    let [a, b, c] = triples64(COUNT, 3);
    for (name, body, definition) in WIDE {
        let expected = (0..COUNT).map(|i| definition(a[i], b[i], c[i])).collect();
        let inputs = vec![wides(&a), wides(&b), wides(&c)];
        all.push(elementwise(name, 80, &[Class::Wide; 3], Class::Wide, body, inputs, Expected::Wides(expected)));
    }
    all
}
