//! Device memory: every buffer has its own 64 GiB window of addresses, so any overrun is caught exactly.

use crate::api::Address;

/// log2 of the window each buffer owns.
pub(crate) const WINDOW_BITS: u32 = 36;

/// One allocation.
#[derive(Debug)]
pub(crate) struct Buffer {
    pub(crate) name: String,
    pub(crate) bytes: Box<[u8]>,
    /// False for [`Memory::poisoned`] buffers: a read before a write is a finding of the full checks.
    pub(crate) initialised: bool,
}

/// The device memory of one or more launches.
#[derive(Debug, Default)]
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
        self.push(name, bytes.into(), true)
    }

    /// A buffer of `len` bytes of 0xff (a NaN in every float type), tracked as not yet written.
    pub fn poisoned(&mut self, name: &str, len: usize) -> Address {
        self.push(name, vec![0xff; len].into(), false)
    }

    /// The whole contents of the buffer that holds `address`; empty if no buffer of this memory does.
    #[must_use]
    pub fn read(&self, address: Address) -> &[u8] {
        self.index(address).map_or(&[], |i| &self.buffers[i].bytes)
    }

    /// Overwrites the start of the buffer that holds `address`; returns how many bytes fitted.
    pub fn write(&mut self, address: Address, bytes: &[u8]) -> usize {
        let Some(i) = self.index(address) else { return 0 };
        let n = bytes.len().min(self.buffers[i].bytes.len());
        self.buffers[i].bytes[..n].copy_from_slice(&bytes[..n]);
        n
    }

    /// The name given to the buffer that holds `address`.
    #[must_use]
    pub fn name(&self, address: Address) -> Option<&str> {
        self.index(address).map(|i| self.buffers[i].name.as_str())
    }

    fn index(&self, address: Address) -> Option<usize> {
        let i = usize::try_from(address.0 >> WINDOW_BITS).ok()?.checked_sub(1)?;
        (i < self.buffers.len()).then_some(i)
    }

    fn push(&mut self, name: &str, bytes: Box<[u8]>, initialised: bool) -> Address {
        self.buffers.push(Buffer { name: name.to_owned(), bytes, initialised });
        Address((self.buffers.len() as u64) << WINDOW_BITS)
    }
}
