//! Matrix products of bytes, four bits, single bits, 8-bit floats and doubles by `mma`, and every type and layout of `wmma`. All sums are of small
//! integers, exact in any order.
//!
//! Fragment layouts: PTX ISA, "Matrix Fragments for mma" of each shape. Those of `wmma` are open, so a kernel loads,
//! multiplies and stores.

use super::convert::{BF16, F16};
use super::edges::Stream;
use super::ptx::header;
use super::small::{E4M3, E5M2};
use super::{Expected, Kernel};
use std::fmt::Write;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Element {
    S4,
    U4,
    B1,
    S8,
    U8,
    E4m3,
    E5m2,
    F16,
    Bf16,
    Tf32,
    F32,
    S32,
    F64,
}
use Element::{B1, Bf16, E4m3, E5m2, F16 as Half, F32, F64, S4, S8, S32, Tf32, U4, U8};

impl Element {
    fn name(self) -> &'static str {
        match self {
            S4 => "s4",
            U4 => "u4",
            B1 => "b1",
            S8 => "s8",
            U8 => "u8",
            E4m3 => "e4m3",
            E5m2 => "e5m2",
            Half => "f16",
            Bf16 => "bf16",
            Tf32 => "tf32",
            F32 => "f32",
            S32 => "s32",
            F64 => "f64",
        }
    }

    fn width(self) -> usize {
        match self {
            B1 => 1,
            S4 | U4 => 4,
            S8 | U8 | E4m3 | E5m2 => 8,
            Half | Bf16 => 16,
            Tf32 | F32 | S32 => 32,
            F64 => 64,
        }
    }

    /// Bytes of integers that it holds, one after another from the lowest bit on.
    fn pack(self, values: &[i32]) -> Vec<u8> {
        let mut bytes = vec![0; (values.len() * self.width()).div_ceil(8)];
        for (i, v) in values.iter().enumerate() {
            for (j, byte) in self.bits(*v).to_le_bytes().iter().enumerate().take(self.width().div_ceil(8)) {
                let at = i * self.width() + 8 * j;
                bytes[at / 8] |= byte << (at % 8);
            }
        }
        bytes
    }

    /// The bits of an integer that it holds.
    fn bits(self, v: i32) -> u64 {
        let x = f64::from(v);
        match self {
            B1 => u64::from(v as u32 & 1),
            S4 | U4 => u64::from(v as u32 & 0xf),
            S8 | U8 => u64::from(v as u32 & 0xff),
            S32 => u64::from(v as u32),
            E4m3 => E4M3.round(x).into(),
            E5m2 => E5M2.round(x).into(),
            Half => F16.round(x).into(),
            Bf16 => BF16.round(x).into(),
            Tf32 | F32 => (v as f32).to_bits().into(),
            F64 => x.to_bits(),
        }
    }

    fn class(self) -> &'static str {
        if self == F64 { "b64" } else { "b32" }
    }
}

/// A product of m × n sums over k, and what it starts from.
#[derive(Clone, Copy)]
struct Product {
    shape: [usize; 3],
    a: Element,
    b: Element,
    sum: Element,
    saturate: bool,
    /// Bits count where they differ, not where both are set.
    differing: bool,
}

struct Matrices {
    a: Vec<i32>,
    b: Vec<i32>,
    c: Vec<i32>,
    exact: Vec<i32>,
}

impl Product {
    fn new(shape: [usize; 3], a: Element, b: Element, sum: Element) -> Product {
        Product { shape, a, b, sum, saturate: false, differing: false }
    }

    /// A by rows, B by columns, C and the result by rows.
    fn draw(&self) -> Matrices {
        let [m, n, k] = self.shape;
        let mut stream = Stream((m + n * 3 + k * 7) as u64);
        let mut draw = |count: usize, ty: Element| -> Vec<i32> {
            let one = |raw: u64| match ty {
                B1 => (raw & 1) as i32,
                S4 => (raw % 16) as i32 - 8,
                U4 => (raw % 16) as i32,
                S8 => i32::from(raw as i8),
                U8 => i32::from(raw as u8),
                E5m2 => (raw % 7) as i32 - 3,
                _ => (raw % 9) as i32 - 4,
            };
            (0..count).map(|_| one(stream.next())).collect()
        };
        let (a, b, mut c) = (draw(m * k, self.a), draw(n * k, self.b), draw(m * n, self.sum));
        if self.saturate {
            c.iter_mut().enumerate().for_each(|(i, c)| *c += if i % 2 == 0 { i32::MAX - 9 } else { i32::MIN + 9 });
        }
        let term = |a: i32, b: i32| if self.differing { a ^ b } else { a * b };
        let dot = |i: usize| (0..k).map(|j| term(a[i / n * k + j], b[i % n * k + j])).sum::<i32>();
        let exact = (0..m * n).map(|i| c[i].saturating_add(dot(i))).collect();
        Matrices { a, b, c, exact }
    }

    fn expected(&self, exact: &[i32]) -> Expected {
        let bytes = self.sum.pack(exact);
        if self.sum == F64 {
            return Expected::Wides(bytes.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect());
        }
        Expected::Words(bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect())
    }

    /// `mma`: registers come and go in the order of lanes.
    fn mma(&self, sm: u32) -> Kernel {
        let [m, n, k] = self.shape;
        let Matrices { a, b, c, exact } = self.draw();
        // Lines go by eights, four lanes share one; each register holds neighbours along k.
        let factor = |list: &[i32], lines: usize, ty: Element, lane: usize| -> Vec<u8> {
            let per = (32 / ty.width()).max(1);
            let registers = lines * k / 32 / per;
            let element = |i: usize| {
                let (r, e) = (i / per, i % per);
                let (line, depth) = (lane / 4 + r % (lines / 8) * 8, (lane % 4 + r / (lines / 8) * 4) * per + e);
                list[line * k + depth]
            };
            ty.pack(&(0..registers * per).map(element).collect::<Vec<i32>>())
        };
        let sums = |list: &[i32], lane: usize| -> Vec<i32> {
            let place = |i: usize| (lane / 4 + i / 2 * 8) * n + lane % 4 * 2 + i % 2;
            (0..m * n / 32).map(|i| list[place(i)]).collect()
        };
        let mut input = Vec::new();
        let mut output = Vec::new();
        for lane in 0..32 {
            input.extend(factor(&a, m, self.a, lane));
            input.extend(factor(&b, n, self.b, lane));
            input.extend(self.sum.pack(&sums(&c, lane)));
            output.extend(sums(&exact, lane));
        }
        let size = |ty: Element, count: usize| count * ty.width() / if ty == F64 { 64 } else { 32 };
        let counts = [
            size(self.a, m * k / 32),
            size(self.b, n * k / 32),
            size(self.sum, m * n / 32),
            size(self.sum, m * n / 32),
        ];
        let class = self.sum.class();
        let word = if class == "b64" { 8 } else { 4 };
        let total: usize = counts[..3].iter().sum();
        let mut text = begin(sm, 2);
        let _ = writeln!(text, "  .reg .{class} %v<64>;\n  ld.param.u64 %x0, [p0];");
        let _ = writeln!(text, "  mad.wide.u32 %x1, %lane, {}, %x0;", total * word);
        let mut lists = Vec::new();
        let mut next = 0;
        for count in counts {
            let names: Vec<String> = (next..next + count).map(|i| format!("%v{i}")).collect();
            next += count;
            lists.push(names);
        }
        for (i, name) in lists[..3].concat().iter().enumerate() {
            let _ = writeln!(text, "  ld.global.{class} {name}, [%x1+{}];", i * word);
        }
        let [a, b, c, d] = [0, 1, 2, 3].map(|i: usize| lists[i].join(", "));
        let _ = writeln!(text, "  {} {{{d}}}, {{{a}}}, {{{b}}}, {{{c}}};", self.instruction());
        let _ = writeln!(text, "  ld.param.u64 %x0, [p1];\n  mad.wide.u32 %x1, %lane, {}, %x0;", counts[3] * word);
        for (i, name) in lists[3].iter().enumerate() {
            let _ = writeln!(text, "  st.global.{class} [%x1+{}], {name};", i * word);
        }
        let name = format!("mma.m{m}n{n}k{k}.{}.{}.{}", self.sum.name(), self.a.name(), self.b.name());
        let name = if self.saturate { name + ".satfinite" } else { name };
        let name = if self.differing { name + ".xor" } else { name };
        Kernel::new(name, sm, text + "  ret;\n}\n", vec![input], self.expected(&output))
    }

    fn instruction(&self) -> String {
        let [m, n, k] = self.shape;
        let [a, b, sum] = [self.a, self.b, self.sum].map(Element::name);
        let saturate = if self.saturate { ".satfinite" } else { "" };
        format!("mma.sync.aligned.m{m}n{n}k{k}.row.col{saturate}.{sum}.{a}.{b}.{sum}{}", self.counting())
    }

    /// What products of single bits count.
    fn counting(&self) -> &'static str {
        match (self.a, self.differing) {
            (B1, true) => ".xor.popc",
            (B1, false) => ".and.popc",
            _ => "",
        }
    }

    /// `wmma`, matrices in memory by rows or by columns as `columns` says of A, B, and C with the result; lines are four
    /// fragments' rows apart.
    fn wmma(&self, sm: u32, columns: [bool; 3]) -> Kernel {
        let [m, n, k] = self.shape;
        let Matrices { a, b, c, exact } = self.draw();
        let gap = 32;
        // The element at (row, column) of `list` by rows of `width`, in lines with a gap behind each.
        let laid = |list: &dyn Fn(usize, usize) -> i32, rows: usize, width: usize, across: bool, ty: Element| {
            let (lines, length) = if across { (width, rows) } else { (rows, width) };
            let line = |i: usize| {
                let element = move |j: usize| match (j < length, across) {
                    (true, false) => list(i, j),
                    (true, true) => list(j, i),
                    _ => 0,
                };
                ty.pack(&(0..length + gap).map(element).collect::<Vec<i32>>())
            };
            (0..lines).flat_map(line).collect::<Vec<u8>>()
        };
        let inputs = vec![
            laid(&|i, j| a[i * k + j], m, k, columns[0], self.a),
            laid(&|i, j| b[j * k + i], k, n, columns[1], self.b),
            laid(&|i, j| c[i * n + j], m, n, columns[2], self.sum),
        ];
        let doubled: Vec<i32> = exact.iter().zip(&c).map(|(sum, c)| 2 * sum - c).collect();
        let by_rows: Vec<i32> =
            if columns[2] { (0..m * n).map(|i| doubled[i % m * n + i / m]).collect() } else { doubled };
        let mut text = begin(sm, 4);
        let registers = |ty: Element, count: usize| match ty {
            Half => 8,
            F64 => 1,
            ty => count * ty.width() / 1024,
        };
        let sums = m * n * self.sum.width() / 32 / if self.sum == F64 { 64 } else { 32 };
        let counts = [registers(self.a, m * k), registers(self.b, n * k), sums];
        let types = [self.a, self.b, self.sum];
        let layout = |side: usize| if columns[side] { "col" } else { "row" };
        let shape = format!("m{m}n{n}k{k}");
        let mut lists = Vec::new();
        for (side, part) in ["a", "b", "c"].iter().enumerate() {
            let _ = writeln!(text, "  .reg .{} %{part}<{}>;", types[side].class(), counts[side]);
            let list: Vec<String> = (0..counts[side]).map(|i| format!("%{part}{i}")).collect();
            lists.push(list.join(", "));
            let [lines, across] = [[m, k], [k, n], [m, n]][side];
            let stride = if columns[side] { lines } else { across } + gap;
            let _ = writeln!(text, "  ld.param.u64 %x0, [p{side}];\n  mov.u32 %t, {stride};");
            let _ = writeln!(
                text,
                "  wmma.load.{part}.sync.aligned.{}.{shape}.global.{} {{{}}}, [%x0], %t;",
                layout(side),
                types[side].name(),
                lists[side]
            );
        }
        let [a, b, c] = [&lists[0], &lists[1], &lists[2]];
        let sum = self.sum.name();
        let types = match self.a {
            Half => format!("{sum}.{sum}"),
            F64 => "f64.f64.f64.f64".to_owned(),
            _ => format!("{sum}.{}.{}.{sum}", self.a.name(), self.b.name()),
        };
        let counting = self.counting();
        let mma = format!("  wmma.mma{counting}.sync.aligned.{}.{}.{shape}.{types}", layout(0), layout(1));
        // Twice, the second time onto the first sums.
        for _ in 0..2 {
            let _ = writeln!(text, "{mma} {{{c}}}, {{{a}}}, {{{b}}}, {{{c}}};");
        }
        let _ = writeln!(
            text,
            "  ld.param.u64 %x0, [p3];\n  wmma.store.d.sync.aligned.{}.{shape}.global.{sum} [%x0], {{{c}}};\n  ret;\n}}",
            layout(2)
        );
        let majors: String = columns.iter().map(|c| if *c { 'c' } else { 'r' }).collect();
        let name = format!("wmma.{shape}.{sum}.{}{counting}.{majors}", self.a.name());
        Kernel::new(name, sm, text, inputs, self.expected(&by_rows))
    }
}

/// The opening of a kernel in a text new enough for 8-bit floats.
fn begin(sm: u32, params: usize) -> String {
    let text = header(sm, params).replace("%a, %b, %c, %d, ", "");
    text.replacen(".version 7.8", ".version 8.7", 1).replacen(".version 8.0", ".version 8.7", 1)
}

pub(super) fn kernels() -> Vec<Kernel> {
    let mut all = Vec::new();
    for (a, b) in [(S8, S8), (U8, S8), (U8, U8)] {
        for shape in [[8, 8, 16], [16, 8, 16], [16, 8, 32]] {
            all.push(Product::new(shape, a, b, S32).mma(80));
        }
    }
    all.push(Product { saturate: true, ..Product::new([16, 8, 32], S8, U8, S32) }.mma(80));
    for (a, b) in [(S4, S4), (S4, U4), (U4, U4)] {
        for shape in [[8, 8, 32], [16, 8, 32], [16, 8, 64]] {
            all.push(Product::new(shape, a, b, S32).mma(80));
        }
    }
    all.push(Product { saturate: true, ..Product::new([16, 8, 64], U4, S4, S32) }.mma(80));
    for differing in [false, true] {
        for shape in [[8, 8, 128], [16, 8, 128], [16, 8, 256]] {
            all.push(Product { differing, ..Product::new(shape, B1, B1, S32) }.mma(80));
        }
        for columns in [[false, true, false], [false, true, true]] {
            all.push(Product { differing, ..Product::new([8, 8, 128], B1, B1, S32) }.wmma(80, columns));
        }
    }
    for ty in [S4, U4] {
        all.push(Product::new([8, 8, 32], ty, ty, S32).wmma(80, [false, true, false]));
    }
    for (a, b) in [(E4m3, E4m3), (E4m3, E5m2), (E5m2, E5m2)] {
        all.push(Product::new([16, 8, 32], a, b, F32).mma(89));
        all.push(Product::new([16, 8, 16], a, b, F32).mma(89));
        all.push(Product::new([16, 8, 32], a, b, Half).mma(89));
    }
    all.push(Product::new([8, 8, 4], F64, F64, F64).mma(80));
    all.extend([4, 8, 16].map(|k| Product::new([16, 8, k], F64, F64, F64).mma(90)));
    let layouts = [[false, false, false], [true, true, true], [false, true, false], [true, false, true]];
    for shape in [[16, 16, 16], [8, 32, 16], [32, 8, 16]] {
        for (ty, sum) in [(Half, F32), (Half, Half), (Bf16, F32), (S8, S32), (U8, S32)] {
            all.extend(layouts.map(|columns| Product::new(shape, ty, ty, sum).wmma(80, columns)));
        }
    }
    all.extend(layouts.map(|columns| Product::new([16, 16, 8], Tf32, Tf32, F32).wmma(80, columns)));
    all.extend(layouts.map(|columns| Product::new([8, 8, 4], F64, F64, F64).wmma(80, columns)));
    all
}
