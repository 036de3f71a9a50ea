//! PTX text to entries of statements: scopes resolved, registers numbered, labels bound.

use crate::error::LoadError;
use crate::ptx::inline;
use crate::ptx::lex::{Kind, Token, lex};
use crate::ptx::link::link;
use crate::ptx::text::{
    Class, EntryText, Formal, Operand, Reg, Scope, Statement, Store, Text, Variable, declare, lookup,
};

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token<'a>>,
    at: usize,
}

type Res<T> = Result<T, LoadError>;

/// Registers of a kind, bytes of a variable, of a thread's own variable, and its alignment: beyond what any GPU has.
const MOST_REGISTERS: u64 = 1 << 16;
const MOST_BYTES: u64 = 1 << 32;
const MOST_LOCAL: u64 = 512 << 10;
const MOST_ALIGN: u64 = 1 << 20;

/// Parses a whole module.
pub(crate) fn parse(text: &str) -> Res<Text<'_>> {
    let mut p = Parser { text, tokens: lex(text)?, at: 0 };
    let mut out = Text::default();
    while p.at < p.tokens.len() {
        p.item(&mut out)?;
    }
    link(&mut out)?;
    for entry in &mut out.entries {
        inline::expand(entry, &out.functions, &out.pointers)?;
    }
    Ok(out)
}

/// Bytes of a fundamental type.
fn type_bytes(t: &str) -> Option<u64> {
    Some(match t {
        ".b8" | ".u8" | ".s8" => 1,
        ".b16" | ".u16" | ".s16" | ".f16" | ".bf16" => 2,
        ".b32" | ".u32" | ".s32" | ".f32" | ".f16x2" | ".bf16x2" => 4,
        ".b64" | ".u64" | ".s64" | ".f64" => 8,
        ".b128" => 16,
        _ => return None,
    })
}

impl<'a> Parser<'a> {
    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |t| t.line)
    }

    fn fail<T>(&self, message: impl Into<String>) -> Res<T> {
        Err(LoadError::Malformed { line: self.line(), message: message.into() })
    }

    fn peek(&self) -> Option<Kind<'a>> {
        self.tokens.get(self.at).map(|t| t.kind)
    }

    fn next(&mut self) -> Res<Kind<'a>> {
        match self.peek() {
            Some(k) => {
                self.at += 1;
                Ok(k)
            }
            None => self.fail("the text ends in the middle of a statement"),
        }
    }

    fn eat(&mut self, c: u8) -> bool {
        let hit = self.peek() == Some(Kind::Punct(c));
        self.at += usize::from(hit);
        hit
    }

    fn expect(&mut self, c: u8) -> Res<()> {
        if self.eat(c) { Ok(()) } else { self.fail(format!("expected `{}`", c as char)) }
    }

    fn word(&mut self) -> Res<&'a str> {
        match self.next()? {
            Kind::Word(w) => Ok(w),
            _ => {
                self.at -= 1;
                self.fail("expected a name")
            }
        }
    }

    fn int(&mut self) -> Res<u64> {
        let minus = self.eat(b'-');
        match self.next()? {
            Kind::Int(v) => Ok(if minus { v.wrapping_neg() } else { v }),
            _ => {
                self.at -= 1;
                self.fail("expected an integer")
            }
        }
    }

    fn skip_line(&mut self) {
        let line = self.line();
        while self.tokens.get(self.at).is_some_and(|t| t.line == line) {
            self.at += 1;
        }
    }

    fn skip_braces(&mut self) -> Res<()> {
        let mut depth = 0;
        loop {
            match self.next()? {
                Kind::Punct(b'{') => depth += 1,
                Kind::Punct(b'}') => depth -= 1,
                _ => continue,
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    fn item(&mut self, out: &mut Text<'a>) -> Res<()> {
        match self.word()? {
            ".version" | ".address_size" => self.skip_line(),
            ".target" => {
                out.target = self.word()?;
                self.at -= 1;
                self.skip_line();
            }
            ".file" => {
                let n = self.int()? as u32;
                if let Kind::Text(name) = self.next()? {
                    out.files.insert(n, name);
                }
                self.at -= 1;
                self.skip_line();
            }
            ".section" => {
                self.word()?;
                self.skip_braces()?;
            }
            ".visible" | ".weak" | ".extern" | ".common" => {}
            ".entry" => {
                let entry = self.entry()?;
                out.entries.push(entry);
            }
            ".func" => self.function(out)?,
            ".global" => self.variables(Store::Global, 0, &mut out.variables)?,
            ".const" => self.variables(Store::Const, 0, &mut out.variables)?,
            ".shared" => self.variables(Store::Shared, 0, &mut out.variables)?,
            other => {
                self.at -= 1;
                return Err(LoadError::Unknown { line: self.line(), instruction: other.to_owned() });
            }
        }
        Ok(())
    }

    /// A function, if it has a body: `.func (results) name (parameters) { … }`.
    fn function(&mut self, out: &mut Text<'a>) -> Res<()> {
        let mut f = EntryText { scopes: vec![Scope::default()], ..EntryText::default() };
        while matches!(self.peek(), Some(Kind::Word(w)) if w.starts_with('.')) {
            self.next()?;
        }
        f.formals[1] = self.formals(&mut f)?;
        f.name = self.word()?;
        f.formals[0] = self.formals(&mut f)?;
        loop {
            match self.next()? {
                Kind::Punct(b';') => return Ok(()),
                Kind::Punct(b'{') => break,
                _ => {}
            }
        }
        self.body(&mut f)?;
        // One copy for all calls, as on the GPU.
        out.variables.extend(f.variables.extract_if(.., |v| v.store == Store::Shared));
        out.functions.insert(f.name, f);
        Ok(())
    }

    /// A list of formal parameters in brackets, if there is one.
    fn formals(&mut self, f: &mut EntryText<'a>) -> Res<Vec<Formal<'a>>> {
        let mut list = Vec::new();
        if !self.eat(b'(') {
            return Ok(list);
        }
        while !self.eat(b')') {
            match self.word()? {
                ".param" => list.push(Formal::Memory(self.variable(Store::Param)?.name)),
                ".reg" => {
                    let class = self.class()?;
                    let name = self.word()?;
                    list.push(Formal::Reg(declare(f, 0, name, class, 0)));
                }
                _ => return self.fail("expected `.param` or `.reg`"),
            }
            self.eat(b',');
        }
        Ok(list)
    }

    /// One declaration after its state space, up to the `;` (or, for a parameter, up to `,` or `)`).
    fn variable(&mut self, store: Store) -> Res<Variable<'a>> {
        let (mut align, mut unit, mut vector) = (0, 0, 1);
        let name = loop {
            match self.word()? {
                ".align" => align = self.int()?,
                ".ptr" | ".global" | ".const" | ".shared" | ".local" if store == Store::Param => {}
                ".v2" => vector = 2,
                ".v4" => vector = 4,
                w => match type_bytes(w) {
                    Some(n) => unit = n,
                    None if w.starts_with('.') => return self.fail(format!("`{w}` in a declaration")),
                    None => break w,
                },
            }
        };
        let unit_bytes = unit * vector;
        let mut bytes = unit_bytes;
        while self.eat(b'[') {
            let count = if self.peek() == Some(Kind::Punct(b']')) { 0 } else { self.int()? };
            self.expect(b']')?;
            bytes = bytes.saturating_mul(count);
        }
        let most = if store == Store::Local { MOST_LOCAL } else { MOST_BYTES };
        if bytes > most || align > MOST_ALIGN {
            return self
                .fail(format!("`{name}` has {bytes} bytes, aligned to {align}: at most {most} and {MOST_ALIGN}"));
        }
        let (mut init, mut links) = (Vec::new(), Vec::new());
        if self.eat(b'=') {
            let mut depth = 0;
            let size = unit.min(8) as usize;
            loop {
                match self.next()? {
                    Kind::Punct(b'{') => depth += 1,
                    Kind::Punct(b'}') => depth -= 1,
                    Kind::Punct(b',') => {}
                    Kind::Punct(b'-') => init.extend_from_slice(&self.int()?.wrapping_neg().to_le_bytes()[..size]),
                    Kind::Int(v) => init.extend_from_slice(&v.to_le_bytes()[..size]),
                    Kind::F32(v) => init.extend_from_slice(&v.to_le_bytes()),
                    Kind::F64(v) => init.extend_from_slice(&v.to_le_bytes()),
                    // A variable or a function, or a variable as `generic(…)`, which is the same address.
                    Kind::Word(name) if unit == 8 => {
                        let name = if name == "generic" && self.eat(b'(') {
                            let name = self.word()?;
                            self.expect(b')')?;
                            name
                        } else {
                            name
                        };
                        links.push((init.len(), name, self.line()));
                        init.extend([0; 8]);
                    }
                    _ => return self.fail("an initialiser that is neither a number nor, in 64 bits, a name"),
                }
                if depth == 0 {
                    break;
                }
            }
        }
        Ok(Variable { name, store, align: align.max(unit_bytes), bytes, init, links, scope: 0 })
    }

    fn variables(&mut self, store: Store, scope: usize, out: &mut Vec<Variable<'a>>) -> Res<()> {
        loop {
            out.push(Variable { scope, ..self.variable(store)? });
            if !self.eat(b',') {
                return self.expect(b';');
            }
        }
    }

    fn entry(&mut self) -> Res<EntryText<'a>> {
        let mut e = EntryText { name: self.word()?, scopes: vec![Scope::default()], ..EntryText::default() };
        if self.eat(b'(') {
            while !self.eat(b')') {
                if self.word()? != ".param" {
                    return self.fail("expected `.param`");
                }
                e.params.push(self.variable(Store::Param)?);
                self.eat(b',');
            }
        }
        while !self.eat(b'{') {
            match self.word()? {
                d @ (".maxntid" | ".reqntid") => {
                    let mut dims = [1; 3];
                    for (i, dim) in dims.iter_mut().enumerate() {
                        if i == 0 || self.eat(b',') {
                            *dim = self.int()? as u32;
                        }
                    }
                    e.threads = Some((dims, d == ".reqntid"));
                }
                ".minnctapersm" | ".maxnreg" | ".maxnctapersm" => {
                    self.int()?;
                }
                ".pragma" => {
                    self.next()?;
                    self.expect(b';')?;
                }
                other => {
                    self.at -= 1;
                    return Err(LoadError::Unknown { line: self.line(), instruction: other.to_owned() });
                }
            }
        }
        self.body(&mut e)?;
        Ok(e)
    }

    /// Statements and declarations after a `{`, up to its `}`.
    fn body(&mut self, e: &mut EntryText<'a>) -> Res<()> {
        let mut open = vec![0];
        let mut loc = None;
        while let Some(&scope) = open.last() {
            match self.next()? {
                Kind::Punct(b'{') => {
                    e.scopes.push(Scope { parent: scope, ..Scope::default() });
                    open.push(e.scopes.len() - 1);
                }
                Kind::Punct(b'}') => {
                    open.pop();
                }
                Kind::Punct(b';') => {}
                Kind::Punct(b'@') => {
                    let invert = self.eat(b'!');
                    let name = self.word()?;
                    let Some(reg) = lookup(&e.scopes, scope, name) else {
                        return self.fail(format!("`{name}` is not declared"));
                    };
                    let opcode = self.word()?;
                    self.statement(e, scope, loc, Some((reg, invert)), opcode)?;
                }
                Kind::Word(".loc") => {
                    let (file, line) = (self.int()? as u32, self.int()? as u32);
                    // Line 0 marks code of no line of its own: it belongs with what came before.
                    if line != 0 {
                        loc = Some((file, line));
                    }
                    self.at -= 1;
                    self.skip_line();
                }
                Kind::Word(".reg") => {
                    let class = self.class()?;
                    self.registers(e, scope, class)?;
                }
                // The type may follow without a space.
                Kind::Word(w) if w.starts_with(".reg.") => {
                    let class = self.class_of(&w[4..])?;
                    self.registers(e, scope, class)?;
                }
                Kind::Word(".shared") => self.variables(Store::Shared, scope, &mut e.variables)?,
                // Arguments on their way to a function and back are a thread's own, too.
                Kind::Word(".local" | ".param") => self.variables(Store::Local, scope, &mut e.variables)?,
                Kind::Word(".pragma") => {
                    self.next()?;
                }
                Kind::Word(w) if self.eat(b':') => {
                    if self.peek() == Some(Kind::Word(".branchtargets")) {
                        self.at += 1;
                        let mut labels = Vec::new();
                        while !self.eat(b';') {
                            labels.push(self.word()?);
                            self.eat(b',');
                        }
                        e.scopes[scope].targets.insert(w, labels);
                        continue;
                    }
                    if self.peek() == Some(Kind::Word(".callprototype")) {
                        // What a pointer points to says the same.
                        while !self.eat(b';') {
                            self.next()?;
                        }
                        continue;
                    }
                    let at = e.statements.len();
                    e.scopes[scope].labels.insert(w, at);
                }
                Kind::Word(w) => self.statement(e, scope, loc, None, w)?,
                _ => {
                    self.at -= 1;
                    return self.fail("expected an instruction");
                }
            }
        }
        inline::branch_tables(e);
        Ok(())
    }

    fn class(&mut self) -> Res<Class> {
        let word = self.word()?;
        self.class_of(word)
    }

    fn class_of(&self, word: &str) -> Res<Class> {
        Ok(match word {
            ".pred" => Class::Pred,
            t => match type_bytes(t) {
                Some(1 | 2) => Class::Half,
                Some(4) => Class::Word,
                Some(8) => Class::Wide,
                _ => return Err(LoadError::Unknown { line: self.line(), instruction: format!(".reg {t}") }),
            },
        })
    }

    fn registers(&mut self, e: &mut EntryText<'a>, scope: usize, class: Class) -> Res<()> {
        loop {
            let name = self.word()?;
            let n = if self.eat(b'<') {
                let n = self.int()?;
                self.expect(b'>')?;
                n
            } else {
                0
            };
            let all = n + u64::from(e.counts[class.file()]);
            if n > MOST_REGISTERS || all > MOST_REGISTERS {
                return self.fail(format!("{all} registers of a kind in one kernel: at most {MOST_REGISTERS}"));
            }
            let n = n as u32;
            declare(e, scope, name, class, n);
            if self.eat(b';') {
                return Ok(());
            }
            self.expect(b',')?;
        }
    }

    fn statement(
        &mut self,
        e: &mut EntryText<'a>,
        scope: usize,
        loc: Option<(u32, u32)>,
        guard: Option<(Reg, bool)>,
        opcode: &'a str,
    ) -> Res<()> {
        let first = self.tokens[self.at - 1];
        let mut operands = Vec::new();
        while !self.eat(b';') {
            operands.push(self.operand(&e.scopes, scope)?);
            if !self.eat(b',') && self.peek() != Some(Kind::Punct(b';')) {
                return self.fail(format!("expected `,` or `;` after an operand of {opcode}"));
            }
        }
        let text = &self.text[first.start..self.tokens[self.at - 1].end];
        e.statements.push(Statement { guard, opcode, operands, scope, line: first.line, loc, text });
        Ok(())
    }

    fn operand(&mut self, scopes: &[Scope<'a>], scope: usize) -> Res<Operand<'a>> {
        let first = self.simple(scopes, scope)?;
        if self.eat(b'|') {
            let second = self.simple(scopes, scope)?;
            return Ok(Operand::Pair(Box::new(first), Box::new(second)));
        }
        Ok(first)
    }

    fn simple(&mut self, scopes: &[Scope<'a>], scope: usize) -> Res<Operand<'a>> {
        Ok(match self.next()? {
            Kind::Word("_") => Operand::Sink,
            Kind::Word(w) => match lookup(scopes, scope, w) {
                Some(r) => Operand::Reg(r),
                None => {
                    // `symbol+offset` as a plain operand.
                    if self.peek() == Some(Kind::Punct(b'+')) {
                        self.at += 1;
                        Operand::Address(Box::new(Operand::Name(w)), self.int()? as i64)
                    } else {
                        Operand::Name(w)
                    }
                }
            },
            Kind::Int(v) => Operand::Int(v),
            Kind::F32(v) => Operand::F32(v),
            Kind::F64(v) => Operand::F64(v),
            Kind::Punct(b'-') => match self.next()? {
                Kind::Int(v) => Operand::Int(v.wrapping_neg()),
                Kind::F32(v) => Operand::F32(v ^ 0x8000_0000),
                Kind::F64(v) => Operand::F64(v ^ (1 << 63)),
                _ => return self.fail("expected a number after `-`"),
            },
            Kind::Punct(b'!') => match self.simple(scopes, scope)? {
                Operand::Reg(r) => Operand::Not(r),
                _ => return self.fail("expected a predicate after `!`"),
            },
            Kind::Punct(b'{') => Operand::Vector(self.list(scopes, scope, b'}')?),
            // Arguments and results of a call.
            Kind::Punct(b'(') => Operand::Vector(self.list(scopes, scope, b')')?),
            Kind::Punct(b'[') => {
                let base = self.simple(scopes, scope)?;
                if self.eat(b',') {
                    let coordinates = match self.operand(scopes, scope)? {
                        Operand::Vector(v) => v,
                        one => vec![one],
                    };
                    self.expect(b']')?;
                    return Ok(Operand::Tile(Box::new(base), coordinates));
                }
                let (base, mut offset) = match base {
                    Operand::Address(b, o) => (*b, o),
                    other => (other, 0),
                };
                if self.eat(b'+') || self.peek() == Some(Kind::Punct(b'-')) {
                    offset += self.int()? as i64;
                }
                self.expect(b']')?;
                Operand::Address(Box::new(base), offset)
            }
            _ => {
                self.at -= 1;
                return self.fail("expected an operand");
            }
        })
    }

    fn list(&mut self, scopes: &[Scope<'a>], scope: usize, close: u8) -> Res<Vec<Operand<'a>>> {
        let mut v = Vec::new();
        while !self.eat(close) {
            v.push(self.operand(scopes, scope)?);
            self.eat(b',');
        }
        Ok(v)
    }
}
