//! `wgmma`: both sources of A, both majors, the four swizzles, several N, seven factor types; small integers,
//! and numbers of all sizes, to the bit. The factors arrive as images of shared memory, laid out here.
//!
//! Layouts: PTX ISA, "Shared Memory Matrix Layout" and "Strides" of wgmma.mma_async; registers: "Register Fragments".

use super::convert::{BF16, F16};
use super::edges::Stream;
use super::ptx::{header, words};
use super::small::{E4M3, E5M2};
use super::sums::{Sums, element};
use super::{Expected, Kernel};
use std::fmt::Write;

#[derive(Clone, Copy, PartialEq)]
enum Factor {
    Bf16,
    F16,
    Tf32,
    E4m3,
    E5m2,
    S8,
    U8,
}

/// One product: 64 × n, depth 16 (tf32: 8, bytes: 32).
#[derive(Clone, Copy)]
struct Product {
    factor: Factor,
    n: usize,
    /// As the descriptor has it: 0 none, 1 128 bytes, 2 64, 3 32.
    swizzle: usize,
    /// Whether M, and N, run along memory instead of K.
    across: [bool; 2],
    registers: bool,
    negate: bool,
    integers: bool,
}

const PLAIN: Product = Product {
    factor: Factor::Bf16,
    n: 64,
    swizzle: 1,
    across: [false; 2],
    registers: false,
    negate: false,
    integers: true,
};

impl Factor {
    fn name(self) -> &'static str {
        match self {
            Factor::Bf16 => "bf16",
            Factor::F16 => "f16",
            Factor::Tf32 => "tf32",
            Factor::E4m3 => "e4m3",
            Factor::E5m2 => "e5m2",
            Factor::S8 => "s8",
            Factor::U8 => "u8",
        }
    }

    fn bytes(self) -> usize {
        match self {
            Factor::Tf32 => 4,
            Factor::Bf16 | Factor::F16 => 2,
            Factor::E4m3 | Factor::E5m2 | Factor::S8 | Factor::U8 => 1,
        }
    }

    fn integer(self) -> bool {
        matches!(self, Factor::S8 | Factor::U8)
    }

    fn depth(self) -> usize {
        32 / self.bytes()
    }

    fn sums(self) -> Sums {
        let (bits, lowest) = match self {
            Factor::E4m3 => (13, -6),
            Factor::E5m2 => (13, -14),
            Factor::F16 => (25, -14),
            _ => (25, -126),
        };
        Sums { group: 32, bits, kept: bits.min(23), lowest }
    }

    fn bits(self, value: f64) -> u32 {
        match self {
            Factor::Bf16 => BF16.round(value),
            Factor::F16 => F16.round(value),
            Factor::Tf32 => (value as f32).to_bits() & !0x1fff,
            Factor::E4m3 => E4M3.round(value),
            Factor::E5m2 => E5M2.round(value),
            Factor::S8 => value as i8 as u8 as u32,
            Factor::U8 => value.abs() as u8 as u32,
        }
    }

    fn value(self, bits: u32) -> f64 {
        match self {
            Factor::Bf16 => BF16.value(bits),
            Factor::F16 => F16.value(bits),
            Factor::Tf32 => f64::from(f32::from_bits(bits)),
            Factor::E4m3 => E4M3.value(bits),
            Factor::E5m2 => E5M2.value(bits),
            Factor::S8 => f64::from(bits as i8),
            Factor::U8 => f64::from(bits),
        }
    }
}

/// A factor of `lines` rows of A (columns of B) in shared memory.
struct Tile {
    span: usize,
    swizzle: usize,
    across: bool,
    leading: usize,
    stride: usize,
    size: usize,
}

impl Tile {
    fn new(product: &Product, side: usize) -> Tile {
        let (swizzle, across) = (product.swizzle, product.across[side]);
        let span = [16, 128, 64, 32][swizzle];
        let (leading, stride) = match (swizzle, across) {
            (0, _) => (128, 256),
            // Blocks of a span's width follow each other, each as deep as K.
            (_, true) => (product.factor.depth() * span, 8 * span),
            (_, false) => (16, 8 * span),
        };
        Tile { span, swizzle, across, leading, stride, size: product.factor.bytes() }
    }

    /// Byte of element (line, k) from the tile's start, which is a multiple of 1024.
    fn byte(&self, line: usize, k: usize) -> usize {
        let Tile { span, leading, stride, size, .. } = *self;
        let at = match (self.across, self.swizzle) {
            (false, 0) => line / 8 * stride + line % 8 * 16 + k * size / 16 * leading + k * size % 16,
            (false, _) => line / 8 * stride + line % 8 * span + k * size,
            (true, 0) => k / 8 * leading + k % 8 * 16 + line * size / 16 * stride + line * size % 16,
            (true, _) => line * size / span * leading + k / 8 * stride + k % 8 * span + line * size % span,
        };
        at ^ ((at >> 7 & (span / 16 - 1)) << 4)
    }

    fn image(&self, lines: usize, depth: usize, element: impl Fn(usize, usize) -> u32) -> Vec<u8> {
        let mut image = Vec::new();
        for (line, k) in (0..lines).flat_map(|line| (0..depth).map(move |k| (line, k))) {
            let at = self.byte(line, k);
            if image.len() < at + self.size {
                // In whole rounds of 16 bytes from each of 128 threads.
                image.resize((at + self.size).next_multiple_of(2048), 0);
            }
            image[at..at + self.size].copy_from_slice(&element(line, k).to_le_bytes()[..self.size]);
        }
        image
    }

    /// The descriptor but for its start.
    fn descriptor(&self) -> u64 {
        (self.leading as u64 >> 4) << 16 | (self.stride as u64 >> 4) << 32 | (self.swizzle as u64) << 62
    }
}

impl Product {
    fn name(&self) -> String {
        let major = |across| if across { "mn" } else { "k" };
        let [a, b] = self.across.map(major);
        let a = if self.registers { "registers" } else { a };
        let swizzle = [0, 128, 64, 32][self.swizzle];
        let kind = if self.integers { "integers" } else { "sums" };
        let sign = if self.negate { ".negated" } else { "" };
        let k = self.factor.depth();
        format!("wgmma.m64n{}k{k}.{}.{a}.{b}.swizzle{swizzle}{sign}.{kind}", self.n, self.factor.name())
    }

    fn kernel(&self) -> Kernel {
        let (n, depth, factor) = (self.n, self.factor.depth(), self.factor);
        let mut stream = Stream(41 + n as u64);
        let reach = -factor.sums().lowest.max(-70);
        let mut draw = |line: usize, at: usize, limit: u64, reach: i32| {
            if self.integers {
                (stream.next() % limit) as f64 - (limit / 2) as f64
            } else {
                element(&mut stream, line, at, reach)
            }
        };
        let a: Vec<u32> = (0..64 * depth).map(|i| factor.bits(draw(i / depth, i, 17, reach))).collect();
        let b: Vec<u32> = (0..n * depth).map(|i| factor.bits(draw(i / depth, i, 17, reach))).collect();
        let c: Vec<f32> = (0..64 * n).map(|i| draw(i / n + i, i, 101, (2 * reach).min(100)) as f32).collect();
        let sum = |x: f64| if factor.integer() { x as i32 as u32 } else { (x as f32).to_bits() };
        let sums = c.iter().enumerate().map(|(i, start)| {
            let sign = if self.negate { -1.0 } else { 1.0 };
            let value = |bits: u32| factor.value(bits);
            let factors = |k: usize| (sign * value(a[i / n * depth + k]), value(b[i % n * depth + k]));
            let products: Vec<(f64, f64)> = (0..depth).map(factors).collect();
            let start = f64::from(*start);
            if self.integers {
                sum(products.iter().fold(start, |sum, (a, b)| sum + a * b))
            } else {
                factor.sums().of(&products, start)
            }
        });
        let expected = Expected::Words(sums.collect());
        let tiles = [Tile::new(self, 0), Tile::new(self, 1)];
        let per = 4 / factor.bytes();
        let packed = |part: &[u32]| part.iter().rev().fold(0, |word, v| word << (32 / per % 32) | v);
        let rows = a.chunks_exact(per).map(packed).collect::<Vec<u32>>();
        let left = if self.registers { words(&rows) } else { tiles[0].image(64, depth, |m, k| a[m * depth + k]) };
        let right = tiles[1].image(n, depth, |column, k| b[column * depth + k]);
        let ptx = self.ptx(&tiles, [left.len(), right.len()]);
        let start = words(&c.iter().map(|x| sum(f64::from(*x))).collect::<Vec<_>>());
        Kernel { threads: 128, ..Kernel::new(self.name(), 90, ptx, vec![left, right, start], expected) }
    }

    fn ptx(&self, tiles: &[Tile; 2], bytes: [usize; 2]) -> String {
        let (n, depth) = (self.n, self.factor.depth());
        let mut text = header(90, 4);
        let sums: Vec<String> = (0..n / 2).map(|i| format!("%s{i}")).collect();
        let _ = writeln!(text, "  .reg .b32 %s<{}>;\n  .reg .b64 %left, %right;", n / 2);
        for (side, name) in ["left", "right"].iter().enumerate() {
            if side == 0 && self.registers {
                continue;
            }
            let _ = writeln!(text, "  .shared .align 1024 .b8 {name}_tile[{}];", bytes[side]);
            let _ = writeln!(text, "  ld.param.u64 %x0, [p{side}];\n  mad.wide.u32 %x0, %thread, 16, %x0;");
            let _ = writeln!(text, "  mov.u32 %t, {name}_tile;\n  mad.lo.u32 %u, %thread, 16, %t;");
            for at in (0..bytes[side]).step_by(2048) {
                let _ = writeln!(text, "  ld.global.v4.b32 {{%r0, %r1, %r2, %r3}}, [%x0+{at}];");
                let _ = writeln!(text, "  st.shared.v4.b32 [%u+{at}], {{%r0, %r1, %r2, %r3}};");
            }
            let _ = writeln!(text, "  shr.u32 %t, %t, 4;\n  and.b32 %t, %t, 0x3fff;\n  cvt.u64.u32 %{name}, %t;");
            let _ = writeln!(text, "  or.b64 %{name}, %{name}, {:#x};", tiles[side].descriptor());
        }
        // Row 16 * warp + lane / 4, column 2 * (lane % 4): where each thread's first sum lies.
        text += "  shr.u32 %t, %thread, 5;\n  shr.u32 %u, %lane, 2;\n  mad.lo.u32 %t, %t, 16, %u;\n  and.b32 %u, %lane, 3;\n  \
                 shl.b32 %u, %u, 1;\n";
        let place = |i: usize| (i / 2 % 2 * 8 * n + i / 4 * 8 + i % 2) * 4;
        let _ =
            writeln!(text, "  mad.lo.u32 %c, %t, {n}, %u;\n  ld.param.u64 %x0, [p2];\n  mad.wide.u32 %x0, %c, 4, %x0;");
        for (i, sum) in sums.iter().enumerate() {
            let _ = writeln!(text, "  ld.global.b32 {sum}, [%x0+{}];", place(i));
        }
        if self.registers {
            let _ = writeln!(
                text,
                "  mul.lo.u32 %b, %t, 32;\n  mad.lo.u32 %b, %u, 2, %b;\n  ld.param.u64 %x1, [p0];\n  cvt.u64.u32 %x2, %b;\n  \
                 add.u64 %x1, %x1, %x2;"
            );
            for r in 0..4 {
                let _ = writeln!(text, "  ld.global.b32 %r{r}, [%x1+{}];", r % 2 * 8 * 32 + r / 2 * 16);
            }
        }
        let a = if self.registers { "{%r0, %r1, %r2, %r3}" } else { "%left" };
        let sign = if self.negate { -1 } else { 1 };
        let majors = match (self.factor, self.registers) {
            _ if self.factor.bytes() != 2 => String::new(),
            (_, true) => format!(", {}", u32::from(self.across[1])),
            (_, false) => format!(", {}, {}", u32::from(self.across[0]), u32::from(self.across[1])),
        };
        let (sum, signs) = if self.factor.integer() { ("s32", String::new()) } else { ("f32", format!(", {sign}, 1")) };
        let factor = self.factor.name();
        let _ = writeln!(
            text,
            "  fence.proxy.async;\n  bar.sync 0;\n  setp.eq.u32 %p, 0, 0;\n  wgmma.fence.sync.aligned;\n  \
             wgmma.mma_async.sync.aligned.m64n{n}k{depth}.{sum}.{factor}.{factor} {{{}}}, {a}, %right, %p{signs}{majors};\n  \
             wgmma.commit_group.sync.aligned;\n  wgmma.wait_group.sync.aligned 0;",
            sums.join(", ")
        );
        let _ = writeln!(text, "  ld.param.u64 %x0, [p3];\n  mad.wide.u32 %x0, %c, 4, %x0;");
        for (i, sum) in sums.iter().enumerate() {
            let _ = writeln!(text, "  st.global.b32 [%x0+{}], {sum};", place(i));
        }
        text + "  ret;\n}\n"
    }
}

pub(super) fn kernels() -> Vec<Kernel> {
    let mut all = Vec::new();
    for swizzle in 0..4 {
        for across in [[false, false], [true, false], [false, true], [true, true]] {
            all.push(Product { swizzle, across, ..PLAIN });
        }
        all.push(Product { swizzle, registers: true, ..PLAIN });
        all.push(Product { swizzle, registers: true, across: [false, true], ..PLAIN });
        all.push(Product { swizzle, factor: Factor::Tf32, n: 16, ..PLAIN });
    }
    all.extend([8, 24, 96, 128, 256].map(|n| Product { n, ..PLAIN }));
    all.extend([8, 128, 256].map(|n| Product { n, registers: true, factor: Factor::F16, ..PLAIN }));
    for factor in [Factor::Bf16, Factor::F16, Factor::Tf32, Factor::E4m3, Factor::E5m2] {
        all.push(Product { factor, integers: false, n: 32, ..PLAIN });
    }
    for factor in [Factor::E4m3, Factor::E5m2, Factor::S8, Factor::U8] {
        all.extend([8, 96].map(|n| Product { factor, n, ..PLAIN }));
        all.push(Product { factor, swizzle: 0, n: 16, ..PLAIN });
        all.push(Product { factor, registers: true, swizzle: 2, n: 32, ..PLAIN });
    }
    all.push(Product { negate: true, ..PLAIN });
    all.push(Product { negate: true, registers: true, ..PLAIN });
    all.iter().map(Product::kernel).collect()
}
