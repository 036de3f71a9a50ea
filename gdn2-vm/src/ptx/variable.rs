//! Declarations of variables: sizes, constant expressions and initial values by type and nesting (PTX ISA 5.4, 4.6).

use super::parse::{MOST_ALIGN, MOST_BYTES, MOST_LOCAL, Parser, Res, type_bytes};
use super::text::{Initial, Operand, Store, Variable};
use crate::isa::operators::Round;
use crate::num::{Type, to_half};
use crate::ptx::lex::{Kind, Token};

/// A constant of a declaration.
#[derive(Clone, Copy, Debug)]
enum Constant<'a> {
    Int(u64),
    F32(u32),
    F64(u64),
    /// The address of a variable or function, and what is added to it.
    Address(&'a str, u64),
}

/// An initial value as it is nested.
#[derive(Debug)]
enum Node<'a> {
    Value(Constant<'a>, u32),
    List(Vec<Node<'a>>),
}

/// What the elements of a variable are.
#[derive(Clone, Copy)]
struct Element {
    bytes: u64,
    float: Option<Type>,
}

/// Operators by how tightly they bind, the loosest first.
const OPERATORS: [&[&str]; 10] = [
    &["||"],
    &["&&"],
    &["|"],
    &["^"],
    &["&"],
    &["==", "!="],
    &["<=", ">=", "<", ">"],
    &["<<", ">>"],
    &["+", "-"],
    &["*", "/", "%"],
];

/// The level from which an operand's constants may be computed: a bar stands between two operands.
const NO_BARS: usize = 3;

/// Brackets and signs within one another.
const MOST_NESTED: u32 = 64;

impl<'a> Parser<'a> {
    /// One declaration after its state space, up to the `;` (or, for a parameter, up to `,` or `)`).
    pub(super) fn variable(&mut self, store: Store) -> Res<Variable<'a>> {
        let (mut align, mut vector, mut ty, mut pointer) = (0, 1, "", false);
        let mut element = Element { bytes: 0, float: None };
        let name = loop {
            match self.directive()? {
                ".align" => align = self.int()?,
                ".ptr" if store == Store::Param => pointer = true,
                ".global" | ".const" | ".shared" | ".local" if store == Store::Param => {}
                ".attribute" => {
                    self.expect(b'(')?;
                    while !self.eat(b')') {
                        self.next()?;
                    }
                }
                ".v2" => vector = 2,
                ".v4" => vector = 4,
                w => match type_bytes(w) {
                    Some(bytes) => {
                        let float = w.strip_prefix('.').and_then(Type::parse).filter(|t| t.float());
                        (element, ty) = (Element { bytes, float }, w);
                    }
                    None if w.starts_with('.') => return self.fail(format!("`{w}` in a declaration")),
                    None => break w,
                },
            }
        };
        let unit = element.bytes * vector;
        let mut dims = Vec::new();
        while self.eat(b'[') {
            dims.push(if self.peek() == Some(Kind::Punct(b']')) { 0 } else { self.int()? });
            self.expect(b']')?;
        }
        let node = if self.eat(b'=') { Some(self.node(element.bytes == 8, 0)?) } else { None };
        if vector > 1 {
            dims.push(vector);
        }
        let most = if store == Store::Local { MOST_LOCAL } else { MOST_BYTES };
        let whole = |dims: &[u64]| dims.iter().fold(element.bytes, |all, n| all.saturating_mul(*n));
        let inner = if dims.is_empty() { 0 } else { whole(&dims[1..]) };
        if whole(&dims).max(inner) > most || align > MOST_ALIGN {
            let bytes = whole(&dims).max(inner);
            return self
                .fail(format!("`{name}` has {bytes} bytes, aligned to {align}: at most {most} and {MOST_ALIGN}"));
        }
        let mut init = Vec::new();
        if let Some(node) = node {
            let given = self.fill(element, &node, &dims, 0, &mut init)?;
            // The first dimension may be left out: the initial value says it.
            if dims.first() == Some(&0) {
                dims[0] = given.div_ceil((inner / element.bytes.max(1)).max(1));
            }
            if whole(&dims) > most {
                return self.fail(format!("`{name}` has {} bytes: at most {most}", whole(&dims)));
            }
        }
        let (bytes, align) = (whole(&dims), align.max(unit));
        Ok(Variable { name, store, align, ty, pointer, bytes, init, scope: 0, window: None, hidden: false })
    }

    fn node(&mut self, names: bool, depth: u32) -> Res<Node<'a>> {
        let line = self.line();
        if depth > MOST_NESTED {
            return self.fail(format!("an initial value nested more than {MOST_NESTED} deep"));
        }
        if !self.eat(b'{') {
            return Ok(Node::Value(self.initial_constant(names)?, line));
        }
        let mut list = Vec::new();
        while !self.eat(b'}') {
            list.push(self.node(names, depth + 1)?);
            if !self.eat(b',') && self.peek() != Some(Kind::Punct(b'}')) {
                return self.fail("expected `,` or `}` in an initial value");
            }
        }
        Ok(Node::List(list))
    }

    /// A constant, or in 64 bits a variable or function, by name or as `generic(name)`, which is the same address.
    fn initial_constant(&mut self, names: bool) -> Res<Constant<'a>> {
        let Some(Kind::Word(name)) = self.peek() else { return self.expression(0, 0) };
        if !names {
            return self.fail("an initialiser that is neither a number nor, in 64 bits, a name");
        }
        self.next()?;
        let name = if name == "generic" && self.eat(b'(') {
            let name = self.word()?;
            self.expect(b')')?;
            name
        } else {
            name
        };
        let more = self.eat(b'+') || self.peek() == Some(Kind::Punct(b'-'));
        let offset = if more { self.int()? } else { 0 };
        Ok(Constant::Address(name, offset))
    }

    /// Writes a value into a variable of these dimensions from this element on; returns how many elements it reaches.
    fn fill(&self, e: Element, node: &Node<'a>, dims: &[u64], at: u64, out: &mut Vec<Initial<'a>>) -> Res<u64> {
        let list = match (node, dims) {
            (Node::Value(c, line), _) => {
                out.push(self.initial(e, *c, at, *line)?);
                return Ok(1);
            }
            (Node::List(list), []) if list.len() == 1 => return self.fill(e, &list[0], &[], at, out),
            (Node::List(_), []) => return self.fail("more initial values than the variable has elements"),
            (Node::List(list), _) => list,
        };
        let inner = &dims[1..];
        let stride = inner.iter().fold(1u64, |all, n| all.saturating_mul(*n));
        let mut reached = 0u64;
        for node in list {
            if let (Node::List(_), [_, ..]) = (node, inner) {
                reached = reached.div_ceil(stride.max(1)) * stride;
                self.fill(e, node, inner, at + reached, out)?;
                reached += stride;
            } else {
                reached += self.fill(e, node, &[], at + reached, out)?;
            }
            if dims[0] > 0 && reached > dims[0].saturating_mul(stride) {
                return self.fail("more initial values than the variable has elements");
            }
        }
        Ok(reached)
    }

    /// The bytes of one element: a number takes the element's type.
    fn initial(&self, e: Element, c: Constant<'a>, at: u64, line: u32) -> Res<Initial<'a>> {
        let half = |x: f64, ty| u64::from(to_half(x, ty, Round::Nearest));
        let single = |x: f64| u64::from((x as f32).to_bits());
        let number = |x: f64, raw: u64| match e.float {
            Some(Type::F64) => x.to_bits(),
            Some(ty @ (Type::F16 | Type::Bf16)) => half(x, ty),
            Some(Type::F32) => single(x),
            _ => raw,
        };
        let (bits, link) = match c {
            Constant::Int(v) => (if e.float.is_some() { number(v as i64 as f64, v) } else { v }, None),
            // Written as bits: those of a 4-byte element stay as they are.
            Constant::F32(v) if e.bytes == 4 => (u64::from(v), None),
            Constant::F32(v) => (number(f64::from(f32::from_bits(v)), u64::from(v)), None),
            Constant::F64(v) if e.bytes == 8 => (v, None),
            Constant::F64(v) => {
                let x = f64::from_bits(v);
                (number(x, single(x)), None)
            }
            Constant::Address(name, offset) => (offset, Some((name, line))),
        };
        if e.bytes == 0 || e.bytes > 8 {
            return self.fail("an initial value of a type that takes none");
        }
        Ok(Initial { at: at * e.bytes, bits, bytes: e.bytes as u8, link })
    }

    /// A constant integer expression whose operators bind at least as tightly as `level`, or a single float.
    fn expression(&mut self, level: usize, depth: u32) -> Res<Constant<'a>> {
        if depth > MOST_NESTED {
            return self.fail(format!("a constant nested more than {MOST_NESTED} deep"));
        }
        let mut left = self.unary(depth)?;
        while let Constant::Int(a) = left {
            let Some((tight, operator)) = self.operator().filter(|(tight, _)| *tight >= level) else { break };
            self.at += operator.len();
            let Constant::Int(b) = self.expression(tight + 1, depth + 1)? else {
                return self.fail("an integer expression with a float in it");
            };
            left = Constant::Int(self.binary(operator, a, b)?);
        }
        if let Constant::Int(a) = left
            && level == 0
            && self.eat(b'?')
        {
            let first = self.expression(0, depth + 1)?;
            self.expect(b':')?;
            let second = self.expression(0, depth + 1)?;
            return Ok(if a != 0 { first } else { second });
        }
        Ok(left)
    }

    /// A constant as an operand: a float, or an integer expression in which no bar stands outside brackets.
    pub(super) fn constant(&mut self) -> Res<Operand<'a>> {
        let mut constant = self.expression(NO_BARS, 0)?;
        if let Constant::Int(chosen) = constant
            && self.eat(b'?')
        {
            let first = self.expression(NO_BARS, 0)?;
            self.expect(b':')?;
            let second = self.expression(NO_BARS, 0)?;
            constant = if chosen != 0 { first } else { second };
        }
        match constant {
            Constant::Int(v) => Ok(Operand::Int(v)),
            Constant::F32(v) => Ok(Operand::F32(v)),
            Constant::F64(v) => Ok(Operand::F64(v)),
            Constant::Address(..) => self.fail("expected a number"),
        }
    }

    /// The operator that stands next, and how tightly it binds; its characters are tokens side by side.
    fn operator(&self) -> Option<(usize, &'static str)> {
        let tokens = self.tokens.get(self.at..)?;
        let end = tokens.first()?.end;
        let side = |(i, t): (usize, &Token<'_>)| match t.kind {
            Kind::Punct(c) if i == 0 || t.start == end => Some(c),
            _ => None,
        };
        let text: Vec<u8> = tokens.iter().take(2).enumerate().map_while(side).collect();
        let stands = |o: &&str| text.starts_with(o.as_bytes());
        let all = OPERATORS.iter().enumerate().flat_map(|(level, all)| all.iter().map(move |o| (level, *o)));
        all.filter(|(_, o)| stands(o)).max_by_key(|(_, o)| o.len())
    }

    fn binary(&self, operator: &str, a: u64, b: u64) -> Res<u64> {
        let (sa, sb) = (a as i64, b as i64);
        Ok(match operator {
            "*" => a.wrapping_mul(b),
            "/" | "%" if b == 0 => return self.fail("a constant is divided by zero"),
            "/" => sa.wrapping_div(sb) as u64,
            "%" => sa.wrapping_rem(sb) as u64,
            "+" => a.wrapping_add(b),
            "-" => a.wrapping_sub(b),
            "<<" => a.checked_shl(b.min(64) as u32).unwrap_or(0),
            ">>" => (sa >> b.min(63)) as u64,
            "<" => u64::from(sa < sb),
            ">" => u64::from(sa > sb),
            "<=" => u64::from(sa <= sb),
            ">=" => u64::from(sa >= sb),
            "==" => u64::from(a == b),
            "!=" => u64::from(a != b),
            "&" => a & b,
            "^" => a ^ b,
            "|" => a | b,
            "&&" => u64::from(a != 0 && b != 0),
            _ => u64::from(a != 0 || b != 0),
        })
    }

    fn unary(&mut self, depth: u32) -> Res<Constant<'a>> {
        if depth > MOST_NESTED {
            return self.fail(format!("a constant nested more than {MOST_NESTED} deep"));
        }
        let int = |p: &Self, c: Constant<'a>| match c {
            Constant::Int(v) => Ok(v),
            _ => p.fail("expected an integer"),
        };
        Ok(match self.next()? {
            Kind::Int(v) => Constant::Int(v),
            Kind::F32(v) => Constant::F32(v),
            Kind::F64(v) => Constant::F64(v),
            Kind::Punct(b'+') => self.unary(depth + 1)?,
            Kind::Punct(b'-') => match self.unary(depth + 1)? {
                Constant::Int(v) => Constant::Int(v.wrapping_neg()),
                Constant::F32(v) => Constant::F32(v ^ 0x8000_0000),
                Constant::F64(v) => Constant::F64(v ^ (1 << 63)),
                Constant::Address(..) => return self.fail("a negated address"),
            },
            Kind::Punct(b'~') => {
                let c = self.unary(depth + 1)?;
                Constant::Int(!int(self, c)?)
            }
            Kind::Punct(b'!') => {
                let c = self.unary(depth + 1)?;
                Constant::Int(u64::from(int(self, c)? == 0))
            }
            Kind::Punct(b'(') => match self.peek() {
                // A cast changes how an integer is read, and its 64 bits not at all.
                Some(Kind::Word(".s64" | ".u64")) => {
                    self.next()?;
                    self.expect(b')')?;
                    self.unary(depth + 1)?
                }
                _ => {
                    let c = self.expression(0, depth + 1)?;
                    self.expect(b')')?;
                    c
                }
            },
            _ => {
                self.at -= 1;
                return self.fail("expected a number");
            }
        })
    }

    /// An integer as it is written, with nothing computed.
    pub(super) fn literal(&mut self) -> Res<u64> {
        match self.next()? {
            Kind::Int(v) => Ok(v),
            _ => {
                self.at -= 1;
                self.fail("expected an integer")
            }
        }
    }

    /// A constant integer, as dimensions, alignments and counts are.
    pub(super) fn int(&mut self) -> Res<u64> {
        match self.expression(NO_BARS, 0)? {
            Constant::Int(v) => Ok(v),
            _ => {
                self.at -= 1;
                self.fail("expected an integer")
            }
        }
    }
}
