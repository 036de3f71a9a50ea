//! `mma.sync` fragments and sums: small integers, exact in any order, and random values within the sum's bound.
//!
//! Fragment layouts: PTX ISA, "Matrix fragments for mma.m16n8k16" and "for mma.m16n8k8" (tf32).

use super::convert::{BF16, F16, Format};
use super::edges::Stream;
use super::ptx::{header, words};
use super::{Expected, Kernel};

/// One shape: K, elements packed per register, and how an element is rounded to bits and read back.
struct Shape {
    name: &'static str,
    instruction: &'static str,
    k: usize,
    per_word: usize,
    round: fn(f64) -> u32,
    value: fn(u32) -> f64,
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
    },
    Shape {
        name: "mma.m16n8k16.f16",
        instruction: "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
        k: 16,
        per_word: 2,
        round: |x| F16.round(x),
        value: |b| halves(F16, b),
    },
    Shape {
        name: "mma.m16n8k8.bf16",
        instruction: "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32",
        k: 8,
        per_word: 2,
        round: |x| BF16.round(x),
        value: |b| halves(BF16, b),
    },
    Shape {
        name: "mma.m16n8k8.tf32",
        instruction: "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32",
        k: 8,
        per_word: 1,
        round: |x| (x as f32).to_bits() & !0x1fff,
        value: |b| f64::from(f32::from_bits(b)),
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

    fn kernel(&self, integers: bool) -> Kernel {
        let mut stream = Stream(31 + self.k as u64);
        let mut draw = |limit: u64| {
            let raw = stream.next();
            if integers { (raw % limit) as f64 - (limit / 2) as f64 } else { (raw >> 11) as f64 / 2f64.powi(52) - 1.0 }
        };
        let a: Vec<u32> = (0..16 * self.k).map(|_| (self.round)(draw(17))).collect();
        let b: Vec<u32> = (0..self.k * 8).map(|_| (self.round)(draw(17))).collect();
        let c: Vec<f32> = (0..16 * 8).map(|_| draw(101) as f32).collect();
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
        let (mut input, mut exact, mut bound) = (Vec::new(), Vec::new(), Vec::new());
        for lane in 0..32 {
            input.extend(registers(lane));
            for r in 0..4 {
                let (row, column) = place(lane, r);
                let start = c[row * 8 + column];
                input.push(start.to_bits());
                let products = (0..self.k).map(|k| (self.value)(a[row * self.k + k]) * (self.value)(b[k * 8 + column]));
                let (sum, size) = products.fold((0.0, 0.0), |(sum, size): (f64, f64), p| (sum + p, size + p.abs()));
                exact.push(sum + f64::from(start));
                bound.push(self.k as f64 * 2f64.powi(-23) * (size + f64::from(start).abs()));
            }
        }
        let expected = if integers {
            Expected::Words(exact.iter().map(|x| (*x as f32).to_bits()).collect())
        } else {
            Expected::Sums { exact, bound }
        };
        let kind = if integers { "integers" } else { "random" };
        let name = format!("{}.{kind}", self.name);
        Kernel::new(name, 80, self.ptx(counts), vec![words(&input)], expected)
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
    SHAPES.iter().flat_map(|shape| [shape.kernel(true), shape.kernel(false)]).collect()
}
