//! A parsed PTX text: kernels and functions as statements over numbered registers, names by the scope they stand in.

use std::collections::HashMap;

use crate::ptx::calls::{Calls, Loc};

/// The register file a declared register lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Pred,
    /// 16 bits, kept zero-extended in a 32-bit lane.
    Half,
    Word,
    Wide,
    /// 128 bits: two wides, the low one first.
    Quad,
}

/// A register: its class and its index within the class's file (halves share the words' file).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reg {
    pub(crate) class: Class,
    pub(crate) index: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand<'a> {
    Reg(Reg),
    /// `!p`
    Not(Reg),
    /// A byte or half of a register, or several, as the video instructions name them: `%r1.b3`.
    Part(Reg, &'a str),
    /// `-r`, a register or a part of one.
    Minus(Box<Operand<'a>>),
    /// `a|b`
    Pair(Box<Operand<'a>>, Box<Operand<'a>>),
    Int(u64),
    F32(u32),
    F64(u64),
    /// A special register, symbol or label.
    Name(&'a str),
    Vector(Vec<Operand<'a>>),
    /// `[base+offset]`
    Address(Box<Operand<'a>>, i64),
    /// `[map, {coordinates}]`
    Tile(Box<Operand<'a>>, Vec<Operand<'a>>),
    /// `_`
    Sink,
}

#[derive(Clone, Debug)]
pub(crate) struct Statement<'a> {
    pub(crate) guard: Option<(Reg, bool)>,
    pub(crate) opcode: &'a str,
    /// Qualifiers that white space parts from it.
    pub(crate) apart: Vec<&'a str>,
    pub(crate) operands: Vec<Operand<'a>>,
    /// Scope it stands in, for labels.
    pub(crate) scope: usize,
    pub(crate) line: u32,
    /// The last `.loc`.
    pub(crate) loc: Option<Loc>,
    pub(crate) text: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    Global,
    Const,
    Shared,
    Local,
    Param,
}

/// A declared variable or parameter.
#[derive(Clone, Debug)]
pub(crate) struct Variable<'a> {
    pub(crate) name: &'a str,
    pub(crate) store: Store,
    pub(crate) align: u64,
    /// Its type as written, `.f32`, and whether a parameter is said to point to memory.
    pub(crate) ty: &'a str,
    pub(crate) pointer: bool,
    /// 0 for an unsized `extern` array.
    pub(crate) bytes: u64,
    pub(crate) init: Vec<Initial<'a>>,
    /// Scope it is declared in.
    pub(crate) scope: usize,
    /// Of a variable of the module that a function declares: its place among the module's.
    pub(crate) window: Option<u64>,
    /// It is known by its name in the function alone that declares it.
    pub(crate) hidden: bool,
}

/// An element of an initial value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Initial<'a> {
    /// Byte it starts at.
    pub(crate) at: u64,
    pub(crate) bits: u64,
    pub(crate) bytes: u8,
    /// A variable or function whose address is added, and the line it stands in.
    pub(crate) link: Option<(&'a str, u32)>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Scope<'a> {
    pub(crate) parent: usize,
    pub(crate) names: HashMap<&'a str, (Class, u32, u32)>,
    /// Vectors of registers.
    pub(crate) vectors: HashMap<&'a str, Vectors>,
    pub(crate) labels: HashMap<&'a str, usize>,
    /// Labels of a `.branchtargets`, by its own.
    pub(crate) targets: HashMap<&'a str, Vec<&'a str>>,
    /// Parameters of a function set into its caller: what they stand for there, and from which scope it is seen.
    pub(crate) aliases: HashMap<&'a str, (&'a str, usize)>,
}

/// A parameter or result of a function.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Formal<'a> {
    Reg(Reg),
    Memory(&'a str),
}

/// The text of a kernel, or of a function that kernels call.
#[derive(Clone, Debug, Default)]
pub(crate) struct EntryText<'a> {
    pub(crate) name: &'a str,
    pub(crate) params: Vec<Variable<'a>>,
    pub(crate) variables: Vec<Variable<'a>>,
    pub(crate) statements: Vec<Statement<'a>>,
    pub(crate) scopes: Vec<Scope<'a>>,
    /// Registers declared: predicates, words and halves, wides.
    pub(crate) counts: [u32; 3],
    /// `.maxntid` or `.reqntid`, and whether it is exact.
    pub(crate) threads: Option<([u32; 3], bool)>,
    /// A function's parameters and results.
    pub(crate) formals: [Vec<Formal<'a>>; 2],
}

#[derive(Debug, Default)]
pub(crate) struct Text<'a> {
    pub(crate) entries: Vec<EntryText<'a>>,
    /// Functions with a body.
    pub(crate) functions: HashMap<&'a str, EntryText<'a>>,
    /// Addresses of the functions whose address is taken.
    pub(crate) pointers: HashMap<&'a str, u64>,
    pub(crate) variables: Vec<Variable<'a>>,
    pub(crate) files: HashMap<u32, &'a str>,
    pub(crate) calls: Calls,
    pub(crate) target: &'a str,
}

impl Class {
    /// The file of registers of this class.
    pub(crate) fn file(self) -> usize {
        match self {
            Class::Pred => 0,
            Class::Half | Class::Word => 1,
            Class::Wide | Class::Quad => 2,
        }
    }

    /// Registers of that file in one of this class.
    pub(crate) fn size(self) -> u32 {
        if self == Class::Quad { 2 } else { 1 }
    }
}

/// Declares a register, or `n` numbered ones.
pub(crate) fn declare<'a>(e: &mut EntryText<'a>, scope: usize, name: &'a str, class: Class, n: u32) -> Reg {
    let index = e.counts[class.file()];
    e.scopes[scope].names.insert(name, (class, index, n));
    e.counts[class.file()] += n.max(1) * class.size();
    Reg { class, index }
}

/// The register a name stands for, seen from `scope`.
pub(crate) fn lookup(scopes: &[Scope<'_>], mut scope: usize, name: &str) -> Option<Reg> {
    let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
    if let Some((whole, part)) = name.rsplit_once('.')
        && let Some(found) = vector(scopes, scope, whole)
    {
        let at = ["x", "y", "z", "w"].iter().position(|p| *p == part);
        let at = at.or_else(|| ["r", "g", "b", "a"].iter().position(|p| *p == part))?;
        return found.get(at).copied();
    }
    loop {
        let s = &scopes[scope];
        if let Some(&(class, index, 0)) = s.names.get(name) {
            return Some(Reg { class, index });
        }
        if prefix.len() < name.len()
            && let Some(&(class, index, n)) = s.names.get(prefix)
            && let Ok(i) = name[prefix.len()..].parse::<u32>()
            && i < n
        {
            return Some(Reg { class, index: index + i * class.size() });
        }
        if scope == 0 {
            return None;
        }
        scope = s.parent;
    }
}

/// The registers of a vector, seen from `scope`.
pub(crate) fn vector(scopes: &[Scope<'_>], mut scope: usize, name: &str) -> Option<Vec<Reg>> {
    let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
    loop {
        let all = &scopes[scope].vectors;
        let numbered = || {
            let of = all.get(prefix)?;
            Some((of, name[prefix.len()..].parse::<u32>().ok().filter(|i| *i < of.count)?))
        };
        if let Some((of, i)) = all.get(name).filter(|of| of.count == 0).map(|of| (of, 0)).or_else(numbered) {
            let index = of.index + i * of.width;
            return Some((index..index + of.width).map(|index| Reg { class: of.class, index }).collect());
        }
        if scope == 0 {
            return None;
        }
        scope = scopes[scope].parent;
    }
}

/// Vectors of registers under one name: one, or `count` numbered ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vectors {
    pub(crate) class: Class,
    pub(crate) index: u32,
    pub(crate) width: u32,
    pub(crate) count: u32,
}

/// The statement a label stands for, seen from `scope`.
pub(crate) fn label(scopes: &[Scope<'_>], mut scope: usize, name: &str) -> Option<usize> {
    loop {
        if let Some(&at) = scopes[scope].labels.get(name) {
            return Some(at);
        }
        if scope == 0 {
            return None;
        }
        scope = scopes[scope].parent;
    }
}
