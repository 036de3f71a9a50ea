//! Kernels full of arithmetic as CUDA programmers write it, compiled with the headers they use: integers, floating point
//! and matrix products on the virtual machine, against plain Rust, with nothing that the full checks find wrong.
use crate::call::{Arg, Call, Number, bytes, numbers, small, stream};
use half::{bf16, f16};

const MATRIX: &str = include_str!("matrix.ptx");
const BITS: [&str; 2] = [include_str!("bits.ptx"), include_str!("bits_90.ptx")];
const FLOATS: &str = include_str!("floats.ptx");
const HOPPER: &str = include_str!("tma.ptx");

fn call<'a>(ptx: &'a str, entry: &'a str, threads: u32, args: Vec<Arg>) -> Vec<u8> {
    Call { ptx, entry, grid: [1, 1, 1], block: [threads, 1, 1], args }.one()
}

/// 64 threads, each with an element of every input and `words` elements of output.
fn rows<T: Number>(ptx: &str, entry: &str, inputs: Vec<Vec<u8>>, words: usize) -> Vec<T> {
    let out = Arg::Out(64 * words * size_of::<T>());
    numbers(&call(ptx, entry, 64, inputs.into_iter().map(Arg::In).chain([out]).collect()))
}

fn cast<T>(values: &[f32], to: impl Fn(f32) -> T) -> Vec<T> {
    values.iter().map(|v| to(*v)).collect()
}

/// a[m][k] b[k][n], whose elements are where the functions say.
fn product(m: usize, n: usize, k: usize, a: impl Fn(usize, usize) -> f32, b: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    (0..m * n).map(|i| (0..k).map(|j| a(i / n, j) * b(j, i % n)).sum()).collect()
}

fn twice(values: &[f32]) -> Vec<f32> {
    cast(values, |v| 2.0 * v)
}

#[test]
fn products_through_ldmatrix_and_the_wmma_api() {
    let (a, b) = (small(1, 32 * 64), small(2, 32 * 64));
    let bf = |v: &[f32]| Arg::In(bytes(&cast(v, bf16::from_f32)));
    let half = |v: &[f32]| Arg::In(bytes(&cast(v, f16::from_f32)));
    let expected = product(16, 16, 64, |m, k| a[m * 64 + k], |k, n| b[n * 64 + k]);
    let c = call(MATRIX, "gemm_mma", 32, vec![bf(&a[..1024]), bf(&b[..1024]), Arg::Out(1024)]);
    assert_eq!(numbers::<f32>(&c), expected);

    let expected = twice(&product(16, 16, 48, |m, k| a[m * 48 + k], |k, n| b[k * 16 + n]));
    let c = call(MATRIX, "wmma_half", 32, vec![half(&a[..768]), half(&b[..768]), Arg::Out(1024)]);
    assert_eq!(numbers::<f32>(&c), expected);

    let expected = twice(&product(32, 8, 48, |m, k| a[m * 48 + k], |k, n| b[n * 48 + k]));
    let c = call(MATRIX, "wmma_half_sums", 32, vec![half(&a[..1536]), half(&b[..384]), Arg::Out(512)]);
    assert_eq!(cast(&expected, f16::from_f32), numbers::<f16>(&c));

    let expected = twice(&product(8, 32, 48, |m, k| a[m * 48 + k], |k, n| b[k * 32 + n]));
    let c = call(MATRIX, "wmma_bfloat", 32, vec![bf(&a[..384]), bf(&b[..1536]), Arg::Out(1024)]);
    assert_eq!(numbers::<f32>(&c), expected);

    let start = small(3, 256);
    let mut expected = product(16, 16, 8, |m, k| a[m * 8 + k], |k, n| b[k * 16 + n]);
    expected.iter_mut().zip(&start).for_each(|(sum, start)| *sum += start);
    let args = vec![Arg::In(bytes(&a[..128])), Arg::In(bytes(&b[..128])), Arg::Both(bytes(&start))];
    assert_eq!(numbers::<f32>(&call(MATRIX, "wmma_tf32", 32, args)), expected);

    let double = |v: &[f32]| Arg::In(bytes(&cast(v, f64::from)));
    let expected = twice(&product(8, 8, 4, |m, k| a[m * 4 + k], |k, n| b[n * 4 + k]));
    let c = call(MATRIX, "wmma_double", 32, vec![double(&a[..32]), double(&b[..32]), Arg::Out(512)]);
    assert_eq!(numbers::<f64>(&c), cast(&expected, f64::from));
}

fn signed(seed: u64, count: usize) -> Vec<i8> {
    stream(seed, count).iter().map(|v| *v as i8).collect()
}

#[test]
fn products_of_bytes() {
    let (a, b) = (signed(4, 64 * 32), signed(5, 16 * 48));
    let of = |lines: usize, columns: usize, k: usize, b: &dyn Fn(usize) -> i32| -> Vec<i32> {
        (0..lines * columns)
            .map(|i| (0..k).map(|j| i32::from(a[i / columns * k + j]) * b(i % columns * k + j)).sum())
            .collect()
    };
    let wide = |i: usize| i32::from(b[i]);
    let expected: Vec<i32> = of(16, 16, 48, &wide).iter().map(|v| 2 * v).collect();
    let args = vec![Arg::In(bytes(&a[..768])), Arg::In(bytes(&b)), Arg::Out(1024)];
    assert_eq!(numbers::<i32>(&call(MATRIX, "wmma_bytes", 32, args)), expected);

    let both = |rows: usize| vec![Arg::In(bytes(&a[..rows * 32])), Arg::In(bytes(&b[..256]))];
    let expected = of(16, 8, 32, &wide);
    let args = both(16).into_iter().chain([Arg::Out(1024)]).collect();
    let c = numbers::<i32>(&call(MATRIX, "gemm_bytes", 32, args));
    assert_eq!(c[..128], expected);
    for i in 0..128 {
        let half = |k: usize| i32::from(i16::from_le_bytes([a[i * 4 + 2 * k] as u8, a[i * 4 + 2 * k + 1] as u8]));
        let pairs = half(0) * wide(i % 64 * 4) + half(1) * wide(i % 64 * 4 + 1);
        assert_eq!(c[128 + i], expected[i] + pairs, "{i}");
    }

    let args = both(64).into_iter().chain([Arg::Out(64 * 8 * 4)]).collect();
    let c = numbers::<i32>(&call(HOPPER, "wgmma_bytes", 128, args));
    assert_eq!(c, of(64, 8, 32, &|i| i32::from(b[i] as u8)));
}

/// An 8-bit float with a bias and so many mantissa bits, no infinities or NaNs among the bytes asked for.
fn float8(byte: u8, bias: i32, mantissa: u32) -> f32 {
    let fraction = f32::from(byte & ((1 << mantissa) - 1)) / (1 << mantissa) as f32;
    let exponent = i32::from(byte & 0x7f) >> mantissa;
    let size =
        if exponent == 0 { fraction * 2f32.powi(1 - bias) } else { (1.0 + fraction) * 2f32.powi(exponent - bias) };
    if byte & 0x80 != 0 { -size } else { size }
}

#[test]
fn products_of_8_bit_floats() {
    // Powers of two from 2^-3 to 2^1: every sum is exact in the 13 bits that are kept.
    let draw = |seed: u64, count: usize, low: u8, mantissa: u8| -> Vec<u8> {
        stream(seed, count).iter().map(|v| (low + (v % 5) as u8) << mantissa | (v >> 20 & 0x80) as u8).collect()
    };
    let (a, b) = (draw(6, 64 * 32, 4, 3), draw(7, 8 * 32, 12, 2));
    let value = |m: usize, k: usize| float8(a[m * 32 + k], 7, 3);
    for (entry, rows, threads) in [("wgmma_fp8", 64, 128), ("mma_fp8", 16, 32)] {
        let expected = product(rows, 8, 32, value, |k, n| float8(b[n * 32 + k], 15, 2));
        let args = vec![Arg::In(a[..rows * 32].to_vec()), Arg::In(b.clone()), Arg::Out(rows * 32)];
        assert_eq!(numbers::<f32>(&call(HOPPER, entry, threads, args)), expected, "{entry}");
    }
}

#[test]
fn conversions_to_8_bit_floats() {
    let x: Vec<f32> = stream(8, 64).iter().map(|v| f32::from_bits((v % (24 << 23) + (115 << 23)) | v << 31)).collect();
    let y = rows::<u32>(FLOATS, "bytes", vec![bytes(&x)], 4);
    for (x, out) in x.iter().zip(y.chunks(4)) {
        for (byte, half, bias, mantissa, most) in [(out[0], out[2], 7, 3, 0x7e), (out[1], out[3], 15, 2, 0x7b)] {
            let value = |byte: u32| float8(byte as u8, bias, mantissa);
            assert_eq!(f16::from_bits(half as u16).to_f32(), value(byte));
            // No byte of the same sign is nearer; of two as near, the even one.
            let sign = byte & 0x80;
            let error = |byte: u32| (value(byte) - x).abs();
            let best = (sign..=sign + most).min_by(|a, b| error(*a).total_cmp(&error(*b)).then((a & 1).cmp(&(b & 1))));
            assert_eq!(Some(byte), best, "{x}");
        }
    }
}

/// Words with edges among them.
fn words(seed: u64) -> Vec<u32> {
    let edges = [0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX, 0x8000_7fff, 0x00ff_ff00, 0x0102_0304];
    let mut all = stream(seed, 64).iter().map(|v| v << 1 ^ v >> 7).collect::<Vec<_>>();
    all[..8].copy_from_slice(&edges);
    all[40..48].copy_from_slice(&edges);
    all
}

fn bytes_of(v: u32, w: u32, f: impl Fn(u8, u8) -> u8) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| f(v.to_le_bytes()[i], w.to_le_bytes()[i])))
}

fn halves_of(v: u32, w: u32, f: impl Fn(i16, i16) -> i16) -> u32 {
    let one = |k: u32| u32::from(f((v >> k) as i16, (w >> k) as i16) as u16) << k;
    one(0) | one(16)
}

#[test]
fn fields_counts_and_wide_integers() {
    let (a, b) = (words(9), words(10));
    for ptx in BITS {
        let y = rows::<u32>(ptx, "fields", vec![bytes(&a), bytes(&b)], 16);
        for ((v, w), out) in a.iter().zip(&b).zip(y.chunks(16)) {
            let (v, w) = (*v, *w);
            let (sv, sw) = (v as i32, w as i32);
            let field = |p: u32, n: u32| u64::from(v) >> p & ((1 << n) - 1);
            let (p, n) = (v & 31, w & 15);
            let mask = (((1u64 << n) - 1) << p) as u32;
            let taken = (i64::from(sv) >> (w & 31)) << 55 >> 55;
            let pair = u64::from(w) << 32 | u64::from(v);
            let pool = pair.to_le_bytes();
            let wide = u64::from(v) << 32 | u64::from(w);
            let by = u64::from(w % 1000 + 1);
            let huge = u128::from(wide) * u128::from(wide) + u128::from(v);
            let high = ((u128::from(wide) * u128::from(!wide)) >> 64) as u32;
            let lead = (u64::from(v) << 7 | u64::from(w)).leading_zeros();
            let upper = |product: i64| (product >> 32) as u32;
            let average = |a: u64| a as u32;
            let expected = [
                w & !mask | v << p & mask,
                field(w & 31, 7) as u32,
                taken as u32,
                v ^ w ^ v >> 3,
                u32::from_le_bytes([pool[(v & 7) as usize], pool[4], pool[1], pool[5]]),
                (pair << (w & 31) >> 32) as u32,
                (pair >> (v & 63).min(32)) as u32,
                v.leading_zeros() + 64 * w.count_ones() + 4096 * if v == 0 { 0 } else { v.trailing_zeros() + 1 },
                v.reverse_bits() ^ lead,
                upper(i64::from(v).wrapping_mul(i64::from(w))).wrapping_add(upper(i64::from(sv) * i64::from(sw))),
                (v.abs_diff(w) + 5).wrapping_add(sv.abs_diff(sw) + 3),
                average((u64::from(v) + u64::from(w)) / 2)
                    ^ average((u64::from(v) + u64::from(w)).div_ceil(2))
                    ^ ((i64::from(sv) + i64::from(sw) + 1) >> 1) as u32,
                (wide / by) as u32 ^ (wide % by) as u32,
                ((wide as i64).wrapping_div(-(by as i64)) as u32).wrapping_add(high),
                (huge >> 64) as u32 ^ (huge >> 32) as u32,
                (v / (w | 1))
                    .wrapping_add(sv.wrapping_rem(sw | 1) as u32)
                    .wrapping_add(wide.count_ones())
                    .wrapping_add(wide.reverse_bits() as u32),
            ];
            assert_eq!(out, expected, "{v:#x} {w:#x}");
        }
    }
}

#[test]
fn bytes_and_halves_of_a_word() {
    let (a, b) = (words(11), words(12));
    for ptx in BITS {
        let y = rows::<u32>(ptx, "video", vec![bytes(&a), bytes(&b)], 16);
        for ((v, w), out) in a.iter().zip(&b).zip(y.chunks(16)) {
            let (v, w) = (*v, *w);
            let distances = bytes_of(v, w, u8::abs_diff);
            let all = |yes: bool| if yes { u8::MAX } else { 0 };
            let expected = [
                distances,
                distances.to_le_bytes().iter().map(|d| u32::from(*d)).sum(),
                bytes_of(v, w, u8::wrapping_add),
                bytes_of(v, w, u8::wrapping_sub),
                bytes_of(v, w, |a, b| (u16::from(a) + u16::from(b)).div_ceil(2) as u8),
                bytes_of(v, w, |a, b| (a as i8).max(b as i8) as u8),
                bytes_of(v, w, u8::min),
                bytes_of(v, w & 0x00ff_00ff ^ v, |a, b| all(a == b)),
                halves_of(v, w, i16::saturating_add),
                halves_of(v, w, |a, b| (a as u16).saturating_sub(b as u16) as i16),
                halves_of(v, w, i16::max),
                halves_of(v, w, |a, b| (a as u16).min(b as u16) as i16),
                halves_of(v, w, |a, b| if a > b { -1 } else { 0 }),
                halves_of(v, w, |a, b| a.abs_diff(b) as i16),
                halves_of(v, w, i16::wrapping_add),
                halves_of(v, w, |a, _| a.wrapping_neg()) ^ bytes_of(w, w, |a, _| (a as i8).unsigned_abs()),
            ];
            assert_eq!(out, expected, "{v:#x} {w:#x}");
        }
    }
}

#[test]
fn three_operands_at_once() {
    let [a, b, c] = [13, 14, 15].map(|seed| words(seed)[..32].to_vec());
    let args = [&a, &b, &c].map(|v| Arg::In(bytes(v))).into_iter().chain([Arg::Out(1024)]).collect();
    let y = numbers::<u32>(&call(HOPPER, "three", 32, args));
    for (i, out) in y.chunks(8).enumerate() {
        let [u, v, w] = [a[i], b[i], c[i]];
        let [x, y, z] = [u as i32, v as i32, w as i32];
        let expected = [
            x.max(y).max(z) as u32,
            u.min(v).min(w),
            x.wrapping_add(y).max(z) as u32,
            x.wrapping_add(y).min(z).max(0) as u32,
            halves_of(halves_of(u, v, i16::max), w, i16::max),
            halves_of(halves_of(u, v, i16::wrapping_add), w, i16::max),
            halves_of(u, v, |a, b| a.min(b).max(0)),
            (x as f32).max(y as f32).max(z as f32) as i32 as u32,
        ];
        assert_eq!(out, expected, "{u:#x} {v:#x} {w:#x}");
    }
}

#[test]
fn short_integers_and_saturating_conversions() {
    let a: Vec<i16> = words(16).iter().map(|v| *v as i16).collect();
    let b: Vec<i16> = words(17).iter().map(|v| (*v >> 16) as i16).collect();
    let x: Vec<f32> = small(18, 64).iter().enumerate().map(|(i, v)| v + i as f32 * 0.25).collect();
    for ptx in BITS {
        let y = rows::<i32>(ptx, "narrow", vec![bytes(&a), bytes(&b), bytes(&x)], 8);
        for (i, out) in y.chunks(8).enumerate() {
            let (v, w, x) = (i32::from(a[i]), i32::from(b[i]), x[i]);
            let (uv, uw) = (v as u16, w as u16);
            let toward_zero = |n: i32| {
                let nearest = n as f32;
                let beyond = (nearest as f64).abs() > f64::from(n).abs();
                if beyond { f32::from_bits(nearest.to_bits() - 1) } else { nearest }
            };
            let expected = [
                i32::from((v * w + v) as i16),
                i32::from(uv / (uw | 1)) + v % i32::from(w as i16 | 1),
                v.min(w) * 3 + i32::from(uv.max(uw)),
                i32::from(v as i8) - i32::from(w as u8) + (v >> 3) + (i32::from(uw) << 2),
                x.round_ties_even() as i32 + (x.abs() * 1000.0) as i32 + x.ceil() as i32,
                (x * 3e9).floor() as i32 ^ ((f64::from(x) * 1e7).round_ties_even() as u32) as i32,
                x.round_ties_even() as i32 + f16::from_f32(v as f32).to_f32() as i16 as i32,
                (toward_zero(v * 65537).to_bits()
                    ^ ((0x0123_4567_89ab_cdefu64.wrapping_mul(u64::from(uv))) as f32).to_bits()) as i32,
            ];
            assert_eq!(out, expected, "{v} {w} {x}");
        }
    }
}

/// Asserts that an exact value rounds down and up to these: `below` and `exact` compare a float with it.
fn bracket([down, up]: [f32; 2], below: impl Fn(f32) -> bool, exact: impl Fn(f32) -> bool, what: &str) {
    assert!(below(down) && (exact(down) || !below(down.next_up())), "{what}: {down:e} is not the next below");
    let tight = if exact(up) { down == up } else { up == down.next_up() };
    assert!(tight, "{what}: {down:e} {up:e}");
}

#[test]
fn directed_rounding_of_f32() {
    // Twelve bits each, so that sums and products are exact in f64.
    let draw = |seed: u64| -> Vec<f32> {
        let one = |v: &u32| (*v as i32 % 4096) as f32 * 2f32.powi((v >> 20) as i32 % 8 - 20) + 0.001_953_125;
        stream(seed, 64).iter().map(|v| if v & 1 << 18 == 0 { one(v) } else { -one(v) }).collect()
    };
    let [a, b, c] = [19, 20, 21].map(draw);
    let y = rows::<f32>(FLOATS, "rounding", vec![bytes(&a), bytes(&b), bytes(&c)], 16);
    for (i, out) in y.chunks(16).enumerate() {
        let [u, v, w] = [a[i], b[i], c[i]].map(f64::from);
        let wide = |x: f32| f64::from(x);
        let of = |exact: f64| (move |x: f32| wide(x) <= exact, move |x: f32| wide(x) == exact);
        let zero = |x: f32, [down, up]: [f32; 2]| assert_eq!(x, if down >= 0.0 { down } else { up });
        assert_eq!(out[0], (u + v) as f32);
        let ((below, exact), less) = (of(u - v), out[15]);
        bracket([less, if exact(less) { less } else { less.next_up() }], below, exact, "difference");
        let (below, exact) = of(u + v);
        bracket([out[2], out[3]], below, exact, "sum");
        zero(out[1], [out[2], out[3]]);
        let (below, exact) = of(u * v);
        bracket([out[5], out[6]], below, exact, "product");
        zero(out[4], [out[5], out[6]]);
        let (below, exact) = of(u * v + w);
        bracket([out[8], out[9]], below, exact, "fma");
        zero(out[7], [out[8], out[9]]);
        let side = if v > 0.0 { 1.0 } else { -1.0 };
        bracket([out[10], out[11]], |x| wide(x) * v * side <= u * side, |x| wide(x) * v == u, "quotient");
        let square = |x: f32| wide(x) * wide(x);
        bracket([out[12], out[13]], |x| square(x) <= u.abs(), |x| square(x) == u.abs(), "root");
        let inverse = wide(out[14]) * v * side;
        assert!(inverse <= side && wide(out[14].next_up()) * v * side > side, "1 / {v}");
    }
}

#[test]
fn directed_rounding_of_f64() {
    let draw = |seed: u64| -> Vec<f64> {
        let high = stream(seed, 64);
        high.iter().zip(stream(seed + 100, 64)).map(|(h, l)| f64::from(*h) - f64::from(l) / 4e9 - 1e9).collect()
    };
    let [a, b, c] = [22, 23, 24].map(draw);
    let y = rows::<f64>(FLOATS, "double_rounding", vec![bytes(&a), bytes(&b), bytes(&c)], 16);
    for (i, out) in y.chunks(16).enumerate() {
        let [u, v, w] = [a[i], b[i], c[i]];
        // The conformance kernels hold each to an exact sum; here, that the library calls the right ones.
        let near = |zero: f64, down: f64, up: f64, nearest: f64| {
            assert!(up == down.next_up() || up == down, "{down:e} {up:e}");
            assert!(nearest == down || nearest == up, "{nearest:e}: {down:e} {up:e}");
            assert_eq!(zero, if down >= 0.0 { down } else { up });
        };
        assert_eq!(out[0], u + v);
        near(out[1], out[2], out[3], u + v);
        near(out[4], out[5], out[6], u * v);
        near(out[7], out[8], out[9], u.mul_add(v, w));
        let inward = |down: f64, up: f64| if down >= 0.0 { down } else { up };
        near(inward(out[10], out[11]), out[10], out[11], u / v);
        near(out[12], out[12], out[13], u.abs().sqrt());
        let (inverse, difference) = (out[14], out[15]);
        near(inward(inverse, inverse.next_up()), inverse, inverse.next_up(), 1.0 / v);
        near(inward(difference.next_down(), difference), difference.next_down(), difference, u - v);
    }
}

/// The error function by its series.
fn erf(x: f64) -> f64 {
    let (mut sum, mut term) = (0.0, x);
    for n in 0..120 {
        sum += term / f64::from(2 * n + 1);
        term *= -x * x / f64::from(n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

fn near(got: f64, expected: f64, tolerance: f64, what: &str) {
    assert!((got - expected).abs() <= tolerance * expected.abs().max(1.0), "{what}: {got:e} {expected:e}");
}

#[test]
fn mathematical_library() {
    let x: Vec<f32> = (0..64).map(|i| (i as f32 - 31.3) * 0.11).collect();
    let y = rows::<f32>(FLOATS, "library", vec![bytes(&x)], 16);
    for (x, out) in x.iter().zip(y.chunks(16)) {
        let v = f64::from(*x);
        let fraction = v.abs() / 2f64.powi(v.abs().log2().floor() as i32 + 1);
        let parts = fraction.copysign(v) + v.abs().log2().floor() + 1.0;
        let expected = [
            v.sin(),
            f64::from(x * 1e6).cos(),
            v.tan(),
            v.exp(),
            v.abs().ln(),
            v.abs().powf(f64::from(1.7f32)),
            erf(v),
            v.tanh(),
            v.atan2(2.0),
            v % f64::from(0.7f32),
            v.cbrt(),
            v.exp_m1(),
            v.abs().ln_1p(),
            v.round_ties_even() + v.floor() + v.ceil() + v.trunc() + v.round(),
            (v * 1.25).exp2(),
            parts + v * 8.0 + 2f64.copysign(v) + v.hypot(1.0),
        ];
        for (i, (got, expected)) in out.iter().zip(expected).enumerate() {
            near(f64::from(*got), expected, 2e-6, &format!("{i} of {v}"));
        }
    }
    let x: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
    let y = rows::<f64>(FLOATS, "double_library", vec![bytes(&x)], 8);
    for (v, out) in x.iter().zip(y.chunks(8)) {
        let expected = [
            v.sin(),
            v.exp(),
            v.abs().ln(),
            v.abs().powf(1.7),
            v / 3.7,
            v.abs().sqrt() + 1.0 / v,
            v.tanh() + v.round_ties_even(),
            erf(*v) + (v * 1e8).cos(),
        ];
        for (i, (got, expected)) in out.iter().zip(expected).enumerate() {
            near(*got, expected, 1e-12, &format!("{i} of {v}"));
        }
    }
}

#[test]
fn pairs_of_halves_and_brain_floats() {
    let moderate = |seed: u64| small(seed, 128).iter().zip(small(seed + 50, 128)).map(|(a, b)| a + b / 16.0).collect();
    let [a, b, c, d]: [Vec<f32>; 4] = [25, 26, 27, 28].map(moderate);
    let (u, v) = (cast(&a, f16::from_f32), cast(&b, f16::from_f32));
    let (s, t) = (cast(&c, bf16::from_f32), cast(&d, bf16::from_f32));
    let y = rows::<u32>(FLOATS, "halves", vec![bytes(&u), bytes(&v), bytes(&s), bytes(&t)], 16);
    for (i, out) in y.chunks(16).enumerate() {
        let half = |f: &dyn Fn(f64, f64) -> f64| -> u32 {
            let one = |k: usize| f16::from_f64(f(u[2 * i + k].to_f64(), v[2 * i + k].to_f64()));
            u32::from(one(0).to_bits()) | u32::from(one(1).to_bits()) << 16
        };
        let brain = |f: &dyn Fn(f64, f64) -> f64| -> u32 {
            let one = |k: usize| bf16::from_f64(f(s[2 * i + k].to_f64(), t[2 * i + k].to_f64()));
            u32::from(one(0).to_bits()) | u32::from(one(1).to_bits()) << 16
        };
        let expected = [
            half(&|u, v| u + v),
            half(&|u, v| u * v),
            half(&|u, v| u * v + u),
            half(&f64::max),
            half(&|u, v| (u * v + v).max(0.0)),
            half(&|u, v| (u - v).clamp(0.0, 1.0)),
            half(&|u, _| -u.abs()),
            half(&|u, v| f64::from(u8::from(u >= v))),
            brain(&|s, t| s + t),
            brain(&|s, t| s * t),
            brain(&|s, t| s * t + s),
            brain(&f64::min),
        ];
        for (at, expected) in expected.into_iter().enumerate() {
            // No sign for a zero: which of two is less, or summed first, is the library's to choose.
            let signless = |w: u32| [w, w >> 16].map(|h| if h & 0x7fff == 0 { 0 } else { h & 0xffff });
            assert_eq!(signless(out[at]), signless(expected), "{at} of {i}");
        }
        let low = f16::from_f64(u[2 * i].to_f64() / v[2 * i + 1].to_f64());
        let greater = (0..2).all(|k| s[2 * i + k] > t[2 * i + k]);
        if v[2 * i + 1] != f16::ZERO {
            let flags = u32::from(u[2 * i] < v[2 * i]) << 16 | u32::from(greater) << 17;
            assert_eq!(out[15], u32::from(low.to_bits()) | flags, "{i}");
        }
    }
    let y = rows::<f16>(FLOATS, "half_library", vec![bytes(&u)], 8);
    for (i, out) in y.chunks(8).enumerate() {
        for k in 0..2 {
            let v = u[2 * i + k].to_f64();
            let inverse = if v == 0.0 { f64::INFINITY } else { 1.0 / v };
            for (at, expected) in [v.exp(), v.abs().sqrt(), inverse, v.tanh()].into_iter().enumerate() {
                let got = out[2 * at + k].to_f64();
                assert!(got == expected || (got - expected).abs() <= 2e-3 * expected.abs().max(0.1), "{at}: {v} {got}");
            }
        }
    }
}
