//! Whether a library file is as long as its own headers say.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use crate::files;

/// The fixed part of a 64-bit ELF file.
const HEADER: usize = 64;
/// One program header of a 64-bit ELF file.
const PROGRAM_HEADER: usize = 56;
/// Program headers of type `PT_LOAD` are mapped.
const LOAD: u32 = 1;

/// Refuses a file that ends before the last byte that its program headers would have the loader map. What is no 64-bit
/// little-endian ELF file is left to the loader to judge.
///
/// Layout: System V ABI, chapter 4 (ELF header) and 5 (program header).
pub(crate) fn expect_whole(path: &Path) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    let there = std::fs::metadata(path).map_err(text)?;
    files::expect_regular(&there).map_err(text)?;
    let mut file = File::open(path).map_err(text)?;
    let mut header = [0u8; HEADER];
    if file.read_exact(&mut header).is_err() || !header.starts_with(b"\x7fELF\x02\x01") {
        return Ok(());
    }
    let (table, size, count) = (long(&header, 32), short(&header, 54), short(&header, 56));
    let short_of = |end: u64| format!("truncated: {} bytes where its headers need {end}", there.len());
    if usize::from(size) < PROGRAM_HEADER {
        return Err(format!("its program headers are of {size} bytes, not {PROGRAM_HEADER}"));
    }
    let end = table.saturating_add(u64::from(size) * u64::from(count));
    if end > there.len() {
        return Err(short_of(end));
    }
    let mut table_bytes = vec![0u8; usize::from(size) * usize::from(count)];
    file.seek(SeekFrom::Start(table)).map_err(text)?;
    file.read_exact(&mut table_bytes).map_err(text)?;
    let loads = table_bytes.chunks_exact(usize::from(size)).filter(|entry| word(entry, 0) == LOAD);
    match loads.map(|entry| long(entry, 8).saturating_add(long(entry, 32))).max() {
        Some(end) if end > there.len() => Err(short_of(end)),
        _ => Ok(()),
    }
}

fn bytes<const N: usize>(of: &[u8], at: usize) -> [u8; N] {
    of.get(at..).and_then(<[u8]>::first_chunk::<N>).copied().unwrap_or([0; N])
}

fn short(of: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes(of, at))
}

fn word(of: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes(of, at))
}

fn long(of: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes(of, at))
}
