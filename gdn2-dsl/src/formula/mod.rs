//! Formulas of gates: one tree that is checked, differentiated, evaluated and printed. A node stands after its operands
//! and equal nodes are one, so that a value and its derivatives share whatever they have in common.

mod derivative;
mod function;
mod interval;
mod steps;
pub(crate) mod syntax;
mod text;
pub(crate) mod typing;

use std::hash::{Hash, Hasher};

pub use function::Function;
pub use interval::Interval;
pub use steps::Step;
pub use text::Dialect;

/// Where products, quotients and exponentials saturate, 2⁶³: the product of two such numbers is a finite float32, so
/// that no infinity arises, nor 0 times one.
pub const LARGEST: f64 = 9_223_372_036_854_775_808.0;

/// The logarithm of [`LARGEST`], above which `exp` is constant.
pub(crate) const LARGEST_EXPONENT: f64 = 63.0 * std::f64::consts::LN_2;

/// A node of a tree, by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node(u32);

/// What a formula reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Leaf {
    /// `x`, the logit of the gate or `let` that the formula stands in.
    Logit,
    /// A parameter, by its place among the rule's.
    Param(u16),
    /// A `let`, by its place among the rule's.
    Let(u16),
}

/// A number of a formula; equal where its bits are.
#[derive(Clone, Copy, Debug)]
pub struct Number(f64);

/// One operation on nodes that stand before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// A number.
    Number(Number),
    /// An input.
    Leaf(Leaf),
    /// −a.
    Neg(Node),
    /// a + b.
    Add(Node, Node),
    /// a − b.
    Sub(Node, Node),
    /// a · b, operands saturating at ±[`LARGEST`].
    Mul(Node, Node),
    /// a / b, likewise.
    Div(Node, Node),
    /// A function of the table.
    Call(Function, Node),
}

/// Nodes in order of evaluation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Tree {
    ops: Vec<Op>,
}

/// A checked formula: its value, the interval that value is proved to lie in, and its derivative by every leaf.
#[derive(Clone, Debug)]
pub struct Formula {
    tree: Tree,
    value: Node,
    /// In the order of leaves.
    partials: Vec<(Leaf, Node)>,
    range: Interval,
}

impl Number {
    /// Its value.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Number {}

impl Hash for Number {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.0.to_bits().hash(hasher);
    }
}

impl Node {
    /// Its place among the tree's.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl Op {
    /// The nodes it reads.
    pub fn operands(self) -> [Option<Node>; 2] {
        match self {
            Op::Number(_) | Op::Leaf(_) => [None, None],
            Op::Neg(a) | Op::Call(_, a) => [Some(a), None],
            Op::Add(a, b) | Op::Sub(a, b) | Op::Mul(a, b) | Op::Div(a, b) => [Some(a), Some(b)],
        }
    }
}

/// A product's or quotient's operand.
fn saturated(x: f64) -> f64 {
    x.clamp(-LARGEST, LARGEST)
}

impl Tree {
    /// The node of an operation, a new one unless there is such a node already.
    pub(crate) fn node(&mut self, op: Op) -> Node {
        let at = self.ops.iter().position(|known| *known == op).unwrap_or_else(|| {
            self.ops.push(op);
            self.ops.len() - 1
        });
        // A formula has 128 nodes at most, and its derivatives a small multiple of them.
        Node(at as u32)
    }

    pub(crate) fn number(&mut self, number: f64) -> Node {
        // No negative zero: it would be another node than 0.
        self.node(Op::Number(Number(number + 0.0)))
    }

    pub(crate) fn op(&self, node: Node) -> Op {
        self.ops[node.index()]
    }

    /// The leaves below a node, in their order.
    fn leaves(&self, root: Node) -> Vec<Leaf> {
        let below = self.below(root);
        let mut leaves: Vec<Leaf> = self
            .ops
            .iter()
            .zip(below)
            .filter_map(|(op, below)| match op {
                Op::Leaf(leaf) if below => Some(*leaf),
                _ => None,
            })
            .collect();
        leaves.sort_unstable();
        leaves
    }

    /// The same node in a tree of nothing else.
    fn only(&self, root: Node) -> (Tree, Node) {
        let mut tree = Tree::default();
        let mut moved: Vec<Node> = Vec::with_capacity(self.ops.len());
        for (op, below) in self.ops.iter().zip(self.below(root)) {
            let to = |node: Node| moved[node.index()];
            let op = match *op {
                Op::Number(_) | Op::Leaf(_) => *op,
                Op::Neg(a) => Op::Neg(to(a)),
                Op::Add(a, b) => Op::Add(to(a), to(b)),
                Op::Sub(a, b) => Op::Sub(to(a), to(b)),
                Op::Mul(a, b) => Op::Mul(to(a), to(b)),
                Op::Div(a, b) => Op::Div(to(a), to(b)),
                Op::Call(function, a) => Op::Call(function, to(a)),
            };
            // What is left behind is read by nothing that stays.
            moved.push(if below { tree.node(op) } else { Node(0) });
        }
        let root = moved[root.index()];
        (tree, root)
    }

    /// For every node, whether `root` depends on it.
    fn below(&self, root: Node) -> Vec<bool> {
        let mut below = vec![false; self.ops.len()];
        below[root.index()] = true;
        for at in (0..=root.index()).rev() {
            if below[at] {
                self.ops[at].operands().into_iter().flatten().for_each(|node| below[node.index()] = true);
            }
        }
        below
    }
}

impl Formula {
    /// A formula with its derivatives. What `value` does not depend on is left behind: equal formulas are equal trees.
    pub(crate) fn new(written: &Tree, value: Node, range: Interval) -> Formula {
        let (mut tree, value) = written.only(value);
        let partials = tree.partials(value);
        Formula { tree, value, partials, range }
    }

    /// The interval that its value is proved to lie in, whatever finite numbers its leaves are.
    pub fn range(&self) -> Interval {
        self.range
    }

    /// The leaves it reads, in their order.
    pub fn leaves(&self) -> impl Iterator<Item = Leaf> {
        self.partials.iter().map(|(leaf, _)| *leaf)
    }

    /// Whether it reads a leaf.
    pub fn reads(&self, leaf: Leaf) -> bool {
        self.leaves().any(|own| own == leaf)
    }

    /// Evaluates the value and all derivatives; `numbers` is room for the nodes, whatever it holds.
    pub fn evaluate<'n>(&self, leaf: impl Fn(Leaf) -> f64, numbers: &'n mut Vec<f64>) -> Evaluated<'n, '_> {
        numbers.clear();
        for op in &self.tree.ops {
            let at = |node: Node| numbers[node.index()];
            let number = match *op {
                Op::Number(number) => number.0,
                Op::Leaf(kind) => leaf(kind),
                Op::Neg(a) => -at(a),
                Op::Add(a, b) => at(a) + at(b),
                Op::Sub(a, b) => at(a) - at(b),
                Op::Mul(a, b) => saturated(at(a)) * saturated(at(b)),
                Op::Div(a, b) => saturated(at(a)) / saturated(at(b)),
                Op::Call(function, a) => function.value(at(a)),
            };
            numbers.push(number);
        }
        Evaluated { numbers, formula: self }
    }
}

/// A formula at one point.
#[derive(Clone, Copy, Debug)]
pub struct Evaluated<'n, 'f> {
    numbers: &'n [f64],
    formula: &'f Formula,
}

impl Evaluated<'_, '_> {
    /// Its value.
    pub fn value(&self) -> f64 {
        self.numbers[self.formula.value.index()]
    }

    /// Its derivative by each leaf it reads, in their order.
    pub fn partials(&self) -> impl Iterator<Item = (Leaf, f64)> {
        self.formula.partials.iter().map(|(leaf, node)| (*leaf, self.numbers[node.index()]))
    }
}

/// By the tree of the value: all else follows from it.
impl PartialEq for Formula {
    fn eq(&self, other: &Self) -> bool {
        (&self.tree, self.value) == (&other.tree, other.value)
    }
}

impl Eq for Formula {}

impl Hash for Formula {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (&self.tree, self.value).hash(hasher);
    }
}
