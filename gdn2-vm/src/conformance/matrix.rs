//! `mma.sync` fragments and sums: small integers, exact in any order, and numbers of all sizes, whose sums depend on the
//! architecture.
//!
//! Fragment layouts: PTX ISA, "Matrix fragments for mma.m16n8k16" and "for mma.m16n8k8" (tf32).

use super::convert::{BF16, F16, Format};
use super::edges::Stream;
use super::ptx::{header, words};
use super::sums::{Sums, element};
use super::{Expected, Kernel};

/// One shape: K, elements packed per register, and how an element is rounded to bits and read back.
struct Shape {
    name: &'static str,
    instruction: &'static str,
    k: usize,
    per_word: usize,
    round: fn(f64) -> u32,
    value: fn(u32) -> f64,
    /// Smallest exponent of the format; factors of sizes up to 2^±reach are drawn.
    lowest: i32,
    reach: i32,
}

/// What is drawn, and the architectures whose sums are expected.
#[derive(Clone, Copy)]
enum Drawn {
    Integers,
    /// Ampere and Ada: half of the longer rows at once.
    Early,
    Late,
}

fn halves(format: Format, bits: u32) -> f64 {
    format.value(bits)
}

const SHAPES: [Shape; 4] = [
    Shape {
        name: "mma.m16n8k16.bf16",
        instruction: "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
        k: 16,
        per_word: 2,
        round: |x| BF16.round(x),
        value: |b| halves(BF16, b),
        lowest: -126,
        reach: 70,
    },
    Shape {
        name: "mma.m16n8k16.f16",
        instruction: "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
        k: 16,
        per_word: 2,
        round: |x| F16.round(x),
        value: |b| halves(F16, b),
        lowest: -14,
        reach: 16,
    },
    Shape {
        name: "mma.m16n8k8.bf16",
        instruction: "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32",
        k: 8,
        per_word: 2,
        round: |x| BF16.round(x),
        value: |b| halves(BF16, b),
        lowest: -126,
        reach: 70,
    },
    Shape {
        name: "mma.m16n8k8.tf32",
        instruction: "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32",
        k: 8,
        per_word: 1,
        round: |x| (x as f32).to_bits() & !0x1fff,
        value: |b| f64::from(f32::from_bits(b)),
        lowest: -126,
        reach: 70,
    },
];

impl Shape {
    /// (row, first k) of A register r in `lane`: row blocks of 8 alternate fastest, then halves of K.
    fn a(&self, lane: usize, r: usize) -> (usize, usize) {
        (lane / 4 + 8 * (r % 2), lane % 4 * self.per_word + r / 2 * 4 * self.per_word)
    }

    /// (first k, column) of B register r.
    fn b(&self, lane: usize, r: usize) -> (usize, usize) {
        (lane % 4 * self.per_word + r * 4 * self.per_word, lane / 4)
    }

    fn kernel(&self, drawn: Drawn) -> Kernel {
        let mut stream = Stream(31 + self.k as u64);
        let mut draw = |line: usize, at: usize, limit: u64, reach: i32| match drawn {
            Drawn::Integers => (stream.next() % limit) as f64 - (limit / 2) as f64,
            _ => element(&mut stream, line, at, reach),
        };
        let mut a: Vec<u32> = (0..16 * self.k).map(|i| (self.round)(draw(i / self.k, i, 17, self.reach))).collect();
        let b: Vec<u32> = (0..self.k * 8).map(|i| (self.round)(draw(i % 8, i / 8, 17, self.reach))).collect();
        let c: Vec<f32> = (0..16 * 8).map(|i| draw(i / 8 + i, i, 101, (2 * self.reach).min(100)) as f32).collect();
        if !matches!(drawn, Drawn::Integers) {
            // A row of infinity, and one of infinity and its negative.
            a[14 * self.k] = (self.round)(f64::INFINITY);
            a[15 * self.k] = (self.round)(f64::INFINITY);
            a[15 * self.k + 1] = (self.round)(f64::NEG_INFINITY);
        }
        let sums = |early: bool| Sums {
            group: if early { 8 / (3 - self.per_word) } else { self.k },
            bits: if early { 24 } else { 25 },
            kept: 23,
            lowest: self.lowest,
        };
        let pack = |elements: &[u32], at: &dyn Fn(usize) -> usize| {
            (0..self.per_word).fold(0u32, |acc, e| acc | elements[at(e)] << (16 * e))
        };
        let counts = (self.k / (4 * self.per_word) * 2, self.k / (4 * self.per_word));
        let registers = |lane: usize| {
            let a = &a;
            let b = &b;
            let left = (0..counts.0).map(move |r| {
                let (row, k) = self.a(lane, r);
                pack(a, &|e| row * self.k + k + e)
            });
            let right = (0..counts.1).map(move |r| {
                let (k, column) = self.b(lane, r);
                pack(b, &|e| (k + e) * 8 + column)
            });
            left.chain(right).collect::<Vec<_>>()
        };
        let place = |lane: usize, r: usize| (lane / 4 + r / 2 * 8, lane % 4 * 2 + r % 2);
        let (mut input, mut expected) = (Vec::new(), Vec::new());
        for lane in 0..32 {
            input.extend(registers(lane));
            for r in 0..4 {
                let (row, column) = place(lane, r);
                let start = c[row * 8 + column];
                input.push(start.to_bits());
                let factors = |k: usize| ((self.value)(a[row * self.k + k]), (self.value)(b[k * 8 + column]));
                let products: Vec<(f64, f64)> = (0..self.k).map(factors).collect();
                expected.push(match drawn {
                    Drawn::Integers => {
                        let sum = products.iter().fold(f64::from(start), |sum, (a, b)| sum + a * b);
                        (sum as f32).to_bits()
                    }
                    Drawn::Early => sums(true).of(&products, start.into()),
                    Drawn::Late => sums(false).of(&products, start.into()),
                });
            }
        }
        let (kind, sm, until) = match drawn {
            Drawn::Integers => ("integers", 80, u32::MAX),
            Drawn::Early => ("sums.ampere", 80, 89),
            Drawn::Late => ("sums.hopper", 90, u32::MAX),
        };
        let name = format!("{}.{kind}", self.name);
        Kernel { until, ..Kernel::new(name, sm, self.ptx(counts), vec![words(&input)], Expected::Words(expected)) }
    }

    fn ptx(&self, (left, right): (usize, usize)) -> String {
        let total = left + right + 4;
        let list = |from: usize, count: usize, name: &str| {
            let all: Vec<String> = (from..from + count).map(|i| format!("%{name}{i}")).collect();
            format!("{{{}}}", all.join(", "))
        };
        let mut text = header(80, 2);
        text += &format!("  ld.param.u64 %x0, [p0];\n  mad.wide.u32 %x1, %lane, {}, %x0;\n", total * 4);
        for i in 0..total {
            let register = if i < left + right { format!("%r{i}") } else { format!("%f{i}") };
            text += &format!("  ld.global.b32 {register}, [%x1+{}];\n", i * 4);
        }
        let (d, c) = (list(40, 4, "f"), list(left + right, 4, "f"));
        let (a, b) = (list(0, left, "r"), list(left, right, "r"));
        text += &format!("  {} {d}, {a}, {b}, {c};\n", self.instruction);
        text += "  ld.param.u64 %x0, [p1];\n  mad.wide.u32 %x1, %lane, 16, %x0;\n";
        text += &format!("  st.global.v4.f32 [%x1], {d};\n  ret;\n}}\n");
        text
    }
}

pub(super) fn kernels() -> Vec<Kernel> {
    let each = [Drawn::Integers, Drawn::Early, Drawn::Late];
    SHAPES.iter().flat_map(|shape| each.map(|drawn| shape.kernel(drawn))).collect()
}
