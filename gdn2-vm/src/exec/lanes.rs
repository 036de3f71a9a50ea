//! Warp-wide registers and the loops over their 32 lanes.

/// A 32-bit register of a warp.
pub(crate) type Word = [u32; 32];
/// A 64-bit register of a warp.
pub(crate) type Wide = [u64; 32];

/// Writes the lanes in `mask`.
#[inline(always)]
pub(crate) fn put<T: Copy>(d: &mut [T; 32], v: &[T; 32], mask: u32) {
    if mask == u32::MAX {
        *d = *v;
    } else {
        for i in 0..32 {
            if mask >> i & 1 != 0 {
                d[i] = v[i];
            }
        }
    }
}

/// The lanes of `mask`, ascending.
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut m = mask;
    std::iter::from_fn(move || {
        if m == 0 {
            return None;
        }
        let i = m.trailing_zeros() as usize;
        m &= m - 1;
        Some(i)
    })
}

/// The mask of lanes for which `f` holds.
#[inline(always)]
pub(crate) fn mask_of(f: impl Fn(usize) -> bool) -> u32 {
    let mut m = 0;
    for i in 0..32 {
        m |= u32::from(f(i)) << i;
    }
    m
}

/// The three register files of a warp.
#[derive(Debug, Default)]
pub(crate) struct Regs {
    pub(crate) p: Vec<u32>,
    pub(crate) r: Vec<Word>,
    pub(crate) x: Vec<Wide>,
}

impl Regs {
    #[inline(always)]
    pub(crate) fn w1(&mut self, mask: u32, d: u32, a: u32, f: impl Fn(u32) -> u32) {
        let a = &self.r[a as usize];
        let mut o = [0; 32];
        for i in 0..32 {
            o[i] = f(a[i]);
        }
        put(&mut self.r[d as usize], &o, mask);
    }

    #[inline(always)]
    pub(crate) fn w2(&mut self, mask: u32, d: u32, a: u32, b: u32, f: impl Fn(u32, u32) -> u32) {
        let (a, b) = (&self.r[a as usize], &self.r[b as usize]);
        let mut o = [0; 32];
        for i in 0..32 {
            o[i] = f(a[i], b[i]);
        }
        put(&mut self.r[d as usize], &o, mask);
    }

    #[inline(always)]
    pub(crate) fn w3(&mut self, mask: u32, d: u32, abc: [u32; 3], f: impl Fn(u32, u32, u32) -> u32) {
        let [a, b, c] = abc.map(|s| &self.r[s as usize]);
        let mut o = [0; 32];
        for i in 0..32 {
            o[i] = f(a[i], b[i], c[i]);
        }
        put(&mut self.r[d as usize], &o, mask);
    }

    #[inline(always)]
    pub(crate) fn x1(&mut self, mask: u32, d: u32, a: u32, f: impl Fn(u64) -> u64) {
        let a = &self.x[a as usize];
        let mut o = [0; 32];
        for i in 0..32 {
            o[i] = f(a[i]);
        }
        put(&mut self.x[d as usize], &o, mask);
    }

    #[inline(always)]
    pub(crate) fn x2(&mut self, mask: u32, d: u32, a: u32, b: u32, f: impl Fn(u64, u64) -> u64) {
        let (a, b) = (&self.x[a as usize], &self.x[b as usize]);
        let mut o = [0; 32];
        for i in 0..32 {
            o[i] = f(a[i], b[i]);
        }
        put(&mut self.x[d as usize], &o, mask);
    }

    /// A float operation on two words.
    #[inline(always)]
    pub(crate) fn f2(&mut self, mask: u32, d: u32, a: u32, b: u32, f: impl Fn(f32, f32) -> f32) {
        self.w2(mask, d, a, b, |a, b| {
            let r = f(f32::from_bits(a), f32::from_bits(b));
            if r.is_nan() { crate::num::NAN32 } else { r.to_bits() }
        });
    }

    /// A predicate from two words: lanes outside `mask` keep theirs.
    #[inline(always)]
    pub(crate) fn compare(&mut self, mask: u32, p: u32, a: u32, b: u32, f: impl Fn(u32, u32) -> bool) {
        let (a, b) = (&self.r[a as usize], &self.r[b as usize]);
        let m = mask_of(|i| f(a[i], b[i]));
        self.set_pred(p, m, mask);
    }

    #[inline(always)]
    pub(crate) fn set_pred(&mut self, p: u32, value: u32, mask: u32) {
        let p = &mut self.p[p as usize];
        *p = (*p & !mask) | (value & mask);
    }

    #[inline(always)]
    pub(crate) fn set_word(&mut self, d: u32, mask: u32, f: impl Fn(usize) -> u32) {
        let d = &mut self.r[d as usize];
        for (i, d) in d.iter_mut().enumerate() {
            if mask >> i & 1 != 0 {
                *d = f(i);
            }
        }
    }
}
