//! The video instructions, integers packed by `cvt.pack`, bits counted by `fns`, predicates made by `lop3`, and values of
//! 64 and 128 bits that hold several.

use super::arith::{bits, f, flush};
use super::edges::{F32, I32, Stream, triples32, triples64};
use super::ptx::{Class, elementwise, header, wides, words};
use super::{Expected, Kernel};

const COUNT: usize = 512;
type Word = fn(u32, u32, u32) -> u32;
type Wide = fn(u64, u64, u64) -> u64;

/// `bits` of a word from bit `first` on, with their sign or without.
fn part(v: u32, first: u32, bits: u32, signed: bool) -> i64 {
    let v = i64::from(v) >> first & ((1 << bits) - 1);
    if signed && v >> (bits - 1) & 1 != 0 { v - (1 << bits) } else { v }
}

fn whole(v: u32, signed: bool) -> i64 {
    part(v, 0, 32, signed)
}

fn clamp(v: i64, bits: u32, signed: bool) -> i64 {
    let most = (1i64 << (bits - u32::from(signed))) - 1;
    v.max(if signed { -most - 1 } else { 0 }).min(most)
}

/// `bits` of c from `first` on replaced.
fn put(c: u32, first: u32, bits: u32, v: i64) -> u32 {
    let mask = (((1u64 << bits) - 1) << first) as u32;
    c & !mask | (v as u32) << first & mask
}

/// Every lane of `bits` of a and b by f, into a word.
fn lanes(a: u32, b: u32, bits: u32, signed: [bool; 2], f: impl Fn(i64, i64) -> i64) -> u32 {
    let at = (0..32 / bits).map(|i| i * bits);
    at.fold(0, |d, at| put(d, at, bits, f(part(a, at, bits, signed[0]), part(b, at, bits, signed[1]))))
}

fn sum(a: u32, b: u32, c: u32, bits: u32, signed: [bool; 2], f: impl Fn(i64, i64) -> i64) -> u32 {
    let at = (0..32 / bits).map(|i| i * bits);
    at.fold(c, |d, at| d.wrapping_add(f(part(a, at, bits, signed[0]), part(b, at, bits, signed[1])) as u32))
}

const VIDEO: &[(&str, &str, Word)] = &[
    ("vadd", "vadd.s32.u32.s32 %d, %a, %b;", |a, b, _| (whole(a, false) + whole(b, true)) as u32),
    ("vadd.sat", "vadd.s32.u32.s32.sat %d, %a, %b;", |a, b, _| {
        clamp(whole(a, false) + whole(b, true), 32, true) as u32
    }),
    ("vadd.parts", "vadd.u32.u32.s32.sat %d, %a.b3, %b.h1;", |a, b, _| {
        clamp(part(a, 24, 8, false) + part(b, 16, 16, true), 32, false) as u32
    }),
    ("vsub.merge", "vsub.s32.s32.s32.sat %d.h1, %a.h0, %b.b2, %c;", |a, b, c| {
        put(c, 16, 16, clamp(part(a, 0, 16, true) - part(b, 16, 8, true), 16, true))
    }),
    ("vsub.max", "vsub.s32.u32.u32.max %d, %a.b0, %b.b1, %c;", |a, b, c| {
        (part(a, 0, 8, false) - part(b, 8, 8, false)).max(whole(c, true)) as u32
    }),
    ("vabsdiff.add", "vabsdiff.u32.u32.u32.add %d, %a.h1, %b.h0, %c;", |a, b, c| {
        c.wrapping_add((part(a, 16, 16, false) - part(b, 0, 16, false)).unsigned_abs() as u32)
    }),
    ("vmin", "vmin.s32.s32.u32 %d, %a, %b;", |a, b, _| whole(a, true).min(whole(b, false)) as u32),
    ("vmax.merge", "vmax.u32.u32.u32 %d.b2, %a.b2, %b.b0, %c;", |a, b, c| {
        put(c, 16, 8, part(a, 16, 8, false).max(part(b, 0, 8, false)))
    }),
    ("vmin.min", "vmin.u32.u32.u32.min %d, %a.h1, %b, %c;", |a, b, c| {
        part(a, 16, 16, false).min(whole(b, false)).min(whole(c, false)) as u32
    }),
    ("vshl.clamp", "vshl.u32.u32.u32.clamp %d, %a, %b;", |a, b, _| if b >= 32 { 0 } else { a << b }),
    ("vshl.wrap.add", "vshl.u32.u32.u32.wrap.add %d, %a.b1, %b.b0, %c;", |a, b, c| {
        c.wrapping_add((a >> 8 & 0xff) << (b & 31))
    }),
    ("vshl.sat", "vshl.s32.s32.u32.sat.clamp %d, %a, %b;", |a, b, _| {
        let shifted = i128::from(a as i32) << b.min(32);
        shifted.clamp(i32::MIN.into(), i32::MAX.into()) as u32
    }),
    ("vshr.clamp", "vshr.s32.s32.u32.clamp %d, %a, %b;", |a, b, _| (i64::from(a as i32) >> b.min(32)) as u32),
    ("vshr.wrap", "vshr.u32.u32.u32.wrap %d, %a.h1, %b;", |a, b, _| (a >> 16) >> (b & 31)),
    ("vset.lt", "vset.s32.u32.lt %d, %a, %b;", |a, b, _| u32::from(whole(a, true) < whole(b, false))),
    ("vset.ge.add", "vset.u32.u32.ge.add %d, %a.b0, %b.b3, %c;", |a, b, c| {
        c.wrapping_add(u32::from(a & 0xff >= b >> 24))
    }),
    ("vset.ne.merge", "vset.u32.u32.ne %d.b1, %a.b0, %b.b0, %c;", |a, b, c| {
        put(c, 8, 8, i64::from(a & 0xff != b & 0xff))
    }),
    ("vmad", "vmad.s32.s32.u32 %d, %a.h0, %b.h1, %c;", |a, b, c| {
        ((part(a, 0, 16, true) * part(b, 16, 16, false)) as u32).wrapping_add(c)
    }),
    ("vmad.shr7.sat", "vmad.s32.s32.s32.sat.shr7 %d, %a, %b, %c;", |a, b, c| {
        let sum = i128::from(a as i32) * i128::from(b as i32) + i128::from(c as i32);
        (sum >> 7).clamp(i32::MIN.into(), i32::MAX.into()) as u32
    }),
    ("vmad.shr15", "vmad.u32.u32.u32.shr15 %d, %a, %b, %c;", |a, b, c| {
        ((u128::from(a) * u128::from(b) + u128::from(c)) >> 15) as u32
    }),
    ("vmad.minus", "vmad.s32.u32.u32 %d, %a.b0, -%b.b1, %c;", |a, b, c| c.wrapping_sub((a & 0xff) * (b >> 8 & 0xff))),
    ("vmad.minus.third", "vmad.s32.s32.s32 %d, %a.h1, %b.h1, -%c;", |a, b, c| {
        ((part(a, 16, 16, true) * part(b, 16, 16, true)) as u32).wrapping_sub(c)
    }),
    ("vmad.po", "vmad.u32.u32.u32.po %d, %a.h0, %b.h0, %c;", |a, b, c| {
        (a & 0xffff).wrapping_mul(b & 0xffff).wrapping_add(c).wrapping_add(1)
    }),
    ("vadd2", "vadd2.s32.s32.s32 %d, %a, %b, %c;", |a, b, _| lanes(a, b, 16, [true; 2], |a, b| a + b)),
    ("vadd2.sat", "vadd2.s32.s32.s32.sat %d, %a, %b, %c;", |a, b, _| {
        lanes(a, b, 16, [true; 2], |a, b| clamp(a + b, 16, true))
    }),
    ("vsub2.add", "vsub2.s32.u32.u32.add %d, %a, %b, %c;", |a, b, c| sum(a, b, c, 16, [false; 2], |a, b| a - b)),
    ("vavrg2", "vavrg2.s32.s32.s32 %d, %a, %b, %c;", |a, b, _| {
        lanes(a, b, 16, [true; 2], |a, b| (a + b + i64::from(a + b >= 0)) >> 1)
    }),
    ("vabsdiff2", "vabsdiff2.u32.s32.s32 %d, %a, %b, %c;", |a, b, _| lanes(a, b, 16, [true; 2], |a, b| (a - b).abs())),
    ("vmin2.picked", "vmin2.s32.s32.s32 %d.h1, %a.h30, %b.h21, %c;", |_, b, c| {
        // Lane 1 alone: half 3, which is b's upper one, and half 2, b's lower one.
        put(c, 16, 16, part(b, 16, 16, true).min(part(b, 0, 16, true)))
    }),
    ("vmax2", "vmax2.u32.u32.u32 %d, %a, %b, %c;", |a, b, _| lanes(a, b, 16, [false; 2], i64::max)),
    ("vset2", "vset2.s32.s32.gt %d, %a, %b, %c;", |a, b, _| lanes(a, b, 16, [true; 2], |a, b| i64::from(a > b))),
    ("vadd4", "vadd4.u32.u32.s32.sat %d, %a, %b, %c;", |a, b, _| {
        lanes(a, b, 8, [false, true], |a, b| clamp(a + b, 8, false))
    }),
    ("vsub4", "vsub4.s32.s32.s32 %d, %a, %b, %c;", |a, b, _| lanes(a, b, 8, [true; 2], |a, b| a - b)),
    ("vavrg4", "vavrg4.u32.u32.u32 %d, %a, %b, %c;", |a, b, _| lanes(a, b, 8, [false; 2], |a, b| (a + b + 1) >> 1)),
    ("vmin4.picked", "vmin4.u32.u32.u32 %d.b20, %a.b7654, %b.b3210, %c;", |a, b, c| {
        [0, 16].iter().fold(c, |d, at| put(d, *at, 8, part(b, *at, 8, false).min(part(a, *at, 8, false))))
    }),
    ("vmax4.add", "vmax4.s32.s32.s32.add %d, %a, %b, %c;", |a, b, c| sum(a, b, c, 8, [true; 2], i64::max)),
    ("vset4.add", "vset4.u32.u32.ne.add %d, %a, %b, %c;", |a, b, c| {
        sum(a, b, c, 8, [false; 2], |a, b| i64::from(a != b))
    }),
    ("mad.hi.sat.s32", "mad.hi.sat.s32 %d, %a, %b, %c;", |a, b, c| {
        clamp(((whole(a, true) * whole(b, true)) >> 32) + whole(c, true), 32, true) as u32
    }),
    ("cvt.pack.s16", "cvt.pack.sat.s16.s32 %d, %a, %b;", |a, b, _| {
        put(clamp(whole(b, true), 16, true) as u32, 16, 16, clamp(whole(a, true), 16, true))
    }),
    ("cvt.pack.u16", "cvt.pack.sat.u16.s32 %d, %a, %b;", |a, b, _| {
        put(clamp(whole(b, true), 16, false) as u32, 16, 16, clamp(whole(a, true), 16, false))
    }),
    ("cvt.pack.u8", "cvt.pack.sat.u8.s32.b32 %d, %a, %b, %c;", |a, b, c| {
        let low = put(c << 16, 0, 8, clamp(whole(b, true), 8, false));
        put(low, 8, 8, clamp(whole(a, true), 8, false))
    }),
    ("cvt.pack.s4", "cvt.pack.sat.s4.s32.b32 %d, %a, %b, %c;", |a, b, c| {
        put(put(c << 8, 0, 4, clamp(whole(b, true), 4, true)), 4, 4, clamp(whole(a, true), 4, true))
    }),
    ("cvt.pack.u2", "cvt.pack.sat.u2.s32.b32 %d, %a, %b, %c;", |a, b, c| {
        put(put(c << 4, 0, 2, clamp(whole(b, true), 2, false)), 2, 2, clamp(whole(a, true), 2, false))
    }),
    ("fns.up", "and.b32 %b, %b, 31; and.b32 %c, %c, 3; fns.b32 %d, %a, %b, %c;", |a, b, c| {
        let (b, c) = (b & 31, c & 3);
        let mut found = (b..32).filter(|at| a >> at & 1 != 0);
        match c {
            0 => {
                if a >> b & 1 != 0 {
                    b
                } else {
                    u32::MAX
                }
            }
            c => found.nth(c as usize - 1).unwrap_or(u32::MAX),
        }
    }),
    ("fns.down", "and.b32 %b, %b, 31; and.b32 %c, %c, 3; sub.s32 %c, -1, %c; fns.b32 %d, %a, %b, %c;", |a, b, c| {
        let mut found = (0..=b & 31).rev().filter(|at| a >> at & 1 != 0);
        found.nth((c & 3) as usize).unwrap_or(u32::MAX)
    }),
    (
        "lop3.and",
        "setp.lt.s32 %q, %b, 0; lop3.and.b32 %t|%p, %a, %b, %c, 0x96, !%q; selp.b32 %u, 1, 0, %p; xor.b32 %d, %t, %u;",
        |a, b, c| {
            let t = a ^ b ^ c;
            t ^ u32::from(t != 0 && b as i32 >= 0)
        },
    ),
    ("lop3.or", "setp.lt.s32 %q, %b, 0; lop3.or.b32 _|%p, %a, %b, %c, 0x80, %q; selp.b32 %d, 1, 0, %p;", |a, b, c| {
        u32::from(a & b & c != 0 || (b as i32) < 0)
    }),
];

/// The smaller or larger size with the product of the signs; a NaN gives way to a number, two give a NaN.
fn sizes(a: u32, b: u32, larger: bool, nan: bool) -> u32 {
    let (x, y) = (f(a & 0x7fff_ffff), f(b & 0x7fff_ffff));
    if x.is_nan() && y.is_nan() || nan && (x.is_nan() || y.is_nan()) {
        return 0x7fff_ffff;
    }
    let size = if larger { x.max(y) } else { x.min(y) };
    size.to_bits() | (a ^ b) & 0x8000_0000
}

const FLOATS: &[(&str, u32, &str, Word)] = &[
    ("min.xorsign.abs.f32", 90, "min.xorsign.abs.f32 %d, %a, %b;", |a, b, _| sizes(a, b, false, false)),
    ("max.NaN.xorsign.abs.f32", 90, "max.NaN.xorsign.abs.f32 %d, %a, %b;", |a, b, _| sizes(a, b, true, true)),
    // The upper halves of floats are bf16s.
    (
        "max.xorsign.abs.bf16",
        90,
        "mov.b32 {%h0, %h1}, %a; mov.b32 {%h2, %h3}, %b; max.xorsign.abs.bf16 %h4, %h1, %h3; mov.b32 %d, {%h6, %h4}; \
         and.b32 %d, %d, 0xffff0000;",
        |a, b, _| sizes(a & 0xffff_0000, b & 0xffff_0000, true, false) & 0xffff_0000,
    ),
    ("set.and.u32.bf16x2", 90, "setp.lt.s32 %q, %c, 0; set.lt.and.u32.bf16x2 %d, %a, %b, !%q;", |a, b, c| {
        let half = |v: u32| f(v << 16);
        let less = |a: f32, b: f32| u32::from(a < b && c as i32 >= 0) * 0xffff;
        less(half(a >> 16), half(b >> 16)) << 16 | less(half(a & 0xffff), half(b & 0xffff))
    }),
];

/// Both words of a pair, each by the bits below it.
fn pair(f: impl Fn(u32) -> u32) -> u64 {
    u64::from(f(0)) | u64::from(f(32)) << 32
}

const WIDES: &[(&str, &str, Wide)] = &[
    ("add.f32x2", "add.rn.f32x2 %wd, %wa, %wb;", |a, b, _| pair(|k| bits(f((a >> k) as u32) + f((b >> k) as u32)))),
    ("mul.ftz.f32x2", "mul.rn.ftz.f32x2 %wd, %wa, %wb;", |a, b, _| {
        pair(|k| bits(flush(flush(f((a >> k) as u32)) * flush(f((b >> k) as u32)))))
    }),
    ("fma.f32x2", "fma.rn.f32x2 %wd, %wa, %wb, %wc;", |a, b, c| {
        pair(|k| bits(f((a >> k) as u32).mul_add(f((b >> k) as u32), f((c >> k) as u32))))
    }),
];

/// 128 bits through registers and memory: loaded, moved, taken apart, exchanged, compared and exchanged.
fn quads() -> Kernel {
    let mut stream = Stream(71);
    let input: Vec<u64> = (0..64).map(|_| stream.next()).collect();
    let text = header(90, 2).replacen(".version 8.0", ".version 8.4", 1)
        + "  .reg .b128 %q<5>;\n  ld.param.u64 %x0, [p0];\n  mad.wide.u32 %x0, %thread, 16, %x0;\n  \
           ld.param.u64 %x1, [p1];\n  mad.wide.u32 %x1, %thread, 48, %x1;\n  ld.global.b128 %q0, [%x0];\n  \
           mov.b128 %q1, %q0;\n  mov.b128 {%wa, %wb}, %q1;\n  mov.b128 %q2, {%wb, %wa};\n  st.global.b128 [%x1], %q2;\n  \
           st.global.b128 [%x1+16], %q0;\n  atom.global.exch.b128 %q3, [%x1], %q0;\n  \
           atom.global.cas.b128 %q4, [%x1+16], %q2, %q3;\n  atom.global.cas.b128 %q4, [%x1+16], %q0, %q3;\n  \
           st.global.b128 [%x1+32], %q4;\n  ret;\n}\n";
    let of = |lane: usize| {
        let (low, high) = (input[2 * lane], input[2 * lane + 1]);
        // Exchanged; compared in vain, then not in vain; what was there before that.
        [low, high, high, low, low, high]
    };
    let expected = (0..32).flat_map(of).collect();
    Kernel::new("b128", 90, text, vec![wides(&input)], Expected::Wides(expected))
}

pub(super) fn kernels() -> Vec<Kernel> {
    let of = |name: &str, sm: u32, body: &str, [a, b, c]: &[Vec<u32>; 3], definition: &Word| {
        let expected = (0..COUNT).map(|i| definition(a[i], b[i], c[i])).collect();
        let inputs = vec![words(a), words(b), words(c)];
        elementwise(name, sm, &[Class::Word; 3], Class::Word, body, inputs, Expected::Words(expected))
    };
    let integers = triples32(&I32, COUNT, 72);
    let mut all: Vec<Kernel> = Vec::new();
    for (name, body, definition) in VIDEO {
        let kernel = of(name, 90, body, &integers, definition);
        all.push(Kernel { ptx: kernel.ptx.replacen(".version 8.0", ".version 8.2", 1), ..kernel });
    }
    let floats = triples32(&F32, COUNT, 73);
    all.extend(FLOATS.iter().map(|(name, sm, body, definition)| of(name, *sm, body, &floats, definition)));
    let [a, b, c] = triples64(COUNT, 74);
    for (name, body, definition) in WIDES {
        let expected = (0..COUNT).map(|i| definition(a[i], b[i], c[i])).collect();
        let inputs = vec![wides(&a), wides(&b), wides(&c)];
        let kernel = elementwise(name, 100, &[Class::Wide; 3], Class::Wide, body, inputs, Expected::Wides(expected));
        all.push(Kernel { ptx: kernel.ptx.replacen(".version 8.0", ".version 8.6", 1), ..kernel });
    }
    all.push(quads());
    all
}
