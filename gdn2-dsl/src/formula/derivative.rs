//! Reverse mode over a tree: the derivative of a node by every leaf below it, as further nodes of the same tree.

use super::{Leaf, Node, Op, Tree};

impl Tree {
    /// The derivatives of `root` by its leaves, in the leaves' order.
    pub(crate) fn partials(&mut self, root: Node) -> Vec<(Leaf, Node)> {
        let leaves = self.leaves(root);
        let mut adjoints: Vec<Option<Node>> = vec![None; root.index() + 1];
        adjoints[root.index()] = Some(self.number(1.0));
        for at in (0..=root.index()).rev() {
            let Some(adjoint) = adjoints[at] else { continue };
            let mut send = |tree: &mut Tree, node: Node, part: Node| {
                let sum = &mut adjoints[node.index()];
                *sum = Some(sum.map_or(part, |before| tree.sum(before, part)));
            };
            match self.ops[at] {
                Op::Number(_) | Op::Leaf(_) => {}
                Op::Neg(a) => {
                    let part = self.negated(adjoint);
                    send(self, a, part);
                }
                Op::Add(a, b) => {
                    send(self, a, adjoint);
                    send(self, b, adjoint);
                }
                Op::Sub(a, b) => {
                    send(self, a, adjoint);
                    let part = self.negated(adjoint);
                    send(self, b, part);
                }
                Op::Mul(a, b) => {
                    let (left, right) = (self.product(adjoint, b), self.product(adjoint, a));
                    send(self, a, left);
                    send(self, b, right);
                }
                Op::Div(a, b) => {
                    // d(a/b) = da/b − (a/b)/b db, from the quotient: b·b might overflow where a/b/b does not.
                    let part = self.quotient(adjoint, b);
                    send(self, a, part);
                    let again = self.node(Op::Div(Node(at as u32), b));
                    let part = self.product(adjoint, again);
                    let part = self.negated(part);
                    send(self, b, part);
                }
                Op::Call(function, a) => {
                    let slope = function.derivative(self, a);
                    let part = self.product(adjoint, slope);
                    send(self, a, part);
                }
            }
        }
        let zero = self.number(0.0);
        let partial = |leaf| {
            let node = self.ops.iter().position(|op| *op == Op::Leaf(leaf));
            (leaf, node.and_then(|at| adjoints.get(at).copied().flatten()).unwrap_or(zero))
        };
        leaves.into_iter().map(partial).collect()
    }

    fn known(&self, node: Node) -> Option<f64> {
        match self.op(node) {
            Op::Number(number) => Some(number.get()),
            _ => None,
        }
    }

    /// −a, without a second minus.
    pub(crate) fn negated(&mut self, a: Node) -> Node {
        match self.op(a) {
            Op::Number(number) => self.number(-number.get()),
            Op::Neg(inner) => inner,
            _ => self.node(Op::Neg(a)),
        }
    }

    fn sum(&mut self, a: Node, b: Node) -> Node {
        match (self.known(a), self.known(b)) {
            (Some(a), Some(b)) => self.number(a + b),
            (Some(0.0), _) => b,
            (_, Some(0.0)) => a,
            _ => self.node(Op::Add(a, b)),
        }
    }

    fn product(&mut self, a: Node, b: Node) -> Node {
        match (self.known(a), self.known(b)) {
            (Some(a), Some(b)) => self.number(a * b),
            (Some(0.0), _) | (_, Some(0.0)) => self.number(0.0),
            (Some(1.0), _) => b,
            (_, Some(1.0)) => a,
            (Some(-1.0), _) => self.negated(b),
            (_, Some(-1.0)) => self.negated(a),
            _ => self.node(Op::Mul(a, b)),
        }
    }

    fn quotient(&mut self, a: Node, b: Node) -> Node {
        match (self.known(a), self.known(b)) {
            (Some(a), Some(b)) => self.number(a / b),
            (Some(0.0), _) => a,
            (_, Some(1.0)) => a,
            _ => self.node(Op::Div(a, b)),
        }
    }
}
