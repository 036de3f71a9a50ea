//! Who wrote which word of device memory in a launch, for all blocks at once.

use crate::memory::{Memory, WINDOW_BITS};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Written bytes of the word.
const BYTES: u64 = 0xf;
/// The last writer used an atomic.
const ATOMIC: u64 = 1 << 4;
/// Several blocks wrote different bytes; who wrote which is forgotten.
const MIXED: u64 = 1 << 5;
const PC_AT: u32 = 6;
const PC: u64 = (1 << 24) - 1;
const OWNER_AT: u32 = 30;

/// An earlier write by another block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rival {
    /// Linear block index.
    pub(crate) block: u64,
    /// Instruction index.
    pub(crate) pc: u32,
}

#[derive(Debug)]
struct Track {
    bytes: usize,
    /// Bytes written before this launch, a nibble a word; `None`: all.
    before: Option<Vec<u8>>,
    words: OnceLock<Vec<AtomicU64>>,
}

/// Tracks of all buffers.
#[derive(Debug)]
pub(crate) struct Tracks {
    buffers: Vec<Track>,
}

impl Tracks {
    pub(crate) fn new(memory: &Memory) -> Self {
        let track = |b: &crate::memory::Buffer| Track {
            bytes: b.bytes.as_slice().len(),
            before: b.written.clone(),
            words: OnceLock::new(),
        };
        Self { buffers: memory.buffers.iter().map(track).collect() }
    }

    fn track(&self, address: u64) -> Option<(&Track, usize)> {
        let index = usize::try_from((address >> WINDOW_BITS).checked_sub(1)?).ok()?;
        Some((self.buffers.get(index)?, (address & ((1 << WINDOW_BITS) - 1)) as usize))
    }

    /// Notes a write; tells of another block that wrote these bytes.
    #[inline]
    pub(crate) fn write(&self, address: u64, bytes: u32, atomic: bool, by: Rival) -> Option<Rival> {
        let (track, offset) = self.track(address)?;
        let words = track.words.get_or_init(|| (0..track.bytes.div_ceil(4)).map(|_| AtomicU64::new(0)).collect());
        let mut rival = None;
        for_words(offset, bytes, |word, mask| {
            let Some(cell) = words.get(word) else { return };
            let mine = (by.block + 1) << OWNER_AT | (u64::from(by.pc) & PC) << PC_AT | u64::from(atomic) << 4 | mask;
            let mut old = cell.load(Ordering::Relaxed);
            loop {
                let owner = old >> OWNER_AT;
                let new = if owner == 0 || owner == by.block + 1 {
                    mine | (old & (BYTES | MIXED))
                } else {
                    let clash = old & mask & BYTES != 0 && old & MIXED == 0 && !(atomic && old & ATOMIC != 0);
                    if clash {
                        rival = rival.or(Some(Rival { block: owner - 1, pc: (old >> PC_AT & PC) as u32 }));
                    }
                    let mixed = if old & mask & BYTES == 0 { MIXED } else { 0 };
                    mine | (old & (BYTES | MIXED)) | mixed
                };
                match cell.compare_exchange_weak(old, new, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => break,
                    Err(now) => old = now,
                }
            }
        });
        rival
    }

    /// The block that last wrote a word, if it did so by an atomic.
    pub(crate) fn updated_by(&self, address: u64) -> Option<u64> {
        let (track, offset) = self.track(address)?;
        let word = track.words.get()?.get(offset / 4)?.load(Ordering::Relaxed);
        (word & ATOMIC != 0).then(|| (word >> OWNER_AT) - 1)
    }

    /// Offset of the first byte of a read that nothing has written.
    #[inline]
    pub(crate) fn unwritten(&self, address: u64, bytes: u32) -> Option<usize> {
        let (track, offset) = self.track(address)?;
        let before = track.before.as_ref()?;
        let words = track.words.get();
        let mut missing = None;
        for_words(offset, bytes, |word, mask| {
            let now = words.and_then(|w| w.get(word)).map_or(0, |w| w.load(Ordering::Relaxed));
            let known = now | before.get(word).copied().map_or(BYTES, u64::from);
            if known & mask != mask {
                missing = missing.or(Some(word * 4 + (mask & !known).trailing_zeros() as usize));
            }
        });
        missing
    }

    /// What buffer `i` has had written by now, a nibble a word; `None`: all.
    pub(crate) fn written(&self, i: usize) -> Option<Vec<u8>> {
        let track = self.buffers.get(i)?;
        let mut known = track.before.clone()?;
        if let Some(words) = track.words.get() {
            for (k, w) in known.iter_mut().zip(words) {
                *k |= (w.load(Ordering::Relaxed) & BYTES) as u8;
            }
        }
        Some(known)
    }
}

/// The words a range covers, each with the mask of its bytes.
#[inline]
fn for_words(offset: usize, bytes: u32, mut f: impl FnMut(usize, u64)) {
    let (mut at, end) = (offset, offset + bytes as usize);
    while at < end {
        let next = ((at | 3) + 1).min(end);
        f(at / 4, (BYTES << (at & 3)) & ((1 << (next - (at & !3))) - 1));
        at = next;
    }
}
