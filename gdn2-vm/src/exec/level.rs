//! Code compiled three times and chosen at run time by what the processor has: baseline, AVX2 with FMA, AVX-512.

use crate::exec::alu;
use crate::exec::fused::{self, Unit};
use crate::exec::lanes::{Regs, Wide, Word};
use crate::exec::mma;
use crate::isa::inst::{Alu, Factor};

/// Which of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Base,
    #[cfg(target_arch = "x86_64")]
    V3,
    #[cfg(target_arch = "x86_64")]
    V4,
}

impl Level {
    /// The best this processor runs.
    pub(crate) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let v3 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let v4 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq");
            if v3 && v4 {
                return Self::V4;
            }
            if v3 {
                return Self::V3;
            }
        }
        Self::Base
    }
}

/// Defines a function that runs `body::<has FMA>` compiled for the level; the results are the same at every level.
macro_rules! by_level {
    ($(#[$doc:meta])* $name:ident($($a:ident: $t:ty),*) $(-> $r:ty)? = $($body:ident)::+) => {
        $(#[$doc])*
        #[inline]
        pub(crate) fn $name(level: Level, $($a: $t),*) $(-> $r)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn v3($($a: $t),*) $(-> $r)? {
                    $($body)::+::<true>($($a),*)
                }
                #[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq")]
                fn v4($($a: $t),*) $(-> $r)? {
                    $($body)::+::<true>($($a),*)
                }
                match level {
                    // SAFETY: the level is what `Level::detect` found.
                    Level::V4 => return unsafe { v4($($a),*) },
                    // SAFETY: as above.
                    Level::V3 => return unsafe { v3($($a),*) },
                    Level::Base => {}
                }
            }
            $($body)::+::<false>($($a),*)
        }
    };
}

by_level! {
    /// One register-to-register instruction.
    alu(regs: &mut Regs, mask: u32, op: &Alu) = alu::run
}

by_level! {
    /// The 16 x 8 product of two fragments, of the depth that b's words hold, plus c, as a fragment.
    mma(unit: &Unit, factor: Factor, a: &[&Word], b: &[&Word], c: &[Word; 4]) -> [Word; 4] = mma::product
}

by_level! {
    /// See [`fused::add`].
    add(unit: &Unit, a: &[f32], depth: usize, b: &[f32], n: usize, sums: &mut [f32]) = fused::add
}

/// What a warp's addresses span.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// All addresses ORed.
    pub(crate) low: u64,
    /// The largest distance from the base.
    pub(crate) high: u64,
    /// Each lane starts where the lane before it ends.
    pub(crate) dense: bool,
}

by_level! {
    /// The addresses of the lanes in `mask` without their tag (the others repeat the first), and their span.
    span(at: &Wide, mask: u32, tag: u64, base: u64, bytes: u32, out: &mut Wide) -> Span = span_of
}

#[inline(always)]
fn span_of<const FMA: bool>(at: &Wide, mask: u32, tag: u64, base: u64, bytes: u32, out: &mut Wide) -> Span {
    let lead = at[(mask.trailing_zeros() & 31) as usize];
    let (mut low, mut high, mut odd) = (0, 0, 0);
    for i in 0..32 {
        let a = if mask >> i & 1 != 0 { at[i] } else { lead } ^ tag;
        out[i] = a;
        low |= a;
        high = a.wrapping_sub(base).max(high);
        odd |= a.wrapping_sub(lead ^ tag) ^ (i as u64 * u64::from(bytes));
    }
    Span { low, high, dense: odd == 0 }
}
