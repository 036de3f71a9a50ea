//! A loaded PTX module.

use crate::error::LoadError;
use crate::isa::class::class;
use crate::isa::decode;
use crate::isa::entry::Entry;
use crate::memory::Bytes;
use crate::ptx::parse;
use crate::ptx::text::Store;
use crate::report::Class;
use crate::report::place::Sources;

/// A PTX module decoded for execution.
#[derive(Debug)]
pub struct Module {
    pub(crate) entries: Vec<Entry>,
    pub(crate) sources: Sources,
    /// Module variables in order of their windows.
    variables: Vec<Stored>,
    /// Compute capability times ten of the text's target, and whether it is bound to that architecture (`a`, `f`).
    pub(crate) target: (u32, bool),
}

/// To what shared memory is aligned, whatever a text declares.
#[derive(Clone, Copy, Debug)]
pub struct SharedAlignment(u32);

impl SharedAlignment {
    /// As declared.
    pub const DECLARED: SharedAlignment = SharedAlignment(1);
    /// What drivers give today, though no manual promises it: Triton's kernels declare 16 bytes and rely on it for swizzled
    /// tiles.
    pub const DRIVER: SharedAlignment = SharedAlignment(1024);
}

/// A kernel's parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter<'a> {
    /// Its name in the text.
    pub name: &'a str,
    /// Bytes it takes.
    pub bytes: u32,
    /// Its type as written, such as `.f32`; of an array, its elements'.
    pub ty: &'a str,
    /// It is said to point to memory (`.ptr`); older compilers do not say so.
    pub pointer: bool,
}

/// A module variable.
#[derive(Debug)]
struct Stored {
    name: String,
    bytes: usize,
    /// Elements of its initial value: where, their bytes, how many.
    init: Vec<(usize, [u8; 8], usize)>,
}

impl Module {
    /// Parses and decodes a PTX text; an unknown instruction is an error here, with its line. Shared memory of a kernel
    /// starts at an odd multiple of the strongest alignment that its variables declare, so that one which relies on more
    /// shows it.
    ///
    /// # Errors
    /// [`LoadError`] names the PTX line.
    pub fn parse(ptx: &str) -> Result<Self, LoadError> {
        Self::parse_aligned(ptx, SharedAlignment::DECLARED)
    }

    /// [`Module::parse`] for a text that relies on a stronger alignment of shared memory than it declares.
    ///
    /// # Errors
    /// [`LoadError`] names the PTX line.
    pub fn parse_aligned(ptx: &str, alignment: SharedAlignment) -> Result<Self, LoadError> {
        let text = parse::parse(ptx)?;
        let decoded = text.entries.iter().map(|e| decode::entry(e, &text.variables, &text.pointers, alignment.0));
        let entries = decoded.collect::<Result<_, _>>()?;
        let highest = text.files.keys().copied().max().unwrap_or(0);
        // A `.loc` may name a file that was never declared.
        let named = text.entries.iter().flat_map(|e| &e.statements).filter_map(|s| s.loc);
        let named = named.map(|loc| loc.file).max().unwrap_or(0).max(text.calls.highest_file());
        let files = (0..=highest.max(named)).map(|i| (*text.files.get(&i).unwrap_or(&"?")).to_owned()).collect();
        let variables = text
            .variables
            .iter()
            .filter(|v| matches!(v.store, Store::Global | Store::Const))
            .map(|v| Stored {
                name: v.name.to_owned(),
                bytes: v.bytes as usize,
                init: v.init.iter().map(|i| (i.at as usize, i.bits.to_le_bytes(), usize::from(i.bytes))).collect(),
            })
            .collect();
        let digits: String = text.target.chars().filter(char::is_ascii_digit).collect();
        let target = (digits.parse().unwrap_or(0), text.target.ends_with(['a', 'f']));
        let sources = Sources { files, calls: text.calls.into_list() };
        Ok(Self { entries, sources, variables, target })
    }

    /// Names of the kernels.
    pub fn entries(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|e| e.name.as_str())
    }

    /// What a kernel takes, in order. `None` where there is no such kernel.
    pub fn parameters(&self, entry: &str) -> Option<impl Iterator<Item = Parameter<'_>>> {
        let entry = self.entries.iter().find(|e| e.name == entry)?;
        Some(entry.params.iter().zip(&entry.kinds).map(|((name, _, bytes), (ty, pointer))| Parameter {
            name,
            bytes: *bytes,
            ty,
            pointer: *pointer,
        }))
    }

    /// The threads of a block that a kernel asks for (`.reqntid`) or allows (`.maxntid`), and whether it asks.
    pub fn threads(&self, entry: &str) -> Option<([u32; 3], bool)> {
        self.entries.iter().find(|e| e.name == entry)?.threads
    }

    /// A kernel's instructions in the order of the text: what kind of work each is, and as written. `None` where there
    /// is no such kernel.
    pub fn instructions(&self, entry: &str) -> Option<impl Iterator<Item = (Class, &str)>> {
        let entry = self.entries.iter().find(|e| e.name == entry)?;
        Some(entry.insts.iter().zip(&entry.sites).map(|(inst, site)| (class(&inst.op), site.text.as_str())))
    }

    /// Fresh copies of the module's variables; what has no initial value is zero.
    pub(crate) fn variables(&self) -> Vec<(String, Bytes)> {
        let fresh = |v: &Stored| {
            let mut all = Bytes::filled(v.bytes, 0);
            for (at, bytes, n) in &v.init {
                if let Some(slot) = all.as_mut_slice().get_mut(*at..at + n) {
                    slot.copy_from_slice(&bytes[..*n]);
                }
            }
            (v.name.clone(), all)
        };
        self.variables.iter().map(fresh).collect()
    }
}
