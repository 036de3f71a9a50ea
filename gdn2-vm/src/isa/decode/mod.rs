//! Statements to instructions: operands become slots, opcodes are matched down to their last modifier.

mod alu;
mod asynchronous;
mod convert;
mod float;
mod matrix;
mod memory;
mod video;
mod warp;

use crate::error::LoadError;
use crate::isa::cfg;
use crate::isa::entry::{
    Entry, FIRST, Fixed, LOCAL_BASE, SHARED_LOWEST, SINK, SINK_PRED, Special, TRUE, VARIABLE_WINDOW,
};
use crate::isa::inst::{Addr, Flow, Inst, Op, Round, Site, Slot, Space};
use crate::num::Type;
use crate::ptx::text::{self, Class, EntryText, Operand, Reg, Statement, Store, Variable};
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// Shared memory of a block and local memory of a thread: beyond what any GPU has.
const MOST_SHARED: u64 = 1 << 24;
const MOST_LOCAL: u64 = 512 << 10;
pub(crate) type Res<T> = Result<T, LoadError>;

/// Decoding state of one entry, at one statement.
pub(crate) struct Decoder<'e, 'a> {
    entry: &'e EntryText<'a>,
    /// Variables and parameters by the scope they are declared in; the module's have no scope.
    symbols: HashMap<(usize, &'a str), (Store, u64)>,
    fixed: [HashMap<Fixed, Slot>; 2],
    next: [u32; 2],
    pub(crate) s: &'e Statement<'a>,
    pub(crate) mods: Vec<&'a str>,
    pub(crate) types: Vec<Type>,
    /// The operands that decoding has looked at, a bit each.
    used: Cell<u64>,
}

fn align(x: u64, a: u64) -> u64 {
    let a = a.max(1);
    x.div_ceil(a) * a
}

/// The scope of the module's own variables.
const MODULE: usize = usize::MAX;

/// Names that the operands of an entry mention.
fn mentioned<'a>(e: &EntryText<'a>) -> HashSet<&'a str> {
    fn names<'a>(o: &Operand<'a>, into: &mut HashSet<&'a str>) {
        match o {
            Operand::Name(n) => {
                into.insert(n);
            }
            Operand::Address(base, _) | Operand::Tile(base, _) => names(base, into),
            Operand::Vector(v) => v.iter().for_each(|o| names(o, into)),
            _ => {}
        }
    }
    let mut all = HashSet::new();
    e.statements.iter().flat_map(|s| &s.operands).for_each(|o| names(o, &mut all));
    all
}

/// The lowest odd multiple of `align` from `lowest` on. Memory that starts there has the alignment that was declared and no
/// stronger one, so that a kernel which needs more than it declares does not get it by chance.
fn odd_multiple(lowest: u64, align: u64) -> u64 {
    (lowest.div_ceil(align) | 1) * align
}

/// Decodes one entry. Its shared memory is aligned as its variables are, to `shared_alignment` at least.
pub(crate) fn entry(
    e: &EntryText<'_>,
    variables: &[Variable<'_>],
    pointers: &HashMap<&str, u64>,
    shared_alignment: u32,
) -> Res<Entry> {
    // A function is only ever an address.
    let mut symbols: HashMap<_, _> =
        pointers.iter().map(|(name, at)| ((MODULE, *name), (Store::Global, *at))).collect();
    let mut dynamic_align = 16;
    let mentioned = mentioned(e);
    let own = e.variables.iter().map(|v| (v.scope, v));
    let all: Vec<_> = variables.iter().map(|v| (MODULE, v)).chain(own).collect();
    let in_shared = all.iter().filter(|(_, v)| v.store == Store::Shared && mentioned.contains(v.name));
    let strongest = in_shared.map(|(_, v)| v.align).max().unwrap_or(1).max(16).max(shared_alignment.into());
    let shared_base = odd_multiple(u64::from(SHARED_LOWEST), strongest);
    let (mut shared, mut local, mut window) = (shared_base, LOCAL_BASE, VARIABLE_WINDOW);
    for (scope, v) in &all {
        let at = match v.store {
            // The module's shared variables take room only in kernels that use them.
            Store::Shared if !mentioned.contains(v.name) => continue,
            Store::Shared if v.bytes == 0 => {
                dynamic_align = dynamic_align.max(v.align);
                continue;
            }
            Store::Shared => {
                let at = align(shared, v.align);
                shared = at + v.bytes;
                at
            }
            Store::Local => {
                let at = align(local, v.align);
                local = at + v.bytes;
                at
            }
            _ if let Some(i) = v.window => (VARIABLE_WINDOW + 1 + i) << crate::memory::WINDOW_BITS,
            _ => {
                window += 1;
                window << crate::memory::WINDOW_BITS
            }
        };
        if v.hidden {
            continue;
        }
        symbols.insert((*scope, v.name), (v.store, at));
    }
    shared = align(shared, dynamic_align);
    if shared - shared_base > MOST_SHARED || local > MOST_LOCAL {
        let message = format!(
            "the variables of `{}` take {} bytes of shared and {local} of local memory: at most {MOST_SHARED} and \
             {MOST_LOCAL}",
            e.name,
            shared - shared_base
        );
        return Err(LoadError::Malformed { line: e.statements.first().map_or(1, |s| s.line), message });
    }
    for (scope, v) in all.iter().filter(|(_, v)| v.store == Store::Shared && v.bytes == 0) {
        symbols.insert((*scope, v.name), (Store::Shared, shared));
    }
    let mut params = Vec::new();
    let mut offset = 0;
    for p in &e.params {
        offset = align(offset, p.align);
        symbols.insert((0, p.name), (Store::Param, offset));
        params.push((p.name.to_owned(), offset as u32, p.bytes as u32));
        offset += p.bytes;
    }
    let Some(first) = e.statements.first() else {
        return Err(LoadError::Malformed { line: 1, message: format!("entry {} has no instructions", e.name) });
    };
    let mut d = Decoder {
        entry: e,
        symbols,
        fixed: [HashMap::new(), HashMap::new()],
        next: [FIRST[1] + e.counts[1], FIRST[2] + e.counts[2]],
        s: first,
        mods: Vec::new(),
        types: Vec::new(),
        used: Cell::new(0),
    };
    let (mut insts, mut sites) =
        (Vec::with_capacity(e.statements.len() + 1), Vec::with_capacity(e.statements.len() + 1));
    for s in &e.statements {
        d.s = s;
        let op = d.statement()?;
        let (guard, flip) = match s.guard {
            Some((r, invert)) => (d.pred_reg(r)?, if invert { u32::MAX } else { 0 }),
            None => (TRUE, 0),
        };
        insts.push(Inst { op, guard, flip });
        sites.push(Site {
            ptx_line: s.line,
            loc: s.loc,
            text: s.text.split_whitespace().collect::<Vec<_>>().join(" "),
        });
    }
    // Falling off the end returns.
    insts.push(Inst { op: Op::Flow(Flow::Exit), guard: TRUE, flip: 0 });
    let last = sites.last().cloned();
    sites.extend(last);
    cfg::set_joins(&mut insts);
    let fixed = d.fixed.map(|m| m.into_iter().collect());
    Ok(Entry {
        name: e.name.to_owned(),
        insts,
        sites,
        slots: [FIRST[0] + e.counts[0], d.next[0], d.next[1]],
        fixed,
        params,
        kinds: e.params.iter().map(|p| (p.ty.to_owned(), p.pointer)).collect(),
        shared_base: shared_base as u32,
        shared_static: (shared - shared_base) as u32,
        local_bytes: (local - LOCAL_BASE) as u32,
        threads: e.threads,
    })
}

/// One of so many registers with numbers.
fn numbered(name: &str, prefix: &str, count: u32) -> bool {
    let number = name.strip_prefix(prefix).filter(|digits| digits.bytes().all(|c| c.is_ascii_digit()));
    number.and_then(|digits| digits.parse().ok()).is_some_and(|n: u32| n < count)
}

fn special(name: &str) -> Option<Special> {
    let axis = |s: &str| match s {
        "x" => Some(0),
        "y" => Some(1),
        "z" => Some(2),
        _ => None,
    };
    if let Some((base, a)) = name.split_once('.') {
        let a = axis(a)?;
        return Some(match base {
            "%tid" => Special::Tid(a),
            "%ntid" => Special::Ntid(a),
            "%ctaid" | "%clusterid" => Special::Ctaid(a),
            "%nctaid" | "%nclusterid" => Special::Nctaid(a),
            "%cluster_ctaid" => Special::Zero,
            "%cluster_nctaid" => Special::One,
            _ => return None,
        });
    }
    Some(match name {
        "%laneid" => Special::LaneId,
        "%warpid" => Special::WarpId,
        "%nwarpid" => Special::NWarpId,
        "%lanemask_eq" => Special::LaneMaskEq,
        "%lanemask_le" => Special::LaneMaskLe,
        "%lanemask_lt" => Special::LaneMaskLt,
        "%lanemask_ge" => Special::LaneMaskGe,
        "%lanemask_gt" => Special::LaneMaskGt,
        "%smid" | "%gridid" | "%cluster_ctarank" | "%current_graph_exec" => Special::Zero,
        // What the driver or a profiler may set, and here nobody does.
        _ if numbered(name, "%envreg", 32) || numbered(name.trim_end_matches("_64"), "%pm", 8) => Special::Zero,
        "%nsmid" | "%cluster_nctarank" => Special::One,
        "%dynamic_smem_size" => Special::DynamicShared,
        "%total_smem_size" | "%aggr_smem_size" => Special::TotalShared,
        // Nothing is reserved here.
        "%reserved_smem_offset_begin"
        | "%reserved_smem_offset_end"
        | "%reserved_smem_offset_cap"
        | "%reserved_smem_offset_0"
        | "%reserved_smem_offset_1" => Special::Zero,
        "WARP_SZ" => return None,
        _ => return None,
    })
}

impl<'a> Decoder<'_, 'a> {
    pub(crate) fn unknown<T>(&self) -> Res<T> {
        Err(LoadError::Unknown {
            line: self.s.line,
            instruction: self.s.text.split_whitespace().collect::<Vec<_>>().join(" "),
        })
    }

    /// Takes a modifier if it is there.
    pub(crate) fn take(&mut self, m: &str) -> bool {
        let at = self.mods.iter().position(|x| *x == m);
        if let Some(i) = at {
            self.mods.remove(i);
        }
        at.is_some()
    }

    /// Takes the first modifier that the table knows.
    pub(crate) fn pick<T: Copy>(&mut self, table: &[(&str, T)]) -> Option<T> {
        for i in 0..self.mods.len() {
            if let Some(&(_, v)) = table.iter().find(|(n, _)| *n == self.mods[i]) {
                self.mods.remove(i);
                return Some(v);
            }
        }
        None
    }

    pub(crate) fn need<T>(&self, v: Option<T>) -> Res<T> {
        v.map_or_else(|| self.unknown(), Ok)
    }

    /// The n-th type of the opcode.
    pub(crate) fn ty(&self, n: usize) -> Res<Type> {
        self.need(self.types.get(n).copied())
    }

    pub(crate) fn operand(&self, n: usize) -> Res<&Operand<'a>> {
        self.use_operands(n..n + 1);
        self.need(self.s.operands.get(n))
    }

    /// These operands are accounted for: looked at, or known to change nothing here.
    pub(crate) fn use_operands(&self, which: Range<usize>) {
        which.filter(|n| *n < 64).for_each(|n| self.used.set(self.used.get() | 1 << n));
    }

    /// The operands from `first` on change nothing here.
    pub(crate) fn ignore_from(&self, first: usize) {
        self.use_operands(first..self.count());
    }

    pub(crate) fn count(&self) -> usize {
        self.s.operands.len()
    }

    pub(crate) fn pred_reg(&self, r: Reg) -> Res<Slot> {
        if r.class == Class::Pred { Ok(FIRST[0] + r.index) } else { self.unknown() }
    }

    /// The variable or parameter that a name stands for at this statement.
    fn symbol(&self, name: &str) -> Option<(Store, u64)> {
        let (mut name, mut scope) = (name, self.s.scope);
        loop {
            let here = &self.entry.scopes[scope];
            if let Some(&(outer, from)) = here.aliases.get(name) {
                (name, scope) = (outer, from);
            } else if let Some(found) = self.symbols.get(&(scope, name)) {
                return Some(*found);
            } else if scope == 0 {
                return self.symbols.get(&(MODULE, name)).copied();
            } else {
                scope = here.parent;
            }
        }
    }

    fn fix(&mut self, file: usize, f: Fixed) -> Slot {
        let next = &mut self.next[file];
        *self.fixed[file].entry(f).or_insert_with(|| {
            *next += 1;
            *next - 1
        })
    }

    /// Slot of a source of this many bytes (1 to 4: a word; 8: a wide).
    pub(crate) fn source(&mut self, o: &Operand<'a>, ty: Type) -> Res<Slot> {
        let wide = ty.bytes() == 8;
        let file = usize::from(wide);
        match o {
            Operand::Reg(r) => match (r.class, wide) {
                (Class::Half | Class::Word, false) => Ok(FIRST[1] + r.index),
                (Class::Wide, true) => Ok(FIRST[2] + r.index),
                _ => self.unknown(),
            },
            Operand::Int(v) => {
                let bits = match ty.bytes() {
                    8 => *v,
                    2 => *v & 0xffff,
                    _ => *v & 0xffff_ffff,
                };
                Ok(self.fix(file, Fixed::Bits(bits)))
            }
            Operand::F32(v) if !wide => Ok(self.fix(0, Fixed::Bits(u64::from(*v)))),
            Operand::F64(v) if wide => Ok(self.fix(1, Fixed::Bits(*v))),
            Operand::F64(v) => {
                let f = f64::from_bits(*v) as f32;
                Ok(self.fix(0, Fixed::Bits(u64::from(f.to_bits()))))
            }
            Operand::Name(n) => {
                if let Some((_, at)) = self.symbol(n) {
                    return Ok(self.fix(file, Fixed::Bits(at)));
                }
                if *n == "WARP_SZ" {
                    return Ok(self.fix(file, Fixed::Bits(32)));
                }
                let sp = self.need(special(n))?;
                Ok(self.fix(file, Fixed::Special(sp)))
            }
            Operand::Address(b, off) => match **b {
                Operand::Name(n) => {
                    let (_, at) = self.need(self.symbol(n))?;
                    Ok(self.fix(file, Fixed::Bits(at.wrapping_add(*off as u64))))
                }
                _ => self.unknown(),
            },
            _ => self.unknown(),
        }
    }

    /// Slot of source operand `n`.
    pub(crate) fn src(&mut self, n: usize, ty: Type) -> Res<Slot> {
        let o = self.operand(n)?.clone();
        self.source(&o, ty)
    }

    /// A destination register of this width class; a sink has a slot of its own.
    pub(crate) fn dest(&self, o: &Operand<'a>, wide: bool) -> Res<Slot> {
        match o {
            Operand::Reg(r) => match (r.class, wide) {
                (Class::Half | Class::Word, false) => Ok(FIRST[1] + r.index),
                (Class::Wide, true) => Ok(FIRST[2] + r.index),
                _ => self.unknown(),
            },
            Operand::Sink => Ok(SINK),
            _ => self.unknown(),
        }
    }

    pub(crate) fn dst(&self, n: usize, ty: Type) -> Res<Slot> {
        self.dest(self.operand(n)?, ty.bytes() == 8)
    }

    pub(crate) fn pred_dest(&self, o: &Operand<'a>) -> Res<Slot> {
        match o {
            Operand::Reg(r) => self.pred_reg(*r),
            Operand::Sink => Ok(SINK_PRED),
            _ => self.unknown(),
        }
    }

    /// A predicate source: slot and what to XOR it with.
    pub(crate) fn pred_source(&self, o: &Operand<'a>) -> Res<(Slot, u32)> {
        match o {
            Operand::Reg(r) => Ok((self.pred_reg(*r)?, 0)),
            Operand::Not(r) => Ok((self.pred_reg(*r)?, u32::MAX)),
            Operand::Int(0) | Operand::Name("%is_explicit_cluster") => Ok((TRUE, u32::MAX)),
            Operand::Int(_) => Ok((TRUE, 0)),
            _ => self.unknown(),
        }
    }

    pub(crate) fn pred(&self, n: usize) -> Res<(Slot, u32)> {
        self.pred_source(self.operand(n)?)
    }

    pub(crate) fn immediate(&self, n: usize) -> Res<u64> {
        match self.operand(n)? {
            Operand::Int(v) => Ok(*v),
            _ => self.unknown(),
        }
    }

    /// The two wides of 128 bits: a register, or a vector of both.
    fn quad_of(&self, o: &Operand<'a>) -> Option<[Operand<'a>; 2]> {
        match o {
            Operand::Reg(Reg { class: Class::Quad, index }) => {
                Some([0, 1].map(|half| Operand::Reg(Reg { class: Class::Wide, index: index + half })))
            }
            Operand::Vector(parts) => parts.clone().try_into().ok(),
            Operand::Sink => Some([Operand::Sink, Operand::Sink]),
            _ => None,
        }
    }

    pub(crate) fn quad(&mut self, n: usize) -> Res<[Slot; 2]> {
        let parts = self.quad_of(self.operand(n)?);
        let [low, high] = self.need(parts)?;
        Ok([self.source(&low, Type::B64)?, self.source(&high, Type::B64)?])
    }

    pub(crate) fn quad_dest(&self, n: usize) -> Res<[Slot; 2]> {
        let [low, high] = self.need(self.quad_of(self.operand(n)?))?;
        Ok([self.dest(&low, true)?, self.dest(&high, true)?])
    }

    /// `[base+offset]`; a symbol's own space where the opcode named none.
    pub(crate) fn address(&mut self, o: &Operand<'a>) -> Res<(Addr, Option<Space>)> {
        let (base, offset) = match o {
            Operand::Address(b, off) => (&**b, *off),
            _ => return self.unknown(),
        };
        match base {
            Operand::Reg(r) => {
                let wide = r.class == Class::Wide;
                let base = self.dest(base, wide)?;
                Ok((Addr { base, wide, offset }, None))
            }
            Operand::Int(v) => {
                let base = self.fix(1, Fixed::Bits(*v));
                Ok((Addr { base, wide: true, offset }, None))
            }
            Operand::Name(n) => {
                let (store, at) = self.need(self.symbol(n))?;
                let base = self.fix(1, Fixed::Bits(at));
                let space = match store {
                    Store::Global => Space::Global,
                    Store::Const => Space::Const,
                    Store::Shared => Space::Shared,
                    Store::Local => Space::Local,
                    Store::Param => Space::Param,
                };
                Ok((Addr { base, wide: true, offset }, Some(space)))
            }
            _ => self.unknown(),
        }
    }

    pub(crate) fn addr(&mut self, n: usize) -> Res<Addr> {
        let o = self.operand(n)?.clone();
        Ok(self.address(&o)?.0)
    }

    /// The elements of a vector operand, or the one operand itself.
    pub(crate) fn elements(&self, n: usize) -> Res<Vec<Operand<'a>>> {
        Ok(match self.operand(n)? {
            Operand::Vector(v) => v.clone(),
            one => vec![one.clone()],
        })
    }

    pub(crate) fn dst_words(&self, n: usize) -> Res<Vec<Slot>> {
        self.elements(n)?.iter().map(|o| self.dest(o, false)).collect()
    }

    pub(crate) fn src_words(&mut self, n: usize) -> Res<Vec<Slot>> {
        self.elements(n)?.iter().map(|o| self.source(o, Type::B32)).collect()
    }

    pub(crate) fn round(&mut self) -> Option<Round> {
        self.pick(&[
            ("rn", Round::Nearest),
            ("rz", Round::Zero),
            ("rm", Round::Down),
            ("rp", Round::Up),
            ("rna", Round::Away),
        ])
    }

    /// The statement a label operand names.
    pub(crate) fn label(&self, n: usize) -> Res<u32> {
        match self.operand(n)? {
            Operand::Name(l) => match text::label(&self.entry.scopes, self.s.scope, l) {
                Some(at) => Ok(at as u32),
                None => Err(LoadError::Malformed { line: self.s.line, message: format!("no label `{l}`") }),
            },
            _ => self.unknown(),
        }
    }

    fn statement(&mut self) -> Res<Op> {
        let s = self.s;
        let mut parts = s.opcode.split('.').chain(s.apart.iter().flat_map(|q| q[1..].split('.')));
        let base = parts.next().unwrap_or("");
        self.used.set(0);
        self.mods.clear();
        self.types.clear();
        for p in parts {
            match Type::parse(p) {
                Some(t) => self.types.push(t),
                None => self.mods.push(p),
            }
        }
        let op = self.dispatch(base)?;
        // What is left over means something that is not known here.
        let all = (0..self.count()).all(|n| n < 64 && self.used.get() >> n & 1 != 0);
        if self.mods.is_empty() && all { Ok(op) } else { self.unknown() }
    }

    fn dispatch(&mut self, base: &str) -> Res<Op> {
        if let Some(op) = self.alu(base)? {
            return Ok(op);
        }
        if let Some(op) = self.video(base)? {
            return Ok(op);
        }
        if let Some(op) = self.float(base)? {
            return Ok(op);
        }
        if let Some(op) = self.memory(base)? {
            return Ok(op);
        }
        if let Some(op) = self.warp(base)? {
            return Ok(op);
        }
        if let Some(op) = self.asynchronous(base)? {
            return Ok(op);
        }
        self.unknown()
    }
}
