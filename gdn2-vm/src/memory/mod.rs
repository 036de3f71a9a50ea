//! Device memory: every buffer has its own 64 GiB window of addresses, so any overrun is caught exactly.

pub(crate) mod global;
pub(crate) mod space;
pub(crate) mod tensor_map;

use crate::api::Address;
use crate::report::finding::{Finding, Rule};

/// log2 of the window each buffer owns.
pub(crate) const WINDOW_BITS: u32 = 36;

/// Bytes aligned for every access size.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bytes {
    words: Vec<u128>,
    len: usize,
}

impl Bytes {
    pub(crate) fn filled(len: usize, byte: u8) -> Self {
        Self { words: vec![u128::from_ne_bytes([byte; 16]); len.div_ceil(16)], len }
    }

    pub(crate) fn refill(&mut self, len: usize, byte: u8) {
        self.words.clear();
        self.words.resize(len.div_ceil(16), u128::from_ne_bytes([byte; 16]));
        self.len = len;
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: the words own at least `len` initialised bytes.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), self.len) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.words.as_mut_ptr().cast(), self.len) }
    }
}

/// One allocation.
#[derive(Clone, Debug)]
pub(crate) struct Buffer {
    pub(crate) name: String,
    pub(crate) bytes: Bytes,
    /// Bytes written so far, a nibble for each 4-byte word; `None`: all of them, or nobody kept count.
    pub(crate) written: Option<Vec<u8>>,
}

/// The device memory of one or more launches.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub(crate) buffers: Vec<Buffer>,
}

impl Memory {
    /// An empty memory.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A buffer of exactly `bytes.len()` bytes with these contents.
    pub fn upload(&mut self, name: &str, bytes: &[u8]) -> Address {
        let mut b = Bytes::filled(bytes.len(), 0);
        b.as_mut_slice().copy_from_slice(bytes);
        self.push(name, b, None)
    }

    /// A buffer of `len` bytes of 0xff (a NaN in every float type), tracked as not yet written.
    pub fn poisoned(&mut self, name: &str, len: usize) -> Address {
        self.push(name, Bytes::filled(len, 0xff), Some(vec![0; len.div_ceil(4)]))
    }

    /// The whole contents of the buffer that holds `address`; empty if no buffer of this memory does.
    #[must_use]
    pub fn read(&self, address: Address) -> &[u8] {
        self.index(address).map_or(&[], |i| self.buffers[i].bytes.as_slice())
    }

    /// Overwrites the start of the buffer that holds `address`; returns how many bytes fitted.
    pub fn write(&mut self, address: Address, bytes: &[u8]) -> usize {
        let Some(i) = self.index(address) else { return 0 };
        let Buffer { bytes: to, written, .. } = &mut self.buffers[i];
        let to = to.as_mut_slice();
        let n = bytes.len().min(to.len());
        to[..n].copy_from_slice(&bytes[..n]);
        if let Some(written) = written {
            let (whole, rest) = (n / 4, n % 4);
            written[..whole].fill(0xf);
            if rest > 0 {
                written[whole] |= (1 << rest) - 1;
            }
        }
        n
    }

    /// The name given to the buffer that holds `address`.
    #[must_use]
    pub fn name(&self, address: Address) -> Option<&str> {
        self.index(address).map(|i| self.buffers[i].name.as_str())
    }

    /// Where the buffer that holds `address` has bytes that no launch under the full checks wrote; `None` if it is all
    /// written, or was uploaded, or nobody kept count.
    #[must_use]
    pub fn unwritten(&self, address: Address) -> Option<Finding> {
        let buffer = &self.buffers[self.index(address)?];
        let written = buffer.written.as_ref()?;
        let len = buffer.bytes.as_slice().len();
        let missing = |i: &usize| written[i / 4] >> (i % 4) & 1 == 0;
        let first = (0..len).find(missing)?;
        let count = (first..len).filter(missing).count();
        Some(Finding {
            rule: Rule::OutputUnwritten,
            what: format!("byte {first} is the first of {count} of buffer `{}` that no block wrote", buffer.name),
            place: None,
            other: None,
            also: Vec::new(),
            fix: "write every element, or do not ask for it as an output".to_owned(),
            times: 1,
        })
    }

    pub(crate) fn index(&self, address: Address) -> Option<usize> {
        let i = usize::try_from(address.0 >> WINDOW_BITS).ok()?.checked_sub(1)?;
        (i < self.buffers.len()).then_some(i)
    }

    fn push(&mut self, name: &str, bytes: Bytes, written: Option<Vec<u8>>) -> Address {
        self.buffers.push(Buffer { name: name.to_owned(), bytes, written });
        Address((self.buffers.len() as u64) << WINDOW_BITS)
    }
}
