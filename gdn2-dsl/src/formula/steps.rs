//! A formula as steps for float32: what is computed in which order, what is the same for all tokens, and which operands
//! have to saturate.

use super::{Formula, Function, Interval, LARGEST, Leaf, Node, Op, Tree};

/// Logits, parameters and gradients are at most 2⁶², as every call is checked to be.
const INPUT: f64 = LARGEST / 2.0;

/// A product or quotient proved below 2¹²⁷ is a finite float32.
const FINITE: f64 = LARGEST * LARGEST * 2.0;

/// One operation of a formula or of its derivatives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// What is computed, from steps before it.
    pub op: Op,
    /// Which operands of a product or quotient saturate at ±2⁶³: nothing proves the result finite otherwise.
    pub saturates: [bool; 2],
    /// Whether it is the same for all tokens.
    pub fixed: bool,
    /// Whether nothing proves it at most 2⁶⁴: multiplied by a gradient it has to saturate.
    pub large: bool,
}

impl Formula {
    /// All steps, the value's and the derivatives', in order; `shared` is the proved range of a `let`.
    pub fn steps(&self, shared: impl Fn(u16) -> Interval) -> Vec<Step> {
        let mut ranges: Vec<Interval> = Vec::with_capacity(self.tree.ops.len());
        let fixed = self.tree.fixed();
        let mut steps = Vec::with_capacity(self.tree.ops.len());
        for (op, fixed) in self.tree.ops.iter().zip(fixed) {
            let (range, saturates) = range_of(*op, &ranges, &shared);
            ranges.push(range);
            steps.push(Step { op: *op, saturates, fixed, large: largest(range) > 2.0 * LARGEST });
        }
        steps
    }

    /// What a step computes.
    pub fn op(&self, node: Node) -> Op {
        self.tree.op(node)
    }

    /// The step that is its value.
    pub fn value(&self) -> Node {
        self.value
    }

    /// The steps that are its derivatives by the leaves it reads, in their order.
    pub fn partials(&self) -> &[(Leaf, Node)] {
        &self.partials
    }

    /// The largest parts of its value that are the same for all tokens, parameters themselves included, in order.
    pub fn fixed_parts(&self) -> Vec<Node> {
        let (fixed, below) = (self.tree.fixed(), self.tree.below(self.value));
        let is_part = |node: &Node| fixed[node.index()] && !matches!(self.tree.op(*node), Op::Number(_));
        let moving = self.tree.ops.iter().zip(fixed.iter().zip(&below));
        let moving = moving.filter(|(_, (fixed, below))| **below && !**fixed);
        let operands = moving.flat_map(|(op, _)| op.operands().into_iter().flatten());
        let mut parts: Vec<Node> = operands.chain([self.value]).filter(is_part).collect();
        parts.sort_unstable();
        parts.dedup();
        parts
    }

    /// The leaves below a step.
    pub fn leaves_of(&self, node: Node) -> Vec<Leaf> {
        self.tree.leaves(node)
    }

    /// For every step, whether one of `roots` needs it where the steps of `known` are known.
    pub fn needed(&self, roots: &[Node], known: &[Node]) -> Vec<bool> {
        self.tree.needed(roots, known)
    }
}

impl Tree {
    fn needed(&self, roots: &[Node], known: &[Node]) -> Vec<bool> {
        let mut needed = vec![false; self.ops.len()];
        roots.iter().for_each(|root| needed[root.index()] = true);
        for at in (0..self.ops.len()).rev() {
            if needed[at] && !known.iter().any(|node| node.index() == at) {
                self.ops[at].operands().into_iter().flatten().for_each(|node| needed[node.index()] = true);
            }
        }
        needed
    }
}

fn range_of(op: Op, ranges: &[Interval], shared: &impl Fn(u16) -> Interval) -> (Interval, [bool; 2]) {
    let at = |node: Node| ranges[node.index()];
    let none = [false; 2];
    let two = |a: Node, b: Node, result: fn(Interval, Interval) -> Interval| {
        let open = result(at(a), at(b));
        if largest(open) < FINITE && largest(at(a)) < FINITE && largest(at(b)) < FINITE {
            return (open, none);
        }
        let saturates = [a, b].map(|node| largest(at(node)) > LARGEST);
        (result(clipped(at(a)), clipped(at(b))), saturates)
    };
    match op {
        Op::Number(number) => (Interval::new(number.get(), number.get()), none),
        Op::Leaf(Leaf::Let(own)) => (shared(own), none),
        Op::Leaf(_) => (Interval::new(-INPUT, INPUT), none),
        Op::Neg(a) => (at(a).negated(), none),
        Op::Add(a, b) => (at(a).plus(at(b)), none),
        Op::Sub(a, b) => (at(a).plus(at(b).negated()), none),
        Op::Mul(a, b) if a == b => {
            let (_, saturates) = two(a, b, Interval::times);
            (if saturates[0] { clipped(at(a)) } else { at(a) }.squared(), saturates)
        }
        Op::Mul(a, b) => two(a, b, Interval::times),
        Op::Div(a, b) => two(a, b, Interval::over),
        // Kernels' exponentials are at most 2⁶³, and no other function is larger than its argument.
        Op::Call(Function::EXP, a) => (clipped(Function::EXP.range(at(a))), none),
        Op::Call(function, a) => (function.range(at(a)), none),
    }
}

fn largest(range: Interval) -> f64 {
    range.lower().abs().max(range.upper().abs())
}

fn clipped(range: Interval) -> Interval {
    Interval::new(range.lower().clamp(-LARGEST, LARGEST), range.upper().clamp(-LARGEST, LARGEST))
}
