//! A node as text: rules' own, with no more brackets than needed, or another language's of the same operators.

use crate::prologue::Prologue;

use super::{Formula, Function, Leaf, Node, Op, Tree};

/// How a language writes what formulas are made of; operators are the same everywhere.
pub trait Dialect {
    /// An input.
    fn leaf(&self, leaf: Leaf) -> String;
    /// A function's name.
    fn function(&self, function: Function) -> &'static str;
}

/// How tightly a text holds together.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Binding {
    Sum,
    Product,
    Minus,
    Atom,
}

impl Formula {
    /// The formula in a dialect.
    pub fn text(&self, dialect: &dyn Dialect) -> String {
        self.tree.text(self.value, dialect)
    }

    /// Its derivative by each leaf it reads, likewise.
    pub fn partial_texts(&self, dialect: &dyn Dialect) -> Vec<(Leaf, String)> {
        self.partials.iter().map(|(leaf, node)| (*leaf, self.tree.text(*node, dialect))).collect()
    }

    /// The largest parts of it that depend on no logit and no `let`, and so are the same for all tokens; for each, whether
    /// it has a number per channel.
    pub fn hoisted(&self, prologue: &Prologue) -> Vec<(String, bool)> {
        let (fixed, below) = (self.tree.fixed(), self.tree.below(self.value));
        let is_part = |node: &Node| fixed[node.index()] && !matches!(self.tree.op(*node), Op::Number(_) | Op::Leaf(_));
        let moving =
            self.tree.ops.iter().zip(fixed.iter().zip(&below)).filter(|(_, (fixed, below))| **below && !**fixed);
        let mut parts: Vec<Node> =
            moving.flat_map(|(op, _)| op.operands().into_iter().flatten()).filter(is_part).collect();
        if fixed[self.value.index()] {
            parts.push(self.value);
        }
        parts.sort_unstable();
        parts.dedup();
        let per_channel = |leaf| match leaf {
            Leaf::Param(at) => prologue.params().get(usize::from(at)).is_some_and(|param| param.axis.is_some()),
            Leaf::Logit | Leaf::Let(_) => false,
        };
        let part = |node| (self.tree.text(node, prologue), self.tree.leaves(node).into_iter().any(per_channel));
        parts.into_iter().map(part).collect()
    }
}

impl Tree {
    /// For every node, whether it is the same for all tokens.
    pub(super) fn fixed(&self) -> Vec<bool> {
        let mut fixed: Vec<bool> = Vec::with_capacity(self.ops.len());
        for op in &self.ops {
            fixed.push(match op {
                Op::Leaf(leaf) => matches!(leaf, Leaf::Param(_)),
                op => op.operands().into_iter().flatten().all(|node| fixed[node.index()]),
            });
        }
        fixed
    }

    /// Goes as deep as the tree, which has 128 nodes at most and its derivatives a small multiple.
    pub(crate) fn text(&self, node: Node, dialect: &dyn Dialect) -> String {
        let mut text = String::new();
        self.write(node, Binding::Sum, dialect, &mut text);
        text
    }

    fn write(&self, node: Node, needed: Binding, dialect: &dyn Dialect, text: &mut String) {
        let op = self.op(node);
        let own = match op {
            Op::Add(..) | Op::Sub(..) => Binding::Sum,
            Op::Mul(..) | Op::Div(..) => Binding::Product,
            Op::Neg(_) => Binding::Minus,
            Op::Number(number) if number.get() < 0.0 => Binding::Minus,
            Op::Number(_) | Op::Leaf(_) | Op::Call(..) => Binding::Atom,
        };
        let open = own < needed;
        if open {
            text.push('(');
        }
        let mut pair = |a: Node, symbol: &str, b: Node, right: Binding| {
            self.write(a, own, dialect, text);
            text.push_str(symbol);
            self.write(b, right, dialect, text);
        };
        match op {
            Op::Add(a, b) => pair(a, " + ", b, Binding::Product),
            Op::Sub(a, b) => pair(a, " - ", b, Binding::Product),
            Op::Mul(a, b) => pair(a, " * ", b, Binding::Minus),
            Op::Div(a, b) => pair(a, " / ", b, Binding::Minus),
            Op::Neg(a) => {
                // Two signs in a row are an operator of their own in other languages.
                text.push('-');
                self.write(a, Binding::Atom, dialect, text);
            }
            Op::Number(number) => text.push_str(&number.get().to_string()),
            Op::Leaf(leaf) => text.push_str(&dialect.leaf(leaf)),
            Op::Call(function, a) => {
                text.push_str(dialect.function(function));
                text.push('(');
                self.write(a, Binding::Sum, dialect, text);
                text.push(')');
            }
        }
        if open {
            text.push(')');
        }
    }
}
