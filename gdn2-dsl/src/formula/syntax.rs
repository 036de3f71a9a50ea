//! Tokens to a formula's operations, with an explicit stack: no nesting exhausts the thread's.
//!
//! ```text
//! expr := term {("+" | "-") term}   term := unary {("*" | "/") unary}   unary := {"-"} atom
//! atom := NUMBER | "x" | NAME | FUNCTION "(" expr ")" | "(" expr ")"
//! ```

use super::Function;
use crate::mistake::{Mistake, SourceSpan};
use crate::parse::Parser;
use crate::spec::Kind;
use crate::suggest::{list, nearest};

/// Brackets, calls and minus signs that may be open at once.
const DEEPEST: usize = 32;
/// Operations and leaves of one formula.
const LONGEST: usize = 128;

/// A formula as written; operands stand before what they belong to, and the last is the whole.
#[derive(Clone, Debug)]
pub(crate) struct Syntax<S> {
    pub nodes: Vec<SyntaxNode<S>>,
}

/// A part of a formula and its place in the source.
#[derive(Clone, Debug)]
pub(crate) struct SyntaxNode<S> {
    pub op: SyntaxOp,
    pub span: S,
}

/// What a part is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum SyntaxOp {
    Number(f64),
    Name(String),
    Neg(usize),
    /// `+`, `-`, `*` or `/`.
    Binary(char, usize, usize),
    Call(Function, usize),
}

/// What waits for its operand, or for the rest of it.
enum Pending<S> {
    Minus(S),
    Bracket(S),
    Call(Function, S),
    Binary(char, usize),
}

/// A formula under construction.
struct Stack<S> {
    nodes: Vec<SyntaxNode<S>>,
    /// The part just completed; none where one is expected.
    operand: Option<usize>,
    pending: Vec<Pending<S>>,
}

fn precedence(symbol: char) -> u8 {
    u8::from(matches!(symbol, '*' | '/'))
}

impl<S: SourceSpan> Stack<S> {
    fn add(&mut self, op: SyntaxOp, span: S) {
        self.operand = Some(self.nodes.len());
        self.nodes.push(SyntaxNode { op, span });
    }

    /// An atom. A minus before it belongs to it, whatever follows.
    fn atom(&mut self, op: SyntaxOp, span: S) {
        self.add(op, span);
        while let (Some(operand), Some(Pending::Minus(minus))) =
            (self.operand, self.pending.pop_if(|pending| matches!(pending, Pending::Minus(_))))
        {
            self.add(SyntaxOp::Neg(operand), minus.to(self.nodes[operand].span));
        }
    }

    /// Closes every operator that binds at least as tightly as `least`.
    fn reduce(&mut self, least: u8) {
        let binds = |pending: &mut Pending<S>| match pending {
            Pending::Binary(symbol, _) => precedence(*symbol) >= least,
            _ => false,
        };
        while let (Some(right), Some(Pending::Binary(symbol, left))) = (self.operand, self.pending.pop_if(binds)) {
            let span = self.nodes[left].span.to(self.nodes[right].span);
            self.add(SyntaxOp::Binary(symbol, left, right), span);
        }
    }

    /// Brackets, calls and minus signs that are open.
    fn nesting(&self) -> usize {
        self.pending.iter().filter(|pending| !matches!(pending, Pending::Binary(..))).count()
    }
}

impl<S: SourceSpan> Parser<'_, '_, S> {
    /// Reads a formula and its `;`. After a mistake the rest of the field is skipped.
    pub(crate) fn formula(&mut self) -> Option<Syntax<S>> {
        let mut stack = Stack { nodes: Vec::new(), operand: None, pending: Vec::new() };
        loop {
            let read = if stack.operand.is_none() { self.operand(&mut stack) } else { self.operator(&mut stack) };
            let ended = matches!(read, Ok(true));
            let mistake = match read {
                Ok(_) if stack.nodes.len() > LONGEST => self.too_long(),
                Ok(_) if stack.nesting() > DEEPEST => self.too_deep(),
                Ok(true) => return Some(Syntax { nodes: stack.nodes }),
                Ok(false) => continue,
                Err(mistake) => mistake,
            };
            self.mistakes.push(mistake);
            if !ended {
                self.recover();
            }
            return None;
        }
    }

    fn too_long(&self) -> Mistake<S> {
        Mistake::new(self.previous(), format!("a formula has at most {LONGEST} operations and leaves"), "one too many")
            .note("name parts of it: `let NAME: scalar = …;` or `let NAME: channel = …;`")
    }

    fn too_deep(&self) -> Mistake<S> {
        Mistake::new(self.previous(), format!("a formula nests at most {DEEPEST} deep"), "one too deep")
            .note("name parts of it: `let NAME: scalar = …;` or `let NAME: channel = …;`")
    }

    /// A leaf, or what opens before one.
    fn operand(&mut self, stack: &mut Stack<S>) -> Result<bool, Mistake<S>> {
        let span = self.span();
        match self.kind() {
            Some(Kind::Number(text)) => {
                let number = number(text).ok_or_else(|| {
                    Mistake::new(span, format!("`{text}` is no number that a formula can hold"), "not here")
                        .note("numbers are decimal and lie within float32, as in `0.5`, `16` and `1e-3`")
                })?;
                self.at += 1;
                stack.atom(SyntaxOp::Number(number), span);
            }
            Some(Kind::Punct('-')) => {
                self.at += 1;
                stack.pending.push(Pending::Minus(span));
            }
            Some(Kind::Open('(')) => {
                self.at += 1;
                stack.pending.push(Pending::Bracket(span));
            }
            Some(Kind::Ident(word)) if self.kind_at(1) == Some(&Kind::Open('(')) => {
                let function = Function::named(word).ok_or_else(|| not_a_function(word, span))?;
                self.at += 2;
                stack.pending.push(Pending::Call(function, span));
            }
            Some(Kind::Ident(word)) if Function::named(word).is_some() => {
                return Err(Mistake::new(span, format!("`{word}` needs an argument"), "a function").suggest(
                    "give it one",
                    span,
                    format!("{word}(x)"),
                ));
            }
            Some(Kind::Ident(word)) => {
                self.at += 1;
                stack.atom(SyntaxOp::Name(word.clone()), span);
            }
            _ => {
                let found = self.found();
                return Err(Mistake::new(
                    span,
                    format!("expected a number, a name or `(`, found {found}"),
                    "expected here",
                )
                .note("a formula is made of numbers, `x`, names, `+ - * /`, brackets and functions"));
            }
        }
        Ok(false)
    }

    /// What stands after a complete operand; true at the formula's end.
    fn operator(&mut self, stack: &mut Stack<S>) -> Result<bool, Mistake<S>> {
        let span = self.span();
        match self.kind() {
            Some(Kind::Punct(symbol @ ('+' | '-' | '*' | '/'))) => {
                stack.reduce(precedence(*symbol));
                self.at += 1;
                stack.pending.extend(stack.operand.take().map(|left| Pending::Binary(*symbol, left)));
                Ok(false)
            }
            Some(Kind::Close(')')) => {
                stack.reduce(0);
                match stack.pending.pop() {
                    Some(Pending::Bracket(open)) => {
                        self.at += 1;
                        // The brackets belong to the place of what is inside them, the last part that was completed.
                        if let Some(SyntaxNode { op, .. }) = stack.nodes.pop() {
                            stack.atom(op, open.to(span));
                        }
                        Ok(false)
                    }
                    Some(Pending::Call(function, name)) => {
                        self.at += 1;
                        if let Some(argument) = stack.operand {
                            stack.atom(SyntaxOp::Call(function, argument), name.to(span));
                        }
                        Ok(false)
                    }
                    _ => Err(Mistake::new(span, "`)` closes nothing", "nothing is open here").suggest(
                        "remove it",
                        span,
                        "",
                    )),
                }
            }
            Some(Kind::Punct(';')) => {
                self.closed(stack)?;
                self.at += 1;
                Ok(true)
            }
            Some(Kind::Punct('^')) => Err(self.power(stack, span)),
            Some(Kind::Ident(word)) if word == "as" || word == "in" => {
                Err(Mistake::new(span, format!("`{word}` stands before the `=`"), "not after a formula").note(
                    "clauses come first, as in `let NAME: TYPE = …`: `erase: channel as f32 in [0, 1] = sigmoid(x);`",
                ))
            }
            _ if self.at_end_of_body() => {
                self.closed(stack)?;
                Ok(true)
            }
            _ if self.at_next_part() => {
                self.closed(stack)?;
                let after = self.previous().after();
                let mistake = Mistake::new(after, "expected `;` after the formula", "expected `;`");
                self.mistakes.push(mistake.suggest("end the field", after, ";"));
                Ok(true)
            }
            Some(Kind::Ident(_) | Kind::Number(_) | Kind::Open('(')) => {
                let after = self.previous().after();
                let found = self.found();
                Err(Mistake::new(span, format!("expected an operator, found {found}"), "expected `+`, `-`, `*` or `/`")
                    .suggest("to multiply, write `*`", after, " *"))
            }
            _ => {
                let found = self.found();
                Err(Mistake::new(span, format!("expected an operator or `;`, found {found}"), "not an operator")
                    .note("the operators are `+`, `-`, `*` and `/`"))
            }
        }
    }

    /// Every bracket must be closed where the formula ends.
    fn closed(&self, stack: &mut Stack<S>) -> Result<(), Mistake<S>> {
        stack.reduce(0);
        match stack.pending.pop() {
            Some(Pending::Bracket(open) | Pending::Call(_, open)) => {
                let after = self.previous().after();
                Err(Mistake::new(open, "this bracket is never closed", "opened here").suggest("close it", after, ")"))
            }
            _ => Ok(()),
        }
    }

    /// `a ^ 2`.
    fn power(&self, stack: &Stack<S>, span: S) -> Mistake<S> {
        let mistake = Mistake::new(span, "`^` is no operator", "not an operator");
        let base = stack.operand.map(|at| &stack.nodes[at]);
        match (base, self.kind_at(1)) {
            (Some(SyntaxNode { op: SyntaxOp::Name(name), span: base }), Some(Kind::Number(two))) if two == "2" => {
                let whole = base.to(self.span_at(1));
                mistake.suggest("multiply", whole, format!("{name} * {name}"))
            }
            _ => mistake.note("write a square as a product: `x * x`"),
        }
    }
}

fn number(text: &str) -> Option<f64> {
    let digits = text.replace('_', "");
    let number: f64 = digits.trim_end_matches("f32").trim_end_matches("f64").parse().ok()?;
    (number as f32).is_finite().then_some(number)
}

fn not_a_function<S: SourceSpan>(word: &str, span: S) -> Mistake<S> {
    let names = Function::names();
    let mistake = Mistake::new(span, format!("`{word}` is not a function"), "not a function")
        .note(format!("there are {}", list(&names, "and")));
    match nearest(word, &names) {
        Some(name) => mistake.suggest(format!("did you mean `{name}`?"), span, name),
        None => mistake,
    }
}
