//! The device memory of a launch as the blocks see it: shared by all threads, checked on every access.

use crate::isa::entry::VARIABLE_WINDOW;
use crate::memory::{Bytes, Memory, WINDOW_BITS};

#[derive(Debug)]
struct Window {
    start: *mut u8,
    len: u64,
    name: String,
}

/// Every buffer and module variable of a launch.
#[derive(Debug)]
pub(crate) struct Global {
    buffers: Vec<Window>,
    variables: Vec<Window>,
}

// SAFETY: blocks on several threads read and write through the pointers, as blocks on a GPU do. The memory
// outlives the launch (it is borrowed mutably for it), every access is checked against `len`, and atomics are
// real ones. Two blocks that write one word without atomics race here as they would there; the values are then
// unspecified, as on the GPU.
unsafe impl Sync for Global {}
// SAFETY: as above.
unsafe impl Send for Global {}

impl Global {
    pub(crate) fn new(memory: &mut Memory, variables: &mut [(String, Bytes)]) -> Self {
        let window = |name: &str, b: &mut Bytes| {
            let s = b.as_mut_slice();
            Window { start: s.as_mut_ptr(), len: s.len() as u64, name: name.to_owned() }
        };
        Self {
            buffers: memory.buffers.iter_mut().map(|b| window(&b.name, &mut b.bytes)).collect(),
            variables: variables.iter_mut().map(|(n, b)| window(n, b)).collect(),
        }
    }

    fn window(&self, address: u64) -> Option<&Window> {
        let w = address >> WINDOW_BITS;
        let (list, first) =
            if w > VARIABLE_WINDOW { (&self.variables, VARIABLE_WINDOW + 1) } else { (&self.buffers, 1) };
        list.get(usize::try_from(w.checked_sub(first)?).ok()?)
    }

    /// The buffer an address falls in: its first byte, its length.
    pub(crate) fn locate(&self, address: u64) -> Option<(*mut u8, u64)> {
        self.window(address).map(|w| (w.start, w.len))
    }

    /// In words, what is wrong with `bytes` at `address`.
    pub(crate) fn explain(&self, address: u64, bytes: u32) -> String {
        let offset = address & ((1 << WINDOW_BITS) - 1);
        // A small negative offset from a buffer lands high in the window before it.
        let half = 1 << (WINDOW_BITS - 1);
        let next = if offset >= half { self.window(address.wrapping_add(half)) } else { None };
        if let Some(w) = next {
            return format!("it starts {} bytes before buffer `{}`", (1u64 << WINDOW_BITS) - offset, w.name);
        }
        match self.window(address) {
            Some(w) => format!(
                "it reaches bytes {offset} to {} of buffer `{}`, which has {}",
                offset + u64::from(bytes),
                w.name,
                w.len
            ),
            None if address == 0 => "a null pointer".to_owned(),
            None => "no buffer is near".to_owned(),
        }
    }
}
