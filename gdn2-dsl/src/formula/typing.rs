//! Formulas as written to formulas that are known to be good: names resolved, grains joined, every quotient and logarithm
//! defined, every range proved. The rules are those of a gate: one number per token and head, or one per channel.

use super::{Dialect, Formula, Function, Interval, Leaf, Node, Op, Tree};
use crate::formula::syntax::{Syntax, SyntaxNode, SyntaxOp};
use crate::mistake::{Mistake, SourceSpan};
use crate::prologue::Axis;
use crate::suggest::nearest;

/// A parameter or `let`, as formulas see it.
pub(crate) struct Name<S> {
    pub text: String,
    pub leaf: Leaf,
    /// One number per channel, not one per head.
    pub channel: bool,
    pub range: Interval,
    /// Where it is declared, and the place of that declaration in the body.
    pub span: S,
    pub place: usize,
    /// Where the word `head` or `channel`, `scalar` or `channel`, stands.
    pub grain_span: S,
    pub used: bool,
    /// Its declaration could not be understood, which is reported: nothing that reads it can be.
    pub broken: bool,
    /// Which channels it has, and the first use that says so.
    pub axis: Option<(Axis, S, &'static str)>,
}

/// The gate or `let` that a formula stands in.
pub(crate) struct Context<S> {
    /// `decay`, `erase`, `write`, or a `let`'s name.
    pub name: String,
    /// One number per channel.
    pub channel: bool,
    /// Where the word `scalar` or `channel` stands.
    pub grain_span: S,
    /// Its place in the body.
    pub place: usize,
    /// The gate whose channels it has, where that is known.
    pub gate: Option<(&'static str, Axis)>,
}

/// A typed formula, and of every written part its node in `tree` and its range.
pub(crate) struct Typed {
    pub formula: Formula,
    pub parts: Vec<(Node, Interval)>,
    pub tree: Tree,
}

/// Rules' own dialect.
pub(crate) struct Words<'n, S>(pub &'n [Name<S>]);

impl<S> Dialect for Words<'_, S> {
    fn leaf(&self, leaf: Leaf) -> String {
        match leaf {
            Leaf::Logit => "x".to_owned(),
            named => self.0.iter().find(|name| name.leaf == named).map_or_else(String::new, |name| name.text.clone()),
        }
    }

    fn function(&self, function: Function) -> &'static str {
        function.name()
    }
}

/// Types a formula; None where a mistake was found, which is reported.
pub(crate) fn typed<S: SourceSpan>(
    syntax: &Syntax<S>,
    context: &Context<S>,
    names: &mut [Name<S>],
    mistakes: &mut Vec<Mistake<S>>,
) -> Option<Typed> {
    let before = mistakes.len();
    lossy(syntax, names, mistakes);
    let mut tree = Tree::default();
    let mut parts: Vec<(Node, Interval)> = Vec::with_capacity(syntax.nodes.len());
    let (mut has_channel, mut unknown) = (false, false);
    for SyntaxNode { op, span } in &syntax.nodes {
        let part = match op {
            SyntaxOp::Number(number) => (tree.number(*number), Interval::new(*number, *number)),
            SyntaxOp::Name(word) if word == "x" => {
                has_channel |= context.channel;
                (tree.node(Op::Leaf(Leaf::Logit)), Interval::ALL)
            }
            SyntaxOp::Name(word) => match resolve(word, *span, context, names, mistakes) {
                Some(name) => {
                    has_channel |= name.channel;
                    (tree.node(Op::Leaf(name.leaf)), name.range)
                }
                // Any leaf will do: no formula comes out.
                None => {
                    unknown = true;
                    (tree.node(Op::Leaf(Leaf::Logit)), Interval::ALL)
                }
            },
            SyntaxOp::Neg(a) => {
                let (node, range) = parts[*a];
                // A negative number is a number.
                let node = match tree.op(node) {
                    Op::Number(number) => tree.number(-number.get()),
                    _ => tree.node(Op::Neg(node)),
                };
                (node, range.negated())
            }
            SyntaxOp::Binary(symbol, a, b) => {
                let ((left, x), (right, y)) = (parts[*a], parts[*b]);
                match symbol {
                    '+' => (tree.node(Op::Add(left, right)), x.plus(y)),
                    '-' => (tree.node(Op::Sub(left, right)), x.plus(y.negated())),
                    '*' if left == right => (tree.node(Op::Mul(left, right)), x.squared()),
                    '*' => (tree.node(Op::Mul(left, right)), x.times(y)),
                    _ => {
                        if mistakes.len() == before && !unknown && y.contains(0.0) {
                            mistakes.push(divisor(&tree, right, y, syntax.nodes[*b].span, names));
                        }
                        (tree.node(Op::Div(left, right)), x.over(y))
                    }
                }
            }
            SyntaxOp::Call(function, a) => {
                let (node, range) = parts[*a];
                if mistakes.len() == before && !unknown && *function == Function::LOG && range.lower() <= 0.0 {
                    let of = tree.text(node, &Words(names));
                    mistakes.push(
                        Mistake::new(
                            syntax.nodes[*a].span,
                            format!("nothing proves `{of}` above 0: it ranges over {range}"),
                            "its logarithm may not exist",
                        )
                        .note("`log` takes what is proved above 0, such as `1 + softplus(x)`"),
                    );
                }
                (tree.node(Op::Call(*function, node)), function.range(range))
            }
        };
        parts.push(part);
    }
    let whole = syntax.nodes.last()?.span;
    if context.channel && !has_channel && !unknown && mistakes.len() == before {
        mistakes.push(same_everywhere(context, whole));
    }
    let (value, range) = *parts.last()?;
    if unknown || mistakes.len() > before {
        return None;
    }
    Some(Typed { formula: Formula::new(&tree, value, range), parts, tree })
}

/// The declared name that a word means; without a new mistake where the name itself has one.
fn resolve<'n, S: SourceSpan>(
    word: &str,
    span: S,
    context: &Context<S>,
    names: &'n mut [Name<S>],
    mistakes: &mut Vec<Mistake<S>>,
) -> Option<&'n Name<S>> {
    let Some(at) = names.iter().position(|name| name.text == word) else {
        let known: Vec<&str> = names.iter().map(|name| name.text.as_str()).collect();
        let mistake = Mistake::new(span, format!("`{word}` is not declared"), "not a name");
        mistakes.push(match nearest(word, &known) {
            Some(meant) => {
                let meant = meant.to_owned();
                mistake.suggest(format!("did you mean `{meant}`?"), span, meant)
            }
            None => mistake.note(format!("add `param {word}: head;`, or `param {word}: channel;`")),
        });
        // A misspelt use is a use.
        if let Some(meant) = nearest(word, &known).map(str::to_owned) {
            names.iter_mut().filter(|name| name.text == meant).for_each(|name| name.used = true);
        }
        return None;
    };
    let name = &mut names[at];
    name.used = true;
    if name.broken {
        return None;
    }
    if name.place > context.place {
        mistakes.push(
            Mistake::new(span, format!("`{word}` is used before it is declared"), "used here")
                .related(name.span, "declared here")
                .note("a body is read from its beginning: declare it above"),
        );
        return None;
    }
    if name.channel && !context.channel {
        mistakes.push(channel_in_scalar(name, span, context));
        return None;
    }
    if let (true, Some((gate, axis))) = (name.channel, context.gate) {
        match name.axis {
            None => name.axis = Some((axis, span, gate)),
            Some((known, first, other)) if known != axis => {
                mistakes.push(two_axes(word, span, (axis, gate), first, (known, other)));
                return None;
            }
            Some(_) => {}
        }
    }
    Some(&names[at])
}

/// A name with the channels of two gates.
pub(crate) fn two_axes<S: SourceSpan>(
    word: &str,
    span: S,
    (axis, gate): (Axis, &str),
    first: S,
    (known, other): (Axis, &str),
) -> Mistake<S> {
    Mistake::new(
        span,
        format!("`{word}` has {known} channels in {other} and {axis} in {gate}"),
        format!("{axis} channels"),
    )
    .related(first, format!("{known} channels here"))
    .note("declare one for each")
}

fn channel_in_scalar<S: SourceSpan>(name: &Name<S>, span: S, context: &Context<S>) -> Mistake<S> {
    let what = match context.gate {
        Some(_) => "gate",
        None => "`let`",
    };
    let mistake = Mistake::new(
        span,
        format!("a scalar {what} has one number per head, `{}` one per channel", name.text),
        "a number per channel",
    )
    .related(name.span, "declared here");
    match name.leaf {
        Leaf::Param(_) => mistake.note(format!("or say `{}: channel`", context.name)).suggest(
            format!("`param {}: head;`", name.text),
            name.grain_span,
            "head",
        ),
        _ => mistake.suggest(format!("say `{}: channel`", context.name), context.grain_span, "channel"),
    }
}

fn same_everywhere<S: SourceSpan>(context: &Context<S>, whole: S) -> Mistake<S> {
    Mistake::new(whole, "every channel gets the same number", "nothing here has a number per channel")
        .note("or give it a parameter with a number per channel: `param NAME: channel;`")
        .suggest(format!("`{}: scalar`", context.name), context.grain_span, "scalar")
}

fn divisor<S: SourceSpan>(tree: &Tree, node: Node, range: Interval, span: S, names: &[Name<S>]) -> Mistake<S> {
    let text = tree.text(node, &Words(names));
    let mistake = Mistake::new(
        span,
        format!("nothing proves that `{text}` is not 0: it ranges over {range}"),
        "the divisor may be 0",
    );
    match tree.op(node) {
        Op::Call(Function::EXP, _) => mistake.note("to divide by `exp(x)`, multiply by `exp(-x)`"),
        _ => mistake.note("a divisor is proved to exclude 0, such as `1 + exp(x)` does"),
    }
}

/// Spellings that lose what the table's functions keep.
fn lossy<S: SourceSpan>(syntax: &Syntax<S>, names: &[Name<S>], mistakes: &mut Vec<Mistake<S>>) {
    let nodes = &syntax.nodes;
    let call = |at: usize, function: Function| match nodes[at].op {
        SyntaxOp::Call(own, argument) if own == function => Some(argument),
        _ => None,
    };
    let one = |at: usize| nodes[at].op == SyntaxOp::Number(1.0);
    // The argument of `1 + exp(argument)`, in either order.
    let one_and_exp = |at: usize| match nodes[at].op {
        SyntaxOp::Binary('+', a, b) if one(a) => call(b, Function::EXP),
        SyntaxOp::Binary('+', a, b) if one(b) => call(a, Function::EXP),
        _ => None,
    };
    for SyntaxNode { op, span } in nodes {
        let found = match *op {
            SyntaxOp::Call(Function::LOG, a) => match (one_and_exp(a), call(a, Function::SIGMOID)) {
                (Some(u), _) => Some(("softplus", false, u, "loses all digits below x = -17")),
                (_, Some(u)) => Some(("logsigmoid", false, u, "is the logarithm of what may be 0")),
                _ => None,
            },
            SyntaxOp::Binary('/', a, b) if one(a) => {
                one_and_exp(b).map(|u| ("sigmoid", true, u, "stops falling at x = -44"))
            }
            _ => None,
        };
        let Some((function, negated, at, why)) = found else { continue };
        let (mut tree, mut nodes_of) = (Tree::default(), Vec::new());
        for node in nodes {
            nodes_of.push(untyped(&mut tree, &node.op, &nodes_of, names));
        }
        let words = Words(names);
        let whole = nodes_of[nodes.iter().position(|node| std::ptr::eq(&node.op, op)).unwrap_or(at)];
        let argument = if negated { tree.negated(nodes_of[at]) } else { nodes_of[at] };
        let (written, argument) = (tree.text(whole, &words), tree.text(argument, &words));
        mistakes.push(Mistake::new(*span, format!("`{written}` {why}"), "a function does this exactly").suggest(
            format!("write `{function}({argument})`"),
            *span,
            format!("{function}({argument})"),
        ));
    }
}

/// A written part as a node, to be printed; a name that is not declared becomes `x`.
fn untyped<S>(tree: &mut Tree, op: &SyntaxOp, before: &[Node], names: &[Name<S>]) -> Node {
    match op {
        SyntaxOp::Number(number) => tree.number(*number),
        SyntaxOp::Name(word) => {
            let leaf = names.iter().find(|name| name.text == *word).map_or(Leaf::Logit, |name| name.leaf);
            tree.node(Op::Leaf(leaf))
        }
        SyntaxOp::Neg(a) => tree.negated(before[*a]),
        SyntaxOp::Binary('+', a, b) => tree.node(Op::Add(before[*a], before[*b])),
        SyntaxOp::Binary('-', a, b) => tree.node(Op::Sub(before[*a], before[*b])),
        SyntaxOp::Binary('*', a, b) => tree.node(Op::Mul(before[*a], before[*b])),
        SyntaxOp::Binary(_, a, b) => tree.node(Op::Div(before[*a], before[*b])),
        SyntaxOp::Call(function, a) => tree.node(Op::Call(*function, before[*a])),
    }
}
