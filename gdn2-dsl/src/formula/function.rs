//! The functions of formulas, a row each: value, derivative, range, and the name of its
//! kernel text in `templates/formula/`. Nothing else in the project knows any of them.

use super::{Interval, LARGEST, LARGEST_EXPONENT, Node, Op, Tree};

/// A function of the table, by its row.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Function(u8);

/// All that is known about a function.
struct Row {
    /// Its name in rules.
    name: &'static str,
    /// Its name in PyTorch.
    torch: &'static str,
    /// Its name in kernels.
    kernel: &'static str,
    /// Its value, finite for every finite number in its domain, without cancellation.
    value: fn(f64) -> f64,
    /// f'(u) as nodes of the tree that holds u.
    derivative: fn(&mut Tree, Node) -> Node,
    /// Bounds of its values over an interval inside its domain.
    range: fn(Interval) -> Interval,
}

const EXP: Function = Function(0);
const SIGMOID: Function = Function(3);

/// The minimum of `silu` lies at u = −1 − W(1/e), W Lambert's function: there 1 + u σ(−u) = 0, and the value is −W(1/e).
const SILU_MINIMUM: (f64, f64) = (-1.278_464_542_761_074, -0.278_464_542_761_073_8);

static TABLE: [Row; 7] = [
    Row {
        name: "exp",
        torch: "torch.exp",
        kernel: "gate_exp",
        value: exp,
        derivative: |t, u| call(t, EXP, u),
        range: Interval::exponential,
    },
    Row {
        name: "log",
        torch: "torch.log",
        kernel: "gate_log",
        value: f64::ln,
        derivative: |t, u| {
            let one = t.number(1.0);
            t.node(Op::Div(one, u))
        },
        range: |u| u.rising(f64::ln, 1.0),
    },
    Row {
        name: "softplus",
        torch: "torch.nn.functional.softplus",
        kernel: "gate_softplus",
        value: softplus,
        derivative: |t, u| call(t, SIGMOID, u),
        range: |u| u.rising(softplus, f64::NAN),
    },
    Row {
        name: "sigmoid",
        torch: "torch.sigmoid",
        kernel: "gate_sigmoid",
        value: sigmoid,
        derivative: sigmoid_slope,
        range: |u| u.rising(sigmoid, 0.0),
    },
    Row {
        name: "logsigmoid",
        torch: "torch.nn.functional.logsigmoid",
        kernel: "gate_logsigmoid",
        value: |u| -softplus(-u),
        derivative: |t, u| {
            let minus = t.negated(u);
            call(t, SIGMOID, minus)
        },
        range: |u| u.rising(|u| -softplus(-u), f64::NAN),
    },
    Row {
        name: "silu",
        torch: "torch.nn.functional.silu",
        kernel: "gate_silu",
        value: silu,
        derivative: silu_slope,
        range: silu_range,
    },
    Row {
        name: "tanh",
        torch: "torch.tanh",
        kernel: "gate_tanh",
        value: f64::tanh,
        derivative: |t, u| {
            let two = t.number(2.0);
            let twice = t.node(Op::Mul(two, u));
            let slope = sigmoid_slope(t, twice);
            let four = t.number(4.0);
            t.node(Op::Mul(four, slope))
        },
        range: |u| u.rising(f64::tanh, 0.0),
    },
];

impl Function {
    /// `log`, whose argument must be above 0.
    pub(crate) const LOG: Function = Function(1);
    /// Its row, for what has a name of its own in messages.
    pub(crate) const SIGMOID: Function = SIGMOID;
    pub(crate) const EXP: Function = EXP;

    /// The function of a name.
    pub fn named(name: &str) -> Option<Function> {
        TABLE.iter().position(|row| row.name == name).map(|at| Function(at as u8))
    }

    /// Every function's name, in the order of the table.
    pub fn names() -> [&'static str; TABLE.len()] {
        TABLE.each_ref().map(|row| row.name)
    }

    fn row(self) -> &'static Row {
        &TABLE[usize::from(self.0)]
    }

    /// Its name in rules.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Its name in PyTorch.
    pub fn torch_name(self) -> &'static str {
        self.row().torch
    }

    /// Its name in kernels, a device function of one float32.
    pub fn kernel_name(self) -> &'static str {
        self.row().kernel
    }

    /// Its value.
    pub fn value(self, u: f64) -> f64 {
        (self.row().value)(u)
    }

    pub(crate) fn derivative(self, tree: &mut Tree, u: Node) -> Node {
        (self.row().derivative)(tree, u)
    }

    pub(crate) fn range(self, u: Interval) -> Interval {
        (self.row().range)(u)
    }
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

fn call(tree: &mut Tree, function: Function, u: Node) -> Node {
    tree.node(Op::Call(function, u))
}

/// e^u, constant where it would be above 2⁶³.
fn exp(u: f64) -> f64 {
    // Not `min`, which would lose a NaN.
    if u > LARGEST_EXPONENT { LARGEST } else { u.exp() }
}

/// 1/(1 + e^−u) from e^−|u|, which neither overflows nor cancels.
fn sigmoid(u: f64) -> f64 {
    let e = (-u.abs()).exp();
    (if u >= 0.0 { 1.0 } else { e }) / (1.0 + e)
}

/// ln(1 + e^u) from e^−|u|.
fn softplus(u: f64) -> f64 {
    u.max(0.0) + (-u.abs()).exp().ln_1p()
}

fn silu(u: f64) -> f64 {
    u * sigmoid(u)
}

/// σ' = σ(u) σ(−u): σ(1 − σ) would lose everything above u = 17.
fn sigmoid_slope(tree: &mut Tree, u: Node) -> Node {
    let minus = tree.negated(u);
    let (here, there) = (call(tree, SIGMOID, u), call(tree, SIGMOID, minus));
    tree.node(Op::Mul(here, there))
}

/// σ(u) (1 + u σ(−u)).
fn silu_slope(tree: &mut Tree, u: Node) -> Node {
    let minus = tree.negated(u);
    let there = call(tree, SIGMOID, minus);
    let bent = tree.node(Op::Mul(u, there));
    let one = tree.number(1.0);
    let sum = tree.node(Op::Add(one, bent));
    let here = call(tree, SIGMOID, u);
    tree.node(Op::Mul(here, sum))
}

/// Falls to its minimum and rises from there.
fn silu_range(u: Interval) -> Interval {
    let (at, least) = SILU_MINIMUM;
    // silu(−∞) is 0, which −∞ · 0 does not say.
    let value = |u: f64| if u == f64::NEG_INFINITY { 0.0 } else { silu(u) };
    if u.lower() >= at {
        return u.rising(value, 0.0);
    }
    let highest = Interval::new(u.upper(), u.upper()).rising(value, 0.0).upper();
    let left = Interval::new(u.lower(), u.lower()).rising(value, 0.0).upper();
    if u.upper() <= at {
        return Interval::new(Interval::new(u.upper(), u.upper()).rising(value, 0.0).lower(), left);
    }
    Interval::new(Interval::new(least, least).widened().lower(), highest.max(left))
}
