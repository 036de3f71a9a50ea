//! PTX text to entries of statements: scopes resolved, registers numbered, labels bound.

use crate::error::LoadError;
use crate::ptx::calls::{Calls, Loc, Spot};
use crate::ptx::inline;
use crate::ptx::lex::{Kind, Token, lex};
use crate::ptx::link::link;
use crate::ptx::text::{
    Class, EntryText, Formal, Operand, Reg, Scope, Statement, Store, Text, Variable, Vectors, declare, lookup,
};

pub(super) struct Parser<'a> {
    text: &'a str,
    pub(super) tokens: Vec<Token<'a>>,
    pub(super) at: usize,
    /// A call is read: brackets hold its arguments, not a constant.
    pub(super) calls: bool,
    /// Calls of functions that were written out.
    written_out: Calls,
}

pub(super) type Res<T> = Result<T, LoadError>;

/// Registers of a kind, bytes of a variable, of a thread's own variable, and its alignment: beyond what any GPU has.
const MOST_REGISTERS: u64 = 1 << 16;
pub(super) const MOST_BYTES: u64 = 1 << 32;
pub(super) const MOST_LOCAL: u64 = 512 << 10;
pub(super) const MOST_ALIGN: u64 = 1 << 20;
/// Numbers of source files, and lines of one.
const MOST_FILES: u64 = 1 << 16;
const MOST_LINES: u64 = u32::MAX as u64;

/// Parses a whole module.
pub(crate) fn parse(text: &str) -> Res<Text<'_>> {
    let mut p = Parser { text, tokens: lex(text)?, at: 0, calls: false, written_out: Calls::default() };
    let mut out = Text::default();
    while p.at < p.tokens.len() {
        p.item(&mut out)?;
    }
    out.calls = p.written_out;
    link(&mut out)?;
    for entry in &mut out.entries {
        inline::expand(entry, &out.functions, &out.pointers)?;
    }
    Ok(out)
}

/// Bytes of a fundamental type.
pub(super) fn type_bytes(t: &str) -> Option<u64> {
    Some(match t {
        ".b8" | ".u8" | ".s8" => 1,
        ".b16" | ".u16" | ".s16" | ".f16" | ".bf16" => 2,
        ".b32" | ".u32" | ".s32" | ".f32" | ".f16x2" | ".bf16x2" => 4,
        ".b64" | ".u64" | ".s64" | ".f64" => 8,
        ".b128" => 16,
        _ => return None,
    })
}

/// What a function declares of the module's memory is the module's, once, and known in the function alone.
fn own_variables<'a>(f: &mut EntryText<'a>, out: &mut Text<'a>) {
    let stored = |v: &Variable<'_>| matches!(v.store, Store::Global | Store::Const);
    for v in f.variables.iter_mut().filter(|v| stored(v)) {
        v.window = Some(out.variables.iter().filter(|v| stored(v)).count() as u64);
        out.variables.push(Variable { hidden: true, ..v.clone() });
    }
}

impl<'a> Parser<'a> {
    pub(super) fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |t| t.line)
    }

    pub(super) fn fail<T>(&self, message: impl Into<String>) -> Res<T> {
        Err(LoadError::Malformed { line: self.line(), message: message.into() })
    }

    pub(super) fn peek(&self) -> Option<Kind<'a>> {
        self.tokens.get(self.at).map(|t| t.kind)
    }

    pub(super) fn next(&mut self) -> Res<Kind<'a>> {
        match self.peek() {
            Some(k) => {
                self.at += 1;
                Ok(k)
            }
            None => self.fail("the text ends in the middle of a statement"),
        }
    }

    pub(super) fn eat(&mut self, c: u8) -> bool {
        let hit = self.peek() == Some(Kind::Punct(c));
        self.at += usize::from(hit);
        hit
    }

    pub(super) fn expect(&mut self, c: u8) -> Res<()> {
        if self.eat(c) { Ok(()) } else { self.fail(format!("expected `{}`", c as char)) }
    }

    pub(super) fn word(&mut self) -> Res<&'a str> {
        match self.next()? {
            Kind::Word(w) => Ok(w),
            _ => {
                self.at -= 1;
                self.fail("expected a name")
            }
        }
    }

    /// A directive, or another word: where a type or space follows without white space, it becomes the next.
    pub(super) fn directive(&mut self) -> Res<&'a str> {
        let word = self.word()?;
        let Some(dot) = word.get(1..).filter(|_| word.starts_with('.')).and_then(|rest| rest.find('.')) else {
            return Ok(word);
        };
        self.at -= 1;
        let token = &mut self.tokens[self.at];
        token.start += dot + 1;
        token.kind = Kind::Word(&word[dot + 1..]);
        Ok(&word[..=dot])
    }

    /// The number of a source file.
    fn file(&mut self) -> Res<u32> {
        let n = self.int()?;
        match u32::try_from(n) {
            Ok(file) if n <= MOST_FILES => Ok(file),
            _ => self.fail(format!("file number {n}: at most {MOST_FILES}")),
        }
    }

    fn source_line(&mut self) -> Res<u32> {
        let n = self.int()?;
        u32::try_from(n).or_else(|_| self.fail(format!("line {n}: at most {MOST_LINES}")))
    }

    /// `.loc`, its name taken: file, line, column, and where the function it is of was written out.
    fn loc(&mut self) -> Res<Loc> {
        let (spot, mut inlined_at) = (self.spot()?, None);
        while self.eat(b',') {
            match self.word()? {
                "function_name" => {
                    self.word()?;
                    if self.eat(b'+') {
                        self.int()?;
                    }
                }
                "inlined_at" => {
                    inlined_at = Some(self.spot()?).filter(|(_, line, _)| *line != 0);
                }
                other => return self.fail(format!("`{other}` in a .loc")),
            }
        }
        Ok(self.written_out.loc(spot, inlined_at))
    }

    fn spot(&mut self) -> Res<Spot> {
        Ok((self.file()?, self.source_line()?, self.int()?))
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
        let line = self.line();
        match self.directive()? {
            ".version" => {
                self.next()?;
            }
            ".address_size" => {
                let bits = self.int()?;
                if bits != 64 {
                    return self.fail(format!("addresses of {bits} bits: the virtual machine has 64"));
                }
            }
            ".target" => {
                out.target = self.word()?;
                while self.eat(b',') {
                    self.word()?;
                }
            }
            ".file" => {
                let n = self.file()?;
                let Kind::Text(name) = self.next()? else { return self.fail("expected the name of a file") };
                out.files.insert(n, name);
                while self.eat(b',') {
                    self.int()?;
                }
            }
            ".section" => {
                self.word()?;
                self.skip_braces()?;
            }
            ".visible" | ".weak" | ".extern" | ".common" => {}
            ".pragma" => {
                self.next()?;
                self.expect(b';')?;
            }
            ".entry" => {
                let mut entry = self.entry()?;
                own_variables(&mut entry, out);
                out.entries.push(entry);
            }
            ".func" => self.function(out)?,
            ".global" => self.variables(Store::Global, 0, &mut out.variables)?,
            ".const" => self.variables(Store::Const, 0, &mut out.variables)?,
            ".shared" => self.variables(Store::Shared, 0, &mut out.variables)?,
            other => return Err(LoadError::Unknown { line, instruction: other.to_owned() }),
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
        own_variables(&mut f, out);
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
            match self.directive()? {
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
                if self.directive()? != ".param" {
                    return self.fail("expected `.param`");
                }
                e.params.push(self.variable(Store::Param)?);
                self.eat(b',');
            }
        }
        while !self.eat(b'{') {
            let line = self.line();
            match self.word()? {
                d @ (".maxntid" | ".reqntid") => {
                    let mut dims = [1; 3];
                    for (i, dim) in dims.iter_mut().enumerate() {
                        if i == 0 || self.eat(b',') {
                            let n = self.int()?;
                            *dim = u32::try_from(n).or_else(|_| self.fail(format!("{n} threads in a block")))?;
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
                // A block is alone in its cluster.
                ".explicitcluster" => {}
                ".maxclusterrank" => {
                    self.int()?;
                }
                ".reqnctapercluster" => {
                    let mut blocks = self.int()?;
                    while self.eat(b',') {
                        blocks = blocks.saturating_mul(self.int()?);
                    }
                    if blocks != 1 {
                        return self.fail(format!("clusters of {blocks} blocks: the virtual machine has those of one"));
                    }
                }
                other => return Err(LoadError::Unknown { line, instruction: other.to_owned() }),
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
                    let place = self.loc()?;
                    // Line 0 marks code of no line of its own: it belongs with what came before.
                    if place.line != 0 {
                        loc = Some(place);
                    }
                }
                Kind::Word(w) if w.starts_with('.') && w != ".pragma" => {
                    self.at -= 1;
                    self.declaration(e, scope)?;
                }
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

    /// Registers or variables of a function.
    fn declaration(&mut self, e: &mut EntryText<'a>, scope: usize) -> Res<()> {
        let line = self.line();
        let store = match self.directive()? {
            ".reg" => return self.registers(e, scope),
            ".shared" => Store::Shared,
            // Arguments on their way to a function and back are a thread's own, too.
            ".local" | ".param" => Store::Local,
            ".global" => Store::Global,
            ".const" => Store::Const,
            other => return Err(LoadError::Unknown { line, instruction: other.to_owned() }),
        };
        self.variables(store, scope, &mut e.variables)
    }

    fn class(&mut self) -> Res<Class> {
        let word = self.directive()?;
        self.class_of(word)
    }

    fn class_of(&self, word: &str) -> Res<Class> {
        Ok(match word {
            ".pred" => Class::Pred,
            t => match type_bytes(t) {
                Some(1 | 2) => Class::Half,
                Some(4) => Class::Word,
                Some(8) => Class::Wide,
                _ if t == ".b128" => Class::Quad,
                _ => return Err(LoadError::Unknown { line: self.line(), instruction: format!(".reg {t}") }),
            },
        })
    }

    fn registers(&mut self, e: &mut EntryText<'a>, scope: usize) -> Res<()> {
        let vector = match self.peek() {
            Some(Kind::Word(w)) if w.starts_with(".v2") => 2,
            Some(Kind::Word(w)) if w.starts_with(".v4") => 4,
            _ => 0,
        };
        if vector > 0 {
            self.directive()?;
        }
        let class = self.class()?;
        loop {
            let name = self.word()?;
            let n = if self.eat(b'<') {
                let n = self.literal()?;
                self.expect(b'>')?;
                n
            } else {
                0
            };
            let all = n * u64::from(vector.max(1)) + u64::from(e.counts[class.file()]);
            if n > MOST_REGISTERS || all > MOST_REGISTERS {
                return self.fail(format!("{all} registers of a kind in one kernel: at most {MOST_REGISTERS}"));
            }
            if vector > 0 {
                let (index, count) = (e.counts[class.file()], n as u32);
                e.counts[class.file()] += vector * count.max(1);
                e.scopes[scope].vectors.insert(name, Vectors { class, index, width: vector, count });
            } else {
                declare(e, scope, name, class, n as u32);
            }
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
        loc: Option<Loc>,
        guard: Option<(Reg, bool)>,
        opcode: &'a str,
    ) -> Res<()> {
        let first = self.tokens[self.at - 1];
        self.calls = opcode == "call" || opcode.starts_with("call.");
        let (mut operands, mut apart) = (Vec::new(), Vec::new());
        while let Some(Kind::Word(w)) = self.peek()
            && w.starts_with('.')
        {
            apart.push(w);
            self.at += 1;
        }
        while !self.eat(b';') {
            operands.push(self.operand(&e.scopes, scope)?);
            if !self.eat(b',') && self.peek() != Some(Kind::Punct(b';')) {
                return self.fail(format!("expected `,` or `;` after an operand of {opcode}"));
            }
        }
        let text = &self.text[first.start..self.tokens[self.at - 1].end];
        let statement = Statement { guard, opcode, apart, operands, scope, line: first.line, loc, text };
        // A move of vectors is a move of each element.
        if let Some(ty) = ["mov.v2", "mov.v4", "mov.v8"].iter().find_map(|v| opcode.strip_prefix(v))
            && let [Operand::Vector(to), Operand::Vector(from)] = &statement.operands[..]
            && to.len() == from.len()
        {
            let apart: Vec<&str> =
                [ty].into_iter().filter(|ty| !ty.is_empty()).chain(statement.apart.clone()).collect();
            for (d, a) in in_turn(e, to, from) {
                let operands = vec![d, a];
                e.statements.push(Statement { opcode: "mov", apart: apart.clone(), operands, ..statement.clone() });
            }
            return Ok(());
        }
        e.statements.push(statement);
        Ok(())
    }
}

/// Moves of elements, one after another, that do what one move of all does: where an element is read after it was
/// written, all go through registers of their own.
fn in_turn<'a>(e: &mut EntryText<'a>, to: &[Operand<'a>], from: &[Operand<'a>]) -> Vec<(Operand<'a>, Operand<'a>)> {
    let overlap = from.iter().enumerate().any(|(i, read)| to[..i].contains(read));
    let pairs = || to.iter().cloned().zip(from.iter().cloned());
    if !overlap {
        return pairs().collect();
    }
    let (mut first, mut then) = (Vec::new(), Vec::new());
    for (d, a) in pairs() {
        let Operand::Reg(Reg { class, .. }) = d else { continue };
        let count = &mut e.counts[class.file()];
        let own = Operand::Reg(Reg { class, index: *count });
        *count += 1;
        first.push((own.clone(), a));
        then.push((d, own));
    }
    first.append(&mut then);
    first
}
