//! The rest of the register-to-register instructions: one lane at a time through exact scalar functions.

use crate::exec::float::{double, double_approx, double_unary, flush_half, half, half_unary, single, single_unary};
use crate::exec::lanes::{Regs, lanes, mask_of};
use crate::exec::warp::Warp;
use crate::isa::inst::{Bool, Cmp, Count, IntOp, IntUnary, Mode, PrmtMode, Slow, Testp};
use crate::num::math::ftz;
use crate::num::{NAN32, Type, convert, finish, float_value, fma32, int_value, to_half, within};
use crate::num::{directed, float8, packed, words};

/// Runs one; `mask` is not empty.
pub(crate) fn run(w: &mut Warp, mask: u32, active: u32, op: &Slow) {
    let clock = w.clock;
    let g = &mut w.regs;
    match *op {
        Slow::Int16(o, d, a, b) => g.w2(mask, d, a, b, |a, b| int16(o, a, b)),
        Slow::Un16(o, d, a) => g.w1(mask, d, a, |a| {
            let s = a as i16;
            (match o {
                IntUnary::Mov => a as u16,
                IntUnary::Neg => s.wrapping_neg() as u16,
                IntUnary::Abs => s.wrapping_abs() as u16,
                IntUnary::Not => !(a as u16),
                IntUnary::Cnot => u16::from(a as u16 == 0),
                IntUnary::Brev => (a as u16).reverse_bits(),
            })
            .into()
        }),
        Slow::Mad16(d, a, b, c) => g.w3(mask, d, [a, b, c], |a, b, c| a.wrapping_mul(b).wrapping_add(c) & 0xffff),
        Slow::Wide16(signed, d, a, b, c) => {
            let c = c.map(|c| g.r[c as usize]);
            let (ra, rb) = (g.r[a as usize], g.r[b as usize]);
            g.set_word(d, mask, |i| {
                let p = if signed {
                    (i32::from(ra[i] as i16) * i32::from(rb[i] as i16)) as u32
                } else {
                    (ra[i] & 0xffff) * (rb[i] & 0xffff)
                };
                p.wrapping_add(c.map_or(0, |c| c[i]))
            });
        }
        Slow::MadHi(signed, bits, d, a, b, c) => {
            let ty = match (bits, signed) {
                (16, true) => Type::S16,
                (16, false) => Type::U16,
                (32, true) => Type::S32,
                (32, false) => Type::U32,
                (_, true) => Type::S64,
                _ => Type::U64,
            };
            each(g, mask, ty, d, |g, i| {
                let [a, b, c] = [a, b, c].map(|s| int_value(get(g, ty, s, i), ty));
                // The product of two 64-bit unsigned values needs all 128 bits.
                let hi = if ty == Type::U64 { ((a as u128 * b as u128) >> 64) as i128 } else { (a * b) >> bits };
                (hi + c) as u64
            });
        }
        Slow::Count(o, wide, d, a) => {
            let ty = if wide { Type::U64 } else { Type::U32 };
            each(g, mask, Type::U32, d, |g, i| u64::from(count(o, get(g, ty, a, i), if wide { 64 } else { 32 })));
        }
        Slow::Bfi64([d, a, b, pos, len]) => each(g, mask, Type::U64, d, |g, i| {
            let (pos, len) = (g.r[pos as usize][i] & 0xff, g.r[len as usize][i] & 0xff);
            let field = if len >= 64 { u64::MAX } else { (1 << len) - 1 };
            let field = field.checked_shl(pos).unwrap_or(0);
            (g.x[b as usize][i] & !field) | (g.x[a as usize][i].checked_shl(pos).unwrap_or(0) & field)
        }),
        Slow::Bfe64(signed, [d, a, pos, len]) => each(g, mask, Type::U64, d, |g, i| {
            bfe(signed, 64, g.x[a as usize][i], g.r[pos as usize][i] & 0xff, g.r[len as usize][i] & 0xff)
        }),
        Slow::PrmtMode(m, [d, a, b, c]) => g.w3(mask, d, [a, b, c], |a, b, c| prmt(m, a, b, c)),
        Slow::Dp4a(signed, [d, a, b, c]) => g.w3(mask, d, [a, b, c], |a, b, c| packed::dp4a(signed, [a, b, c])),
        Slow::Dp2a(high, signed, [d, a, b, c]) => {
            g.w3(mask, d, [a, b, c], |a, b, c| packed::dp2a(high, signed, [a, b, c]));
        }
        Slow::Packed(op, d, a, b) => g.w2(mask, d, a, b, |a, b| packed::binary(op, a, b)),
        Slow::Words(ref what, d, sources) => g.w3(mask, d, sources, |a, b, c| what.of([a, b, c])),
        Slow::Lop3Pred { table, d, sources, p, with } => {
            let [a, b, c] = sources.map(|s| g.r[s as usize]);
            let on = words::lop3_rows(table);
            let made: [u32; 32] = std::array::from_fn(|i| words::lop3(&on, a[i], b[i], c[i]));
            let v = combine(g, Some(with), mask_of(|i| made[i] != 0)).0;
            g.set_word(d, mask, |i| made[i]);
            g.set_pred(p, v, mask);
        }
        Slow::F32x2(o, mode, d, [a, b]) => {
            g.x2(mask, d, a, b, |a, b| both(|k| single(o, mode, (a >> k) as u32, (b >> k) as u32)));
        }
        Slow::FmaF32x2(mode, d, sources) => each(g, mask, Type::F64, d, |g, i| {
            let [a, b, c] = sources.map(|s| g.x[s as usize][i]);
            both(|k| fused([a >> k, b >> k, c >> k].map(|v| v as u32), mode))
        }),
        Slow::Mov128([low, high], [a, b]) => {
            let (a, b) = (g.x[a as usize], g.x[b as usize]);
            for i in lanes(mask) {
                g.x[low as usize][i] = a[i];
                g.x[high as usize][i] = b[i];
            }
        }
        Slow::ToFloat8 { to, from, mode, d, a, b } => g.w2(mask, d, a, b, |a, b| {
            let one = |v: u32, ty: Type| float8::bits(float_value(u64::from(v), ty), to, mode);
            match from {
                Type::F32 => one(a, Type::F32) << float8::apart(to) | one(b, Type::F32),
                _ => one(a >> 16, Type::F16) << float8::apart(to) | one(a & 0xffff, Type::F16),
            }
        }),
        Slow::FromFloat8 { from, mode, d, a } => g.w1(mask, d, a, |a| float8::to_f16x2(a, from, mode)),
        Slow::Sad(ty, [d, a, b, c]) => each(g, mask, ty, d, |g, i| {
            let [a, b] = [a, b].map(|s| int_value(get(g, ty, s, i), ty));
            let sum = get(g, ty, c, i).wrapping_add(a.abs_diff(b) as u64);
            if ty.bytes() == 2 { sum & 0xffff } else { sum }
        }),
        Slow::Mul24 { high, signed, sat, d, a, b, c } => each(g, mask, Type::U32, d, |g, i| {
            let value = |s: u32| {
                let v = g.r[s as usize][i] << 8;
                if signed { i64::from(v as i32 >> 8) } else { i64::from(v >> 8) }
            };
            let product = (value(a) * value(b)) >> if high { 16 } else { 0 };
            let Some(c) = c else { return product as u64 & 0xffff_ffff };
            let c = g.r[c as usize][i];
            if sat {
                (i64::from(product as i32) + i64::from(c as i32)).clamp(i32::MIN.into(), i32::MAX.into()) as u32 as u64
            } else {
                u64::from((product as u32).wrapping_add(c))
            }
        }),
        Slow::Bmsk(clamp, [d, a, b]) => g.w2(mask, d, a, b, |a, b| {
            let [a, b] = [a, b].map(|v| if clamp { v.min(32) } else { v & 31 });
            ((((1u64 << b) - 1) << a) & 0xffff_ffff) as u32
        }),
        Slow::Szext(clamp, signed, [d, a, n]) => g.w2(mask, d, a, n, |a, n| {
            let n = if clamp { n.min(32) } else { n & 31 };
            match (n, signed) {
                (0, _) => 0,
                (_, true) => ((a << (32 - n)) as i32 >> (32 - n)) as u32,
                (_, false) => a << (32 - n) >> (32 - n),
            }
        }),
        Slow::F32(o, mode, d, a, b) => g.w2(mask, d, a, b, |a, b| single(o, mode, a, b)),
        Slow::F32Un(o, mode, d, a) => g.w1(mask, d, a, |a| single_unary(o, mode, a)),
        Slow::FmaF32(mode, d, a, b, c) => g.w3(mask, d, [a, b, c], |a, b, c| fused([a, b, c], mode)),
        Slow::F64(o, d, a, b) => g.x2(mask, d, a, b, |a, b| double(o, f64::from_bits(a), f64::from_bits(b)).to_bits()),
        Slow::F64Un(o, d, a) => g.x1(mask, d, a, |a| double_unary(o, f64::from_bits(a)).to_bits()),
        Slow::F64Approx(o, d, a) => g.x1(mask, d, a, |a| double_approx(o, a)),
        Slow::FmaF64(d, a, b, c) => each(g, mask, Type::F64, d, |g, i| {
            let [a, b, c] = [a, b, c].map(|s| f64::from_bits(g.x[s as usize][i]));
            a.mul_add(b, c).to_bits()
        }),
        Slow::Directed(o, round, d, sources) => each(g, mask, Type::F64, d, |g, i| {
            directed::run(o, round, sources.map(|s| f64::from_bits(g.x[s as usize][i]))).to_bits()
        }),
        Slow::Half(o, ty, mode, d, a, b) => {
            g.w2(mask, d, a, b, |a, b| halves(ty, |k| half(o, ty, mode, [a >> k, b >> k])))
        }
        Slow::HalfUn(o, ty, mode, d, a) => g.w1(mask, d, a, |a| halves(ty, |k| half_unary(o, ty, mode, a >> k))),
        Slow::FmaHalf(ty, mode, d, a, b, c) => g.w3(mask, d, [a, b, c], |a, b, c| {
            halves(ty, |k| crate::exec::float::half_fma(ty, mode, [a >> k, b >> k, c >> k]))
        }),
        Slow::Setp { ty, cmp, ftz, p, q, a, b, with } => {
            let v = mask_of(|i| compare(ty, cmp, ftz, get(g, ty, a, i), get(g, ty, b, i)));
            let (v, n) = combine(g, with, v);
            g.set_pred(p, v, mask);
            if let Some(q) = q {
                g.set_pred(q, n, mask);
            }
        }
        Slow::SetpPacked { ty, cmp, ftz, p, q, a, b, with } => {
            let v = compare_pairs(g, ty, cmp, ftz, a, b).map(|v| combine(g, with, v).0);
            g.set_pred(p, v[0], mask);
            g.set_pred(q, v[1], mask);
        }
        Slow::Set { ty, dest, cmp, ftz, d, a, b, with } => {
            let v = mask_of(|i| compare(ty, cmp, ftz, get(g, ty, a, i), get(g, ty, b, i)));
            let v = combine(g, with, v).0;
            let one = match dest {
                Type::F32 => u64::from(1f32.to_bits()),
                Type::F16 => 0x3c00,
                Type::Bf16 => 0x3f80,
                _ => 0xffff_ffff,
            };
            each(g, mask, dest, d, |_, i| if v >> i & 1 != 0 { one } else { 0 });
        }
        Slow::Slct { wide, float, ftz: flush, d, a, b, c } => {
            let ty = if wide { Type::U64 } else { Type::U32 };
            each(g, mask, ty, d, |g, i| {
                let c = g.r[c as usize][i];
                let first = if float { ftz(f32::from_bits(c), flush) >= 0.0 } else { c as i32 >= 0 };
                get(g, ty, if first { a } else { b }, i)
            });
        }
        Slow::Cvt { to, from, mode, bits: [register, source], d, a } => {
            let file = |bits: u8| if bits == 64 { Type::U64 } else { Type::U32 };
            each(g, mask, file(register), d, |g, i| {
                let v = convert(get(g, file(source), a, i), from, to, mode);
                // A wider register takes the value's sign, or zeros.
                let v = if to.float() { v } else { int_value(v, to) as u64 };
                if register == 64 { v } else { v & (u64::MAX >> (64 - u32::from(register))) }
            })
        }
        Slow::CvtPack { to, mode, d, a, b } => g.w2(mask, d, a, b, |a, b| {
            let one = |v: u32| {
                let x = f64::from(ftz(f32::from_bits(v), mode.ftz));
                let x = if mode.relu && x < 0.0 { 0.0 } else { x };
                to_half(within(x, to, mode), to, mode.round)
            };
            one(a) << 16 | one(b)
        }),
        Slow::PredMov(d, a, flip) => {
            let v = g.p[a as usize] ^ flip;
            g.set_pred(d, v, mask);
        }
        Slow::Pack { bits, wide, d, ref parts } => {
            let ty = if wide { Type::U64 } else { Type::U32 };
            each(g, mask, ty, d, |g, i| {
                let keep = (1u64 << bits) - 1;
                parts.iter().rev().fold(0, |v, p| v << bits | (u64::from(g.r[*p as usize][i]) & keep))
            });
        }
        Slow::Unpack { bits, wide, ref parts, a } => {
            let ty = if wide { Type::U64 } else { Type::U32 };
            let src: [u64; 32] = std::array::from_fn(|i| get(g, ty, a, i));
            for (k, p) in parts.iter().enumerate() {
                if let Some(p) = *p {
                    g.set_word(p, mask, |i| ((src[i] >> (bits * k as u32)) & ((1u64 << bits) - 1)) as u32);
                }
            }
        }
        Slow::Testp(what, wide, p, a) => {
            let ty = if wide { Type::F64 } else { Type::F32 };
            let v = mask_of(|i| {
                let bits = get(g, ty, a, i);
                let x = float_value(bits, ty);
                let normal = if wide { x.is_normal() } else { (x as f32).is_normal() };
                match what {
                    Testp::Finite => x.is_finite(),
                    Testp::Infinite => x.is_infinite(),
                    Testp::Number => !x.is_nan(),
                    Testp::NotANumber => x.is_nan(),
                    Testp::Normal => normal,
                    Testp::Subnormal => x != 0.0 && x.is_finite() && !normal,
                }
            });
            g.set_pred(p, v, mask);
        }
        Slow::Carry { sub, input, output, wide, d, a, b } => {
            let ty = if wide { Type::U64 } else { Type::U32 };
            let bits = if wide { 64 } else { 32 };
            let before = w.carry;
            let mut after = before;
            each(&mut w.regs, mask, ty, d, |g, i| {
                let (a, b) = (u128::from(get(g, ty, a, i)), u128::from(get(g, ty, b, i)));
                let c = u128::from(input && before >> i & 1 != 0);
                let r = if sub { a.wrapping_sub(b).wrapping_sub(c) } else { a + b + c };
                let bit = u32::from(r >> bits & 1 != 0);
                after = (after & !(1 << i)) | bit << i;
                r as u64
            });
            if output {
                w.carry = (before & !mask) | (after & mask);
            }
        }
        Slow::MadCarry { high, signed, input, output, wide, d, a, b, c } => {
            let (ty, bits) = if wide { (Type::U64, 64) } else { (Type::U32, 32) };
            let before = w.carry;
            let mut after = before;
            each(&mut w.regs, mask, ty, d, |g, i| {
                let [a, b, c] = [a, b, c].map(|s| get(g, ty, s, i));
                let product = match (signed, wide) {
                    (true, true) => (i128::from(a as i64) * i128::from(b as i64)) as u128,
                    (true, false) => (i64::from(a as i32) * i64::from(b as i32)) as u128,
                    (false, _) => u128::from(a) * u128::from(b),
                };
                let half = if high { product >> bits } else { product } & ((1 << bits) - 1);
                let r = half + u128::from(c) + u128::from(input && before >> i & 1 != 0);
                after = (after & !(1 << i)) | u32::from(r >> bits & 1 != 0) << i;
                r as u64
            });
            if output {
                w.carry = (before & !mask) | (after & mask);
            }
        }
        Slow::SetPacked { ty, cmp, ftz, one, d, a, b, with } => {
            let [low, high] = compare_pairs(g, ty, cmp, ftz, a, b).map(|v| combine(g, with, v).0);
            g.set_word(d, mask, |i| {
                let one = |holds: u32| (holds >> i & 1) * one;
                one(low) | one(high) << 16
            });
        }
        Slow::IsSpace(space, p, a) => {
            let v = mask_of(|i| crate::memory::space::split(g.x[a as usize][i]).0 == space);
            g.set_pred(p, v, mask);
        }
        Slow::Clock(wide, d) => {
            let ty = if wide { Type::U64 } else { Type::U32 };
            each(g, mask, ty, d, |_, _| clock);
        }
        Slow::ActiveMask(d) => g.set_word(d, mask, |_| active),
    }
}

/// A register's bits, by the width of its type.
#[inline]
fn get(g: &Regs, ty: Type, slot: u32, lane: usize) -> u64 {
    if ty.bytes() == 8 { g.x[slot as usize][lane] } else { u64::from(g.r[slot as usize][lane]) }
}

/// Writes one value a lane.
fn each(g: &mut Regs, mask: u32, ty: Type, d: u32, mut f: impl FnMut(&Regs, usize) -> u64) {
    for i in lanes(mask) {
        let v = f(g, i);
        if ty.bytes() == 8 {
            g.x[d as usize][i] = v;
        } else {
            g.r[d as usize][i] = v as u32;
        }
    }
}

/// `fma.f32` of bits.
fn fused(sources: [u32; 3], mode: Mode) -> u32 {
    let [a, b, c] = sources.map(|v| ftz(f32::from_bits(v), mode.ftz));
    canonical(finish(fma32(a, b, c, mode.round), mode))
}

/// Two words of a pair, made from those that lie so many bits up.
fn both(f: impl Fn(u32) -> u32) -> u64 {
    u64::from(f(0)) | u64::from(f(32)) << 32
}

fn canonical(x: f32) -> u32 {
    if x.is_nan() { NAN32 } else { x.to_bits() }
}

fn halves(ty: Type, f: impl Fn(u32) -> u32) -> u32 {
    if ty.packed() { f(0) | f(16) << 16 } else { f(0) }
}

fn int16(o: IntOp, a: u32, b: u32) -> u32 {
    let (ua, ub) = (a as u16, b as u16);
    let (sa, sb) = (a as i16, b as i16);
    let r = match o {
        IntOp::Add => ua.wrapping_add(ub),
        IntOp::AddSat => sa.saturating_add(sb) as u16,
        IntOp::Sub => ua.wrapping_sub(ub),
        IntOp::SubSat => sa.saturating_sub(sb) as u16,
        IntOp::Mul => ua.wrapping_mul(ub),
        IntOp::MulHiU => ((u32::from(ua) * u32::from(ub)) >> 16) as u16,
        IntOp::MulHiS => ((i32::from(sa) * i32::from(sb)) >> 16) as u16,
        IntOp::DivU => ua.checked_div(ub).unwrap_or(u16::MAX),
        IntOp::DivS if sb == 0 => u16::MAX,
        IntOp::DivS => sa.wrapping_div(sb) as u16,
        IntOp::RemU => ua.checked_rem(ub).unwrap_or(ua),
        IntOp::RemS if sb == 0 => ua,
        IntOp::RemS => sa.wrapping_rem(sb) as u16,
        IntOp::MinU => ua.min(ub),
        IntOp::MinS => sa.min(sb) as u16,
        IntOp::MaxU => ua.max(ub),
        IntOp::MaxS => sa.max(sb) as u16,
        IntOp::And => ua & ub,
        IntOp::Or => ua | ub,
        IntOp::Xor => ua ^ ub,
        // The amount of a shift is 32 bits and clamps.
        IntOp::Shl => ua.checked_shl(b).unwrap_or(0),
        IntOp::ShrU => ua.checked_shr(b).unwrap_or(0),
        IntOp::ShrS => (sa >> b.min(15)) as u16,
    };
    u32::from(r)
}

fn count(o: Count, a: u64, bits: u32) -> u32 {
    let clz = |a: u64| a.leading_zeros() - (64 - bits);
    let signed = matches!(o, Count::BfindS | Count::BfindShiftS);
    let a = if signed && a >> (bits - 1) & 1 != 0 { !a & (u64::MAX >> (64 - bits)) } else { a };
    match o {
        Count::Popc => a.count_ones(),
        Count::Clz => clz(a),
        _ if a == 0 => u32::MAX,
        Count::BfindU | Count::BfindS => bits - 1 - clz(a),
        Count::BfindShiftU | Count::BfindShiftS => clz(a),
    }
}

/// `bfe` on a value already extended to 64 bits.
pub(crate) fn bfe(signed: bool, bits: u32, a: u64, pos: u32, len: u32) -> u64 {
    let top = bits - 1;
    let sign = if !signed || len == 0 { false } else { a >> (pos + len - 1).min(top) & 1 != 0 };
    let mut d = 0;
    for i in 0..bits {
        let bit = if i < len && pos + i <= top { a >> (pos + i) & 1 != 0 } else { sign };
        d |= u64::from(bit) << i;
    }
    d
}

fn prmt(m: PrmtMode, a: u32, b: u32, c: u32) -> u32 {
    let v = u64::from(b) << 32 | u64::from(a);
    let s = c & 3;
    let pick: [u32; 4] = std::array::from_fn(|i| {
        let i = i as u32;
        match m {
            PrmtMode::F4e => s + i,
            PrmtMode::B4e => (s + 8 - i) & 7,
            PrmtMode::Rc8 => s,
            PrmtMode::Ecl => s.max(i),
            PrmtMode::Ecr => s.min(i),
            PrmtMode::Rc16 => (s & 1) * 2 + (i & 1),
        }
    });
    pick.iter().rev().fold(0, |r, k| r << 8 | (v >> (8 * k)) as u32 & 0xff)
}

fn compare(ty: Type, cmp: Cmp, flush: bool, a: u64, b: u64) -> bool {
    if !ty.float() {
        let (a, b) = (int_value(a, ty), int_value(b, ty));
        return ordered(cmp, a.cmp(&b));
    }
    let value = |v: u64| match ty {
        Type::F32 => f64::from(ftz(f32::from_bits(v as u32), flush)),
        Type::F16 | Type::Bf16 => float_value(u64::from(flush_half(v as u32 & 0xffff, ty, flush)), ty),
        _ => float_value(v, ty),
    };
    match value(a).partial_cmp(&value(b)) {
        Some(o) => ordered(cmp, o),
        None => matches!(cmp, Cmp::Equ | Cmp::Neu | Cmp::Ltu | Cmp::Leu | Cmp::Gtu | Cmp::Geu | Cmp::Nan),
    }
}

/// Lanes in which the low halves of a packed type compare so, and the high ones.
fn compare_pairs(g: &Regs, ty: Type, cmp: Cmp, flush: bool, a: u32, b: u32) -> [u32; 2] {
    let ty = if ty == Type::F16x2 { Type::F16 } else { Type::Bf16 };
    let (a, b) = (&g.r[a as usize], &g.r[b as usize]);
    [0, 16].map(|k| mask_of(|i| compare(ty, cmp, flush, u64::from(a[i] >> k), u64::from(b[i] >> k))))
}

fn ordered(cmp: Cmp, o: std::cmp::Ordering) -> bool {
    match cmp {
        Cmp::Eq | Cmp::Equ => o.is_eq(),
        Cmp::Ne | Cmp::Neu => o.is_ne(),
        Cmp::Lt | Cmp::Ltu => o.is_lt(),
        Cmp::Le | Cmp::Leu => o.is_le(),
        Cmp::Gt | Cmp::Gtu => o.is_gt(),
        Cmp::Ge | Cmp::Geu => o.is_ge(),
        Cmp::Num => true,
        Cmp::Nan => false,
    }
}

/// A comparison's result and its complement, each combined with the third predicate.
fn combine(g: &Regs, with: Option<(Bool, u32, u32)>, v: u32) -> (u32, u32) {
    let Some((op, c, flip)) = with else { return (v, !v) };
    let c = g.p[c as usize] ^ flip;
    match op {
        Bool::And => (v & c, !v & c),
        Bool::Or => (v | c, !v | c),
        Bool::Xor => (v ^ c, !v ^ c),
    }
}
