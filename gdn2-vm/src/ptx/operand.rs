//! Operands: registers and parts of them, constants, vectors, addresses, tiles.

use crate::ptx::lex::Kind;
use crate::ptx::parse::{Parser, Res};
use crate::ptx::text::{Operand, Scope, lookup, vector};

impl<'a> Parser<'a> {
    pub(super) fn operand(&mut self, scopes: &[Scope<'a>], scope: usize) -> Res<Operand<'a>> {
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
            // A number may begin with its point.
            Kind::Word(w) if w.starts_with('.') && w.parse::<f64>().is_ok() => {
                Operand::F64(w.parse().unwrap_or(0.0f64).to_bits())
            }
            Kind::Word(w) => match lookup(scopes, scope, w) {
                Some(r) => Operand::Reg(r),
                None if let Some(all) = vector(scopes, scope, w) => {
                    Operand::Vector(all.into_iter().map(Operand::Reg).collect())
                }
                None if let Some((whole, part)) = w.rsplit_once('.')
                    && let Some(r) = lookup(scopes, scope, whole) =>
                {
                    Operand::Part(r, part)
                }
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
            Kind::Punct(b'-') if matches!(self.peek(), Some(Kind::Word(_))) => match self.simple(scopes, scope)? {
                inner @ (Operand::Reg(_) | Operand::Part(..)) => Operand::Minus(Box::new(inner)),
                _ => return self.fail("expected a register after `-`"),
            },
            Kind::Int(_) | Kind::F32(_) | Kind::F64(_) | Kind::Punct(b'~' | b'-') => {
                self.at -= 1;
                self.constant()?
            }
            Kind::Punct(b'(') if !self.calls => {
                self.at -= 1;
                self.constant()?
            }
            Kind::Punct(b'!') if !matches!(self.peek(), Some(Kind::Word(_))) => {
                self.at -= 1;
                self.constant()?
            }
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
                    offset = offset.wrapping_add(self.int()? as i64);
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
