//! Addresses that a text takes: of variables in initial values, and of functions, which calls through pointers compare.

use crate::error::LoadError;
use crate::isa::entry::VARIABLE_WINDOW;
use crate::memory::WINDOW_BITS;
use crate::ptx::text::{EntryText, Operand, Store, Text};
use std::collections::HashMap;

/// Window of the functions' addresses: nothing can be read or written there.
const FUNCTION_WINDOW: u64 = VARIABLE_WINDOW << 1;

/// Bytes between the addresses of two functions.
const STEP: u64 = 16;

/// Writes addresses into initial values and gives those of the functions whose address is taken.
pub(crate) fn link<'a>(text: &mut Text<'a>) -> Result<(), LoadError> {
    let mut places: HashMap<&str, u64> = HashMap::new();
    let stored = text.variables.iter().filter(|v| matches!(v.store, Store::Global | Store::Const));
    for (i, v) in stored.enumerate().filter(|(_, v)| !v.hidden) {
        places.insert(v.name, (VARIABLE_WINDOW + 1 + i as u64) << WINDOW_BITS);
    }
    let mut names: Vec<&'a str> = text.functions.keys().copied().collect();
    names.sort_unstable();
    let mut pointers: HashMap<&'a str, u64> = HashMap::new();
    let mut take = |name: &'a str| -> Option<u64> {
        let at = names.binary_search(&name).ok()? as u64;
        let address = (FUNCTION_WINDOW << WINDOW_BITS) + STEP * at;
        pointers.insert(name, address);
        Some(address)
    };
    for v in &mut text.variables {
        for one in &mut v.init {
            let Some((name, line)) = one.link else { continue };
            let Some(address) = places.get(name).copied().or_else(|| take(name)) else {
                let message = format!("`{name}` is neither a variable nor a function of this text");
                return Err(LoadError::Malformed { line, message });
            };
            one.bits = one.bits.wrapping_add(address);
        }
    }
    let moved = |e: &EntryText<'a>, take: &mut dyn FnMut(&'a str) -> Option<u64>| {
        for s in e.statements.iter().filter(|s| s.opcode == "mov" || s.opcode.starts_with("mov.")) {
            if let Some(Operand::Name(name)) = s.operands.get(1) {
                take(name);
            }
        }
    };
    text.entries.iter().chain(text.functions.values()).for_each(|e| moved(e, &mut take));
    text.pointers = pointers;
    Ok(())
}
