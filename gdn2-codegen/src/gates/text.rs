//! A formula's text: one device function for its value, one for its derivatives, from the steps of its tree.

use super::{Fixed, Place, count, cuda_name, fixed, places, shared_logits};
use crate::plan::Plan;
use crate::print::signature::shared_name;
use gdn2_dsl::Rule;
use gdn2_dsl::formula::{Formula, Leaf, Node, Op, Step};
use gdn2_dsl::prologue::{Axis, GateOf, LEAST_DECAY};

/// What a node is called where the text says no expression for it.
struct Names<'a> {
    rule: &'a Rule,
    /// What each leaf is.
    leaf: &'a dyn Fn(Leaf) -> String,
}

impl Names<'_> {
    /// Lines that compute what `roots` need and `known` do not say; and each node's name.
    fn lines(&self, formula: &Formula, roots: &[Node], known: &[Node]) -> Vec<String> {
        let steps = steps(self.rule, formula);
        let needed = formula.needed(roots, known);
        let mut lines = Vec::new();
        for (at, step) in steps.iter().enumerate() {
            let is_known = known.iter().any(|node| node.index() == at);
            let operand = |node: Node, which: usize| {
                let name = self.name(formula, node, known);
                if step.saturates[which] { format!("gate_saturated({name})") } else { name }
            };
            let text = match step.op {
                _ if !needed[at] || is_known => continue,
                Op::Number(_) | Op::Leaf(_) => continue,
                Op::Neg(a) => format!("-{}", operand(a, 0)),
                Op::Add(a, b) => format!("{} + {}", operand(a, 0), operand(b, 1)),
                Op::Sub(a, b) => format!("{} - {}", operand(a, 0), operand(b, 1)),
                Op::Mul(a, b) => format!("{} * {}", operand(a, 0), operand(b, 1)),
                Op::Div(a, b) => format!("{} * gate_reciprocal({})", operand(a, 0), operand(b, 1)),
                Op::Call(function, a) => format!("{}({})", function.kernel_name(), operand(a, 0)),
            };
            lines.push(format!("const float n{at} = {text};"));
        }
        lines
    }

    fn name(&self, formula: &Formula, node: Node, known: &[Node]) -> String {
        if known.contains(&node) {
            return format!("n{}", node.index());
        }
        match formula.op(node) {
            Op::Number(number) => literal(number.get()),
            Op::Leaf(leaf) => (self.leaf)(leaf),
            _ => format!("n{}", node.index()),
        }
    }
}

/// A number as float32, in brackets where it has a sign.
fn literal(number: f64) -> String {
    let number = number.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32;
    if number.is_sign_negative() { format!("({number:?}f)") } else { format!("{number:?}f") }
}

/// A call of a gate's or `let`'s function: its own logit, those of the `let`s it needs, the channel.
pub(crate) fn call(
    rule: &Rule,
    function: &str,
    formula: &Formula,
    own: &str,
    logit: impl Fn(u16) -> String,
    channel: &str,
) -> String {
    let own = formula.reads(Leaf::Logit).then(|| own.to_owned());
    let shared = shared_logits(rule, formula).into_iter().map(logit);
    let arguments: Vec<String> = own.into_iter().chain(shared).chain([channel.to_owned()]).collect();
    format!("{function}({})", arguments.join(", "))
}

/// The name of a `let`'s or gate's function.
fn function_name(place: &Place<'_>) -> String {
    match place.shared {
        Some(own) => format!("{}_{own}", place.name),
        None => place.name.to_owned(),
    }
}

fn logit_name(own: u16) -> String {
    format!("y{own}")
}

/// The functions of all that a launch computes. Fixed parts are read from shared memory.
pub(crate) fn functions(rule: &Rule, plan: &Plan) -> Vec<String> {
    let all = fixed(rule, plan);
    let mut lines = Vec::new();
    for place in places(rule, plan) {
        let formula = place.formula;
        let own: Vec<&Fixed<'_>> = all.iter().filter(|part| std::ptr::eq(part.formula, formula)).collect();
        let known: Vec<Node> = own.iter().map(|part| part.node).collect();
        let x = formula.reads(Leaf::Logit).then(|| "float x".to_owned());
        let shared = shared_logits(rule, formula).into_iter().map(|own| format!("float {}", logit_name(own)));
        let by_channel = own.iter().any(|part| part.axis.is_some()) || reads_lets(formula);
        let channel = if by_channel { "int d" } else { "int" };
        let arguments: Vec<String> = x.into_iter().chain(shared).chain([channel.to_owned()]).collect();
        lines.push(String::new());
        lines.push(format!("// {}", formula.text(&rule.prologue)));
        lines.push(format!("DEVICE float {}({}) {{", function_name(&place), arguments.join(", ")));
        for part in own {
            let shift = if part.axis.is_some() { " + d * 4" } else { "" };
            lines.push(format!(
                "  const float n{} = at<float>({}{shift});",
                part.node.index(),
                shared_name(&part.name)
            ));
        }
        for leaf in formula.leaves() {
            if let Leaf::Let(at) = leaf {
                lines.push(format!("  const float l{at} = {};", shared_call(rule, at)));
            }
        }
        let leaf = |leaf: Leaf| match leaf {
            Leaf::Let(at) => format!("l{at}"),
            // Parameters are fixed parts.
            Leaf::Logit | Leaf::Param(_) => "x".to_owned(),
        };
        let names = Names { rule, leaf: &leaf };
        lines.extend(names.lines(formula, &[formula.value()], &known).into_iter().map(|line| format!("  {line}")));
        lines.push(format!("  return {};", names.name(formula, formula.value(), &known)));
        lines.push("}".to_owned());
    }
    lines
}

fn reads_lets(formula: &Formula) -> bool {
    formula.leaves().any(|leaf| matches!(leaf, Leaf::Let(_)))
}

fn shared_call(rule: &Rule, at: u16) -> String {
    let formula = &rule.prologue.lets()[usize::from(at)].formula;
    call(rule, &format!("shared_formula_{at}"), formula, &logit_name(at), logit_name, "d")
}

/// What a block fills of fixed parts, as its text says it.
#[derive(Default)]
pub(crate) struct Block<'a> {
    /// The first of its values, and how many it has; all where none are named.
    pub(crate) values: Option<(&'a str, u32)>,
    /// What regions' names belong to.
    pub(crate) scope: &'a str,
}

/// Lines that fill the fixed parts of shared memory; the block has to meet after them.
pub(crate) fn fill(rule: &Rule, plan: &Plan, block: &Block<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    for part in fixed(rule, plan) {
        let (channel, count) = match (part.axis, block.values) {
            (Some(Axis::Value), Some((first, count))) => (format!("{first} + i"), count),
            _ => ("i".to_owned(), count(rule, &part)),
        };
        let leaf = |leaf: Leaf| match leaf {
            Leaf::Param(at) => parameter(rule, at, "work.value_head", &channel),
            Leaf::Logit | Leaf::Let(_) => String::new(),
        };
        let names = Names { rule, leaf: &leaf };
        let index = if part.axis.is_some() { "int i" } else { "int" };
        lines.push(format!("fill_fixed({}{}, {count}, [&]({index}) {{", block.scope, shared_name(&part.name)));
        lines.extend(names.lines(part.formula, &[part.node], &[]).into_iter().map(|line| format!("  {line}")));
        lines.push(format!("  return {};", names.name(part.formula, part.node, &[])));
        lines.push("});".to_owned());
    }
    lines
}

/// A parameter's number at a channel.
fn parameter(rule: &Rule, at: u16, head: &str, channel: &str) -> String {
    let param = &rule.prologue.params()[usize::from(at)];
    let name = cuda_name(rule, &param.name);
    match param.axis {
        None => format!("{name}[{head}]"),
        Some(Axis::Key) => format!("{name}[{head} * KEY + {channel}]"),
        Some(Axis::Value) => format!("{name}[{head} * VALUE + {channel}]"),
    }
}

/// What a leaf is called where derivatives are taken: its logit, parameters and `let`s by their places.
pub(crate) fn leaf_name(leaf: Leaf, logit: &str) -> String {
    match leaf {
        Leaf::Logit => logit.to_owned(),
        Leaf::Param(at) => format!("p{at}"),
        Leaf::Let(at) => format!("l{at}"),
    }
}

/// A call of a formula's value by its leaves.
pub(crate) fn value_call(function: &str, formula: &Formula, logit: &str) -> String {
    let leaves: Vec<String> = formula.leaves().map(|leaf| leaf_name(leaf, logit)).collect();
    format!("{function}({})", leaves.join(", "))
}

/// A call that adds what a gradient `up` gives to each leaf.
pub(crate) fn gradient_call(function: &str, formula: &Formula, up: &str, logit: &str) -> String {
    let leaves = formula.leaves().map(|leaf| leaf_name(leaf, logit));
    let sums = formula.leaves().map(|leaf| format!("by_{}", leaf_name(leaf, "x")));
    let all: Vec<String> = [up.to_owned()].into_iter().chain(leaves).chain(sums).collect();
    format!("{function}({})", all.join(", "))
}

/// The functions of the launch that pulls gradients back: values of `let`s, and of every formula what a gradient by its
/// value gives to its leaves.
pub(crate) fn gradient_functions(rule: &Rule, plan: &Plan) -> Vec<String> {
    let leaf = |leaf: Leaf| leaf_name(leaf, "x");
    let names = Names { rule, leaf: &leaf };
    let mut lines = Vec::new();
    for place in places(rule, plan) {
        let formula = place.formula;
        let given: Vec<String> = formula.leaves().map(|own| format!("float {}", leaf(own))).collect();
        if let Some(at) = place.shared {
            lines.push(format!("DEVICE float shared_value_{at}({}) {{", given.join(", ")));
            let steps = names.lines(formula, &[formula.value()], &[]);
            lines.extend(steps.into_iter().map(|line| format!("  {line}")));
            lines.push(format!("  return {};", names.name(formula, formula.value(), &[])));
            lines.extend(["}".to_owned(), String::new()]);
        }
        let name = match place.shared {
            Some(at) => format!("shared_gradient_{at}"),
            None => format!("{}_gradient", place.name),
        };
        let sums = formula.leaves().map(|own| format!("float& by_{}", leaf(own)));
        let all: Vec<String> = ["float up".to_owned()].into_iter().chain(given).chain(sums).collect();
        lines.push(format!("// What a gradient by {} gives.", formula.text(&rule.prologue)));
        lines.push(format!("DEVICE void {name}({}) {{", all.join(", ")));
        let clamped = place.name == super::function(GateOf::Decay) && formula.range().lower() < LEAST_DECAY;
        let mut roots: Vec<Node> = formula.partials().iter().map(|(_, node)| *node).collect();
        if clamped {
            roots.push(formula.value());
        }
        lines.extend(names.lines(formula, &roots, &[]).into_iter().map(|line| format!("  {line}")));
        if clamped {
            let value = names.name(formula, formula.value(), &[]);
            lines.push("  // A decay below is clamped, and constant.".to_owned());
            lines.push(format!("  if ({value} < {}) up = 0.0f;", literal(LEAST_DECAY)));
        }
        let steps = steps(rule, formula);
        for (own, node) in formula.partials() {
            let partial = names.name(formula, *node, &[]);
            let partial = if steps[node.index()].large { format!("gate_saturated({partial})") } else { partial };
            lines.push(format!("  by_{} += {partial} * up;", leaf(*own)));
        }
        lines.extend(["}".to_owned(), String::new()]);
    }
    lines
}

fn steps(rule: &Rule, formula: &Formula) -> Vec<Step> {
    formula.steps(|own| rule.prologue.lets()[usize::from(own)].formula.range())
}
