//! Decoding of warp-level matrix products: `mma` and `wmma`.

use crate::exec::tiles::registers;
use crate::isa::decode::{Decoder, Res};
use crate::isa::inst::{Factor, Fragment, Matrix, Mem, Op, Part, Slot, Space, Tiled};
use crate::num::Type;

impl Decoder<'_, '_> {
    /// A modifier like `m16n8k32`, taken.
    fn shape(&mut self) -> Res<[u16; 3]> {
        let parsed = |m: &str| {
            let (m, rest) = m.strip_prefix('m')?.split_once('n')?;
            let (n, k) = rest.split_once('k')?;
            Some([m.parse().ok()?, n.parse().ok()?, k.parse().ok()?])
        };
        let found = self.mods.iter().enumerate().find_map(|(i, m)| Some((i, parsed(m)?)));
        let (i, shape) = self.need(found)?;
        self.mods.remove(i);
        Ok(shape)
    }

    /// `mma`, its `sync` and `aligned` taken.
    pub(crate) fn mma(&mut self) -> Res<Op> {
        let [m, n, k] = self.shape()?;
        if !self.take("row") || !self.take("col") || self.types.len() != 4 {
            return self.unknown();
        }
        let [sum, a, b, start] = [self.ty(0)?, self.ty(1)?, self.ty(2)?, self.ty(3)?];
        let factor = match a {
            Type::Bf16 => Factor::Bf16,
            Type::F16 => Factor::F16,
            Type::Tf32 => Factor::Tf32,
            _ => return self.tiled([m, n, k], [a, b], sum, start, &[]),
        };
        let legal = if factor == Factor::Tf32 { matches!(k, 4 | 8) } else { matches!(k, 8 | 16) };
        if !legal || (m, n) != (16, 8) || b != a || start != sum {
            return self.unknown();
        }
        let (d, a, b, c) = (self.dst_words(0)?, self.src_words(1)?, self.src_words(2)?, self.src_words(3)?);
        let words = usize::from(if factor == Factor::Tf32 { k / 4 } else { k / 8 });
        if a.len() != 2 * words || b.len() != words {
            return self.unknown();
        }
        match (sum, &d[..], &c[..]) {
            (Type::F32, &[d0, d1, d2, d3], &[c0, c1, c2, c3]) => {
                Ok(Op::Matrix(Matrix::Mma { factor, k, d: [d0, d1, d2, d3], a, b, c: [c0, c1, c2, c3] }))
            }
            (Type::F16, &[d0, d1], &[c0, c1]) if factor == Factor::F16 => {
                Ok(Op::Matrix(Matrix::MmaF16 { k, d: [d0, d1], a, b, c: [c0, c1] }))
            }
            _ => self.unknown(),
        }
    }

    /// Sources or destinations of a product's part.
    fn slots(&mut self, n: usize, ty: Type, write: bool) -> Res<Vec<Slot>> {
        let wide = if ty == Type::F64 { Type::F64 } else { Type::B32 };
        let elements = self.elements(n)?;
        if write {
            elements.iter().map(|o| self.dest(o, wide.bytes() == 8)).collect()
        } else {
            elements.iter().map(|o| self.source(o, wide)).collect()
        }
    }

    /// A product of general shape; `twice` holds the types whose factors fill more registers than they need.
    fn tiled(&mut self, shape: [u16; 3], factors: [Type; 2], sum: Type, start: Type, twice: &[Type]) -> Res<Op> {
        let saturate = self.take("satfinite");
        self.take("rn");
        let bytes = |t: &Type| matches!(t, Type::S8 | Type::U8);
        let nibbles = |t: &Type| matches!(t, Type::S4 | Type::U4);
        let differing = factors == [Type::B1; 2] && self.take("xor");
        if factors == [Type::B1; 2] && (!self.take("popc") || !differing && !self.take("and")) {
            return self.unknown();
        }
        let floats = |t: &Type| matches!(t, Type::E4m3 | Type::E5m2);
        let wmma = !twice.is_empty();
        let big = matches!(shape, [16, 16, 16] | [8, 32, 16] | [32, 8, 16]);
        let half = |t: Type| matches!(t, Type::F16 | Type::F32);
        let legal = match (factors, wmma) {
            ([Type::F64, Type::F64], false) => matches!(shape, [8, 8, 4] | [16, 8, 4 | 8 | 16]) && sum == Type::F64,
            ([Type::F64, Type::F64], true) => shape == [8, 8, 4] && sum == Type::F64,
            ([Type::F16, Type::F16], true) => big && half(sum) && half(start),
            ([Type::Bf16, Type::Bf16], true) => big && sum == Type::F32,
            ([Type::Tf32, Type::Tf32], true) => shape == [16, 16, 8] && sum == Type::F32,
            (f, true) if f.iter().all(bytes) => big && f[0] == f[1] && sum == Type::S32,
            (f, false) if f.iter().all(bytes) => matches!(shape, [8 | 16, 8, 16] | [16, 8, 32]) && sum == Type::S32,
            (f, false) if f.iter().all(nibbles) => matches!(shape, [8 | 16, 8, 32] | [16, 8, 64]) && sum == Type::S32,
            (f, true) if f.iter().all(nibbles) => shape == [8, 8, 32] && f[0] == f[1] && sum == Type::S32,
            ([Type::B1, Type::B1], false) => matches!(shape, [8 | 16, 8, 128] | [16, 8, 256]) && sum == Type::S32,
            ([Type::B1, Type::B1], true) => shape == [8, 8, 128] && sum == Type::S32,
            (f, false) if f.iter().all(floats) => matches!(shape, [16, 8, 16 | 32]) && half(sum),
            _ => false,
        };
        let mixed = wmma && factors[0] == Type::F16;
        if !legal || (start != sum && !mixed) || (saturate && (sum != Type::S32 || factors[0] == Type::B1)) {
            return self.unknown();
        }
        let [m, n, k] = shape.map(usize::from);
        let t = Tiled {
            m: shape[0],
            n: shape[1],
            k: shape[2],
            factors,
            sum,
            start,
            saturate,
            differing,
            d: self.slots(0, sum, true)?,
            a: self.slots(1, factors[0], false)?,
            b: self.slots(2, factors[1], false)?,
            c: self.slots(3, start, false)?,
        };
        let factor = |lines: usize, ty: Type| if twice.contains(&ty) { 8 } else { registers(lines, k, ty) };
        let sums = |ty: Type| registers(m, n, ty);
        let fits = t.a.len() == factor(m, factors[0]) && t.b.len() == factor(n, factors[1]);
        if !fits || t.d.len() != sums(sum) || t.c.len() != sums(start) {
            return self.unknown();
        }
        Ok(Op::Matrix(Matrix::Tiled(Box::new(t))))
    }

    /// `wmma`: loads, stores and products.
    pub(crate) fn wmma(&mut self) -> Res<Op> {
        let what = self.pick(&[("load", 0), ("store", 1), ("mma", 2)]);
        let what = self.need(what)?;
        if what == 2 {
            if !self.take("sync") || !self.take("aligned") {
                return self.unknown();
            }
            // How the factors lay in memory is over with the loads.
            for _ in 0..2 {
                if !self.take("row") && !self.take("col") {
                    return self.unknown();
                }
            }
            let shape = self.shape()?;
            let (sum, factors, start) = match self.types[..] {
                [sum, start] => (sum, [Type::F16; 2], start),
                [sum, a, b, start] => (sum, [a, b], start),
                _ => return self.unknown(),
            };
            return self.tiled(shape, factors, sum, start, &[Type::F16]);
        }
        let store = what == 1;
        let part = self.pick(&[("a", 'a'), ("b", 'b'), ("c", 'c'), ("d", 'd')]);
        let part = self.need(part)?;
        if !self.take("sync") || !self.take("aligned") || (part == 'd') != store {
            return self.unknown();
        }
        let row = self.take("row");
        if !row && !self.take("col") {
            return self.unknown();
        }
        let [m, n, k] = self.shape()?;
        let space = self.space()?;
        let ty = self.ty(0)?;
        let big = matches!([m, n, k], [16, 16, 16] | [8, 32, 16] | [32, 8, 16]);
        let factor = matches!(part, 'a' | 'b');
        let legal = match (ty, factor) {
            (Type::F16, _) | (Type::Bf16 | Type::S8 | Type::U8, true) => big,
            (Type::S32, false) => big || matches!([m, n, k], [8, 8, 32 | 128]),
            // Less than a byte lies along the depth alone.
            (Type::S4 | Type::U4, true) => [m, n, k] == [8, 8, 32] && row == (part == 'a'),
            (Type::B1, true) => [m, n, k] == [8, 8, 128] && row == (part == 'a'),
            (Type::F32, false) => big || [m, n, k] == [16, 16, 8],
            (Type::Tf32, true) => [m, n, k] == [16, 16, 8],
            (Type::F64, _) => [m, n, k] == [8, 8, 4],
            _ => false,
        };
        if !legal || !matches!(space, Space::Generic | Space::Global | Space::Shared) {
            return self.unknown();
        }
        let (lines, depth, across) = match part {
            'a' => (m, k, !row),
            'b' => (n, k, row),
            _ => (m, n, !row),
        };
        let regs = self.slots(usize::from(store), ty, !store)?;
        let needed = if factor && ty == Type::F16 { 8 } else { registers(lines.into(), depth.into(), ty) };
        if regs.len() != needed {
            return self.unknown();
        }
        let at = self.addr(usize::from(!store))?;
        let stride = if self.count() > 2 { Some(self.src(2, Type::B32)?) } else { None };
        let part = if factor { Part::Factor } else { Part::Sum };
        Ok(Op::Mem(Mem::Fragment(Box::new(Fragment {
            store,
            part,
            lines,
            depth,
            ty,
            across,
            space,
            at,
            stride,
            regs,
        }))))
    }
}
