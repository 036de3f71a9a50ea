//! Which 32-byte sectors of the launch's buffers were touched at all: one bit each for reads and writes.

use crate::memory::{Memory, WINDOW_BITS};
use std::ops::RangeInclusive;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a sector, as a power of two.
pub(crate) const SECTOR_BITS: u32 = 5;

/// A bit for every sector of one buffer; made when the first is set.
#[derive(Debug)]
struct Touched {
    words: usize,
    bits: OnceLock<Vec<AtomicU64>>,
}

impl Touched {
    fn set(&self, sectors: RangeInclusive<u64>) {
        let bits = self.bits.get_or_init(|| (0..self.words).map(|_| AtomicU64::new(0)).collect());
        for sector in sectors {
            let Some(word) = bits.get((sector / 64) as usize) else { return };
            let bit = 1 << (sector % 64);
            // Most sectors are touched again and again: look before writing.
            if word.load(Ordering::Relaxed) & bit == 0 {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
    }

    fn count(&self) -> u64 {
        let words = self.bits.get().into_iter().flatten();
        words.map(|word| u64::from(word.load(Ordering::Relaxed).count_ones())).sum()
    }
}

/// The sectors of all buffers, for all blocks of a launch at once: read, and written.
#[derive(Debug, Default)]
pub(crate) struct Footprint {
    buffers: Vec<[Touched; 2]>,
}

impl Footprint {
    pub(crate) fn new(memory: &Memory) -> Self {
        let touched = |bytes: usize| Touched { words: bytes.div_ceil(64 << SECTOR_BITS), bits: OnceLock::new() };
        let buffers = memory.buffers.iter().map(|b| b.bytes.as_slice().len());
        Self { buffers: buffers.map(|bytes| [touched(bytes), touched(bytes)]).collect() }
    }

    /// Notes that sectors of one buffer, given by address, were read or written.
    #[inline]
    pub(crate) fn touch(&self, sectors: RangeInclusive<u64>, read: bool, written: bool) {
        let (first, last) = sectors.into_inner();
        let window = first >> (WINDOW_BITS - SECTOR_BITS);
        let Some(buffer) = window.checked_sub(1).and_then(|w| self.buffers.get(usize::try_from(w).ok()?)) else {
            return;
        };
        let start = window << (WINDOW_BITS - SECTOR_BITS);
        for (touched, on) in buffer.iter().zip([read, written]) {
            if on {
                touched.set(first - start..=last - start);
            }
        }
    }

    /// Sectors read and sectors written, each counted once.
    pub(crate) fn count(&self) -> [u64; 2] {
        [0, 1].map(|side| self.buffers.iter().map(|b| b[side].count()).sum())
    }
}
