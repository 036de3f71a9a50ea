//! What a cubin says of its kernels besides their code: where parameters lie, registers, static shared and stack bytes,
//! tables in constant banks.
//!
//! The attributes of `.nv.info` sections are a stream of records: format, attribute, and a 16-bit size or value. Their
//! numbers are those that `cuobjdump -elf` prints by name.

use object::read::elf::ElfFile64;
use object::{Object, ObjectSection, ObjectSymbol, SectionFlags};
use std::collections::BTreeMap;

/// A file that is no cubin, or one that lacks what a launch needs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CubinError {
    /// No ELF file.
    #[error("not a cubin: {0}")]
    Elf(#[from] object::Error),
    /// A kernel that is not there.
    #[error("no kernel `{entry}` in the cubin; it has {known}")]
    NoEntry {
        /// What was asked for.
        entry: String,
        /// What there is.
        known: String,
    },
    /// Several kernels, none named.
    #[error("the cubin has several kernels: name one of {known}")]
    Several {
        /// What there is.
        known: String,
    },
}

/// A parameter's place in constant bank 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Bytes behind the start of the parameters.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
}

/// One kernel of a cubin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Compute capability times ten.
    pub sm: u32,
    /// Registers of a thread.
    pub registers: u32,
    /// Static shared bytes of a block.
    pub static_shared: u32,
    /// Stack bytes of a thread.
    pub stack: u32,
    /// Where parameters begin in constant bank 0.
    pub parameter_base: u32,
    /// Parameters in order.
    pub parameters: Vec<Parameter>,
    /// Contents of the other constant banks: tables of jumps, literals.
    pub banks: BTreeMap<u8, Vec<u8>>,
}

const PARAM_CBANK: u8 = 0x0a;
const FRAME_SIZE: u8 = 0x11;
const KPARAM_INFO: u8 = 0x17;
const REGCOUNT: u8 = 0x2f;
const KPARAM_INFO_V2: u8 = 0x45;
/// A record whose value is a size with that many bytes behind it.
const SIZED: u8 = 4;

/// Where parameters begin when the cubin does not say: compute capability 9, 10 and later, and before.
fn usual_base(sm: u32) -> u32 {
    match sm {
        100.. => 0x380,
        90.. => 0x210,
        _ => 0x160,
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// The records of an `.nv.info` section: attribute and payload.
fn records(bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let head = bytes.get(at..at + 4)?;
        let (format, attribute) = (head[0], head[1]);
        let size = if format == SIZED { usize::from(u16::from_le_bytes([head[2], head[3]])) } else { 0 };
        let payload = bytes.get(at + 4..at + 4 + size)?;
        at += 4 + size;
        Some((attribute, payload))
    })
}

/// Every kernel of a cubin.
///
/// # Errors
/// No ELF file.
pub fn entries(cubin: &[u8]) -> Result<Vec<Entry>, CubinError> {
    let elf = ElfFile64::<object::Endianness>::parse(cubin)?;
    let names: Vec<String> = elf.symbols().map(|symbol| symbol.name().unwrap_or_default().to_owned()).collect();
    let of_symbol = |index: u32| (index as usize).checked_sub(1).and_then(|index| names.get(index)).map(String::as_str);
    let object::FileFlags::Elf { e_flags, .. } = elf.flags() else { return Ok(Vec::new()) };
    // Two bytes may hold the compute capability, by the version of the file.
    let sm = [e_flags >> 8 & 0xff, e_flags & 0xff].into_iter().find(|sm| (50..200).contains(sm)).unwrap_or(90);
    let section = |name: &str| elf.section_by_name(name).and_then(|section| section.data().ok()).unwrap_or_default();
    let global: Vec<(u8, &[u8])> = records(section(".nv.info")).collect();
    let mut found = Vec::new();
    for text in elf.sections() {
        let Some(name) = text.name().ok().and_then(|name| name.strip_prefix(".text.")) else { continue };
        let mut entry = Entry { name: name.to_owned(), sm, parameter_base: usual_base(sm), ..Entry::default() };
        for (attribute, payload) in &global {
            if of_symbol(word(payload, 0)) != Some(name) {
                continue;
            }
            match *attribute {
                REGCOUNT => entry.registers = word(payload, 4),
                FRAME_SIZE => entry.stack = word(payload, 4),
                _ => {}
            }
        }
        if entry.registers == 0
            && let SectionFlags::Elf { .. } = text.flags()
        {
            // Before registers had a record of their own they were the upper byte of the section's `sh_info`.
            entry.registers = text.elf_section_header().sh_info.get(elf.endian()) >> 24;
        }
        let mut parameters: BTreeMap<u32, Parameter> = BTreeMap::new();
        for (attribute, payload) in records(section(&format!(".nv.info.{name}"))) {
            match attribute {
                PARAM_CBANK => entry.parameter_base = word(payload, 4) & 0xffff,
                KPARAM_INFO => {
                    let place = word(payload, 4);
                    let size = word(payload, 8) >> 18;
                    parameters.insert(place & 0xffff, Parameter { offset: place >> 16, size });
                }
                KPARAM_INFO_V2 => {
                    let size = word(payload, 8) & 0xffff;
                    parameters.insert(word(payload, 4) & 0xffff, Parameter { offset: word(payload, 4) >> 16, size });
                }
                _ => {}
            }
        }
        entry.parameters = parameters.into_values().collect();
        entry.static_shared =
            elf.section_by_name(&format!(".nv.shared.{name}")).map_or(0, |section| section.size() as u32);
        for bank in 1..=4u8 {
            let own = section(&format!(".nv.constant{bank}.{name}"));
            let data = if own.is_empty() { section(&format!(".nv.constant{bank}")) } else { own };
            if !data.is_empty() {
                entry.banks.insert(bank, data.to_vec());
            }
        }
        found.push(entry);
    }
    Ok(found)
}

/// One kernel of a cubin by name, or its only one.
///
/// # Errors
/// No ELF file, no such kernel, or several and none named.
pub fn entry(cubin: &[u8], name: Option<&str>) -> Result<Entry, CubinError> {
    let mut all = entries(cubin)?;
    let known = all.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>().join(", ");
    match name {
        Some(name) => match all.iter().position(|entry| entry.name == name) {
            Some(at) => Ok(all.swap_remove(at)),
            None => Err(CubinError::NoEntry { entry: name.to_owned(), known }),
        },
        None if all.len() == 1 => Ok(all.swap_remove(0)),
        None if all.is_empty() => Err(CubinError::NoEntry { entry: "(any)".to_owned(), known }),
        None => Err(CubinError::Several { known }),
    }
}
