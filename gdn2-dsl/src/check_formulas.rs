//! Declarations and formulas of a rule as written, to a [`Prologue`]: names are fresh and used, a decay is proved at most
//! 0, stated intervals hold.

use crate::check::{Checker, check_bound, check_name, excerpt};
use crate::formula::syntax::{Syntax, SyntaxOp};
use crate::formula::typing::{Context, Name, Typed, Words, two_axes, typed};
use crate::formula::{Formula, Function, Interval, Leaf};
use crate::mistake::{Mistake, SourceSpan};
use crate::prologue::{GateOf, Let, Parameter, Prologue};
use crate::rule::{Bound, Dtype, Gate, Grain};
use crate::spec::{Declaration, Spec, Value, Written};

/// Parameters and shared values of one rule.
const DECLARATIONS: usize = 64;
/// Words kept for what rules may come to say.
const RESERVED: [&str; 6] = ["p", "tap", "tap_k", "tap_v", "rank", "steps"];
/// Words that files, calls and rules have a meaning for already.
const TENSORS: [&str; 28] = [
    "q",
    "k",
    "v",
    "g",
    "b",
    "w",
    "o",
    "x",
    "beta",
    "scale",
    "state",
    "initial_state",
    "final_state",
    "cu_seqlens",
    "initial_slots",
    "final_slots",
    "param",
    "do",
    "dq",
    "dk",
    "dv",
    "dg",
    "db",
    "dw",
    "d_final_state",
    "d_initial_state",
    "dinitial_state",
    "rule",
];

impl<'s, S: SourceSpan> Checker<'s, '_, S> {
    /// What the rule computes, and the interval its decay is proved to lie in. `gates` are those that could be read.
    pub(crate) fn prologue(
        &mut self,
        spec: &'s Spec<S>,
        gates: [Option<Gate>; 3],
        dtype: Dtype,
    ) -> (Prologue, Option<Bound>) {
        let mut prologue = Prologue {
            normalises_q: self.value("q").is_some_and(|value| self.norm("q", value)),
            normalises_k: self.value("k").is_some_and(|value| self.norm("k", value)),
            ..Prologue::default()
        };
        let mut names: Vec<Name<S>> = Vec::new();
        let mut bound = None;
        let mut unreadable = false;
        if let Some(more) = spec.declarations.get(DECLARATIONS) {
            let message = format!("a rule declares at most {DECLARATIONS} parameters and shared values");
            self.mistakes.push(Mistake::new(more.name_span, message, "one too many"));
            unreadable = true;
        }
        for declaration in spec.declarations.iter().take(DECLARATIONS) {
            if declaration.is_let {
                unreadable |= self.shared(declaration, dtype, &mut names, &mut prologue);
            } else {
                unreadable |= self.param(declaration, &mut names);
            }
        }
        for (gate, own) in GateOf::ALL.into_iter().zip(gates) {
            let Some(value) = self.value(gate.name()) else { continue };
            let syntax = match &value.formula {
                None => continue,
                Some(Written::Unreadable) => {
                    unreadable = true;
                    continue;
                }
                Some(Written::Read(syntax)) => syntax,
            };
            let Some(own) = own.filter(|own| own.grain != Grain::None) else {
                unreadable = true;
                continue;
            };
            let place = spec.fields.iter().find(|field| field.value.as_ref().is_some_and(|v| std::ptr::eq(v, value)));
            let context = Context {
                name: gate.name().to_owned(),
                channel: own.grain == Grain::Channel,
                grain_span: value.head_span,
                place: place.map_or(0, |field| field.place),
                gate: Some((gate.name(), gate.axis())),
            };
            let Some(typed) = typed(syntax, &context, &mut names, self.mistakes) else {
                unreadable = true;
                continue;
            };
            let proved = typed.formula.range();
            if gate != GateOf::Decay || self.at_most_zero(syntax, &typed, &names) {
                self.stays_inside(gate, value, proved);
            }
            if gate == GateOf::Decay && proved.lower().is_finite() {
                bound = check_bound(proved.lower() as f32, proved.upper() as f32).ok();
            }
            prologue.gates[gate as usize] = Some(typed.formula);
        }
        self.spread_axes(spec, &mut names);
        self.all_used(&names, unreadable);
        for name in &names {
            let axis = name.axis.map(|(axis, ..)| axis);
            match name.leaf {
                Leaf::Param(_) => prologue.params.push(Parameter { name: name.text.clone(), axis }),
                Leaf::Let(at) => {
                    if let Some(shared) = prologue.lets.get_mut(usize::from(at)) {
                        shared.axis = axis;
                    }
                }
                Leaf::Logit => {}
            }
        }
        (prologue, bound)
    }

    fn norm(&mut self, key: &str, value: &Value<S>) -> bool {
        self.no_clauses(key, value);
        if !matches!(value.head.text(), "none" | "l2norm") {
            self.not_one_of(key, value, &["none", "l2norm"]);
        }
        value.head.text() == "l2norm"
    }

    /// A name that nothing else has, nor its gradient.
    fn fresh(&mut self, declaration: &Declaration<S>, names: &[Name<S>]) -> bool {
        let word = declaration.name.as_str();
        let span = declaration.name_span;
        let called = |reason: &str| {
            Mistake::new(span, format!("nothing can be named `{}`: {reason}", excerpt(word)), "not a free name")
        };
        let gradient = |of: &str| word.strip_prefix('d') == Some(of);
        let mistake = if let Some(first) = names.iter().find(|name| name.text == word) {
            Mistake::new(span, format!("`{word}` is declared twice"), "declared again here")
                .related(first.span, "first declared here")
        } else if let Some(of) =
            names.iter().find(|name| gradient(&name.text) || name.text.strip_prefix('d') == Some(word))
        {
            called("one name would be the gradient of the other").related(of.span, "the other one")
        } else if let Err(reason) = check_name(word) {
            called(&reason)
        } else if Function::named(word).is_some() {
            called("it is a function")
        } else if TENSORS.contains(&word) || crate::check::is_key(word) {
            called("rules and calls use the word already")
        } else if RESERVED.contains(&word) {
            called("the word is reserved").note(format!("reserved are {}", crate::suggest::list(&RESERVED, "and")))
        } else {
            return true;
        };
        self.mistakes.push(mistake);
        false
    }

    /// Declares a parameter; true where its declaration could not be understood.
    fn param(&mut self, declaration: &Declaration<S>, names: &mut Vec<Name<S>>) -> bool {
        let fresh = self.fresh(declaration, names);
        let mut channel = None;
        if let Some(value) = &declaration.value {
            self.no_clauses("param", value);
            match value.head.text() {
                "head" => channel = Some(false),
                "channel" => channel = Some(true),
                _ => self.not_one_of(&format!("param {}", excerpt(&declaration.name)), value, &["head", "channel"]),
            }
        }
        let count = names.iter().filter(|name| matches!(name.leaf, Leaf::Param(_))).count();
        names.push(name(declaration, Leaf::Param(place(count)), channel, Interval::ALL));
        !fresh || channel.is_none()
    }

    /// Declares a shared value; true where its declaration could not be understood.
    fn shared(
        &mut self,
        declaration: &Declaration<S>,
        dtype: Dtype,
        names: &mut Vec<Name<S>>,
        prologue: &mut Prologue,
    ) -> bool {
        let fresh = self.fresh(declaration, names);
        let read = self.shared_value(declaration, dtype, names);
        let leaf = Leaf::Let(place(prologue.lets.len()));
        let Some((channel, storage, formula)) = read else {
            names.push(name(declaration, leaf, None, Interval::ALL));
            return true;
        };
        names.push(name(declaration, leaf, Some(channel), formula.range()));
        prologue.lets.push(Let { name: declaration.name.clone(), axis: None, storage, formula });
        !fresh
    }

    /// Whether a shared value has channels, how its logit is stored, and what it is.
    fn shared_value(
        &mut self,
        declaration: &Declaration<S>,
        dtype: Dtype,
        names: &mut [Name<S>],
    ) -> Option<(bool, Dtype, Formula)> {
        let value = declaration.value.as_ref()?;
        let key = format!("let {}", excerpt(&declaration.name));
        if let Some(bound) = &value.bound {
            self.no_bound("let", bound);
        }
        let channel = match value.head.text() {
            "scalar" => false,
            "channel" => true,
            _ => {
                self.not_one_of(&key, value, &["scalar", "channel"]);
                return None;
            }
        };
        let syntax = match &value.formula {
            Some(Written::Read(syntax)) => syntax,
            Some(Written::Unreadable) => return None,
            None => {
                self.mistakes.push(
                    Mistake::new(value.head_span.after(), format!("`{key}` has no formula"), "expected `=`")
                        .note("a `let` names what several formulas share: `let dt: scalar = softplus(x + dt_bias);`"),
                );
                return None;
            }
        };
        let storage = self.logit_storage(&key, value, dtype);
        let context = Context {
            name: declaration.name.clone(),
            channel,
            grain_span: value.head_span,
            place: declaration.place,
            gate: None,
        };
        Some((channel, storage, typed(syntax, &context, names, self.mistakes)?.formula))
    }

    /// How a logit is stored: as the rule's rows are, or `as f32`.
    pub(crate) fn logit_storage(&mut self, of: &str, value: &Value<S>, dtype: Dtype) -> Dtype {
        let Some(storage) = &value.storage else { return dtype };
        let reads = match &value.formula {
            Some(Written::Read(syntax)) => {
                syntax.nodes.iter().any(|node| matches!(&node.op, SyntaxOp::Name(word) if word == "x"))
            }
            _ => true,
        };
        if !reads {
            let mistake = Mistake::new(storage.span, format!("`{of}` reads no logit that could be stored"), "not here");
            self.mistakes.push(mistake.suggest("remove it", storage.span, ""));
        } else if storage.dtype == "f32" {
            return Dtype::F32;
        } else if storage.dtype != dtype.to_string() {
            let message = format!("logits are stored as the rule's rows are, {dtype}, or `as f32`");
            let mistake = Mistake::new(storage.dtype_span, message, "not how a logit is stored");
            self.mistakes.push(mistake.suggest("say `f32`", storage.dtype_span, "f32"));
        }
        dtype
    }

    /// The decay never grows the state; else what to do about it.
    fn at_most_zero(&mut self, syntax: &Syntax<S>, typed: &Typed, names: &[Name<S>]) -> bool {
        let range = typed.formula.range();
        let Some(whole) = syntax.nodes.last().filter(|_| range.upper() > 0.0) else { return true };
        let words = Words(names);
        if range.lower() >= 0.0 {
            let text = typed.formula.text(&words);
            let sum = matches!(whole.op, SyntaxOp::Binary('+' | '-', ..));
            let negated = if sum { format!("-({text})") } else { format!("-{text}") };
            self.mistakes.push(
                Mistake::new(
                    whole.span,
                    format!("this decay is never below 0: it ranges over {range}; g is a natural log, at most 0"),
                    "grows the state",
                )
                .suggest("put `-` before it", whole.span, negated),
            );
            return false;
        }
        let at = culprit(syntax, typed);
        let (node, own) = typed.parts[at];
        let text = typed.tree.text(node, &words);
        self.mistakes.push(if own.lower() < 0.0 && own.upper() > 0.0 {
            Mistake::new(
                syntax.nodes[at].span,
                format!("nothing proves this decay at most 0: `{text}` may have either sign"),
                "may be above 0",
            )
            .note(format!("`softplus({text})` and `exp({text})` are never below 0"))
            .note("a decay that arrives computed has no formula")
            .suggest(
                "take what has one sign in its place",
                syntax.nodes[at].span,
                format!("softplus({text})"),
            )
        } else {
            Mistake::new(
                whole.span,
                format!("nothing proves this decay at most 0: it ranges over {range}"),
                "may be above 0",
            )
            .note("g is a natural log, at most 0")
            .note("a decay that arrives computed has no formula")
        });
        false
    }

    /// A stated interval holds what the formula is proved to lie in.
    fn stays_inside(&mut self, gate: GateOf, value: &Value<S>, proved: Interval) {
        let Some((interval, (lower, upper))) = value.bound.as_ref().and_then(|bound| Some((bound, self.ends(bound)?)))
        else {
            return;
        };
        let (lowest, highest) = (proved.lower() as f32, proved.upper() as f32);
        let why = if lowest == f32::NEG_INFINITY {
            "it has no lower end".to_owned()
        } else if highest == f32::INFINITY {
            "it has no upper end".to_owned()
        } else if lowest < lower {
            format!("nothing keeps it above {lowest}")
        } else if highest > upper {
            format!("nothing keeps it below {highest}")
        } else {
            return;
        };
        let stated = Interval::new(f64::from(lower), f64::from(upper));
        let mut mistake =
            Mistake::new(interval.span, format!("the formula does not stay in {stated}: {why}"), "not proved");
        if gate == GateOf::Decay && upper == 0.0 {
            mistake = mistake.note(format!("`{lower} * sigmoid(exp(a_log) * x)` stays there"));
        }
        self.mistakes.push(mistake.suggest("remove the bound", interval.span, ""));
    }

    /// Gives the channels of a shared value to what it is made of.
    fn spread_axes(&mut self, spec: &Spec<S>, names: &mut [Name<S>]) {
        for declaration in spec.declarations.iter().filter(|declaration| declaration.is_let).rev() {
            let axis = names.iter().find(|name| name.text == declaration.name).and_then(|name| name.axis);
            let syntax = declaration.value.as_ref().and_then(|value| value.formula.as_ref());
            let (Some((axis, _, gate)), Some(Written::Read(syntax))) = (axis, syntax) else { continue };
            for node in &syntax.nodes {
                let SyntaxOp::Name(word) = &node.op else { continue };
                let Some(name) = names.iter_mut().find(|name| name.text == *word && name.channel) else { continue };
                match name.axis {
                    None => name.axis = Some((axis, node.span, gate)),
                    Some((known, first, other)) if known != axis => {
                        self.mistakes.push(two_axes(word, node.span, (axis, gate), first, (known, other)));
                    }
                    Some(_) => {}
                }
            }
        }
    }

    /// What nobody reads is a mistake, unless a formula that might have read it could not be understood.
    fn all_used(&mut self, names: &[Name<S>], unreadable: bool) {
        for name in names.iter().filter(|name| !name.used && !unreadable) {
            let mistake = Mistake::new(name.span, format!("no formula reads `{}`", name.text), "declared for nothing");
            self.mistakes.push(mistake.note("remove it, or use it in a formula below"));
        }
    }
}

/// A name as formulas see it; one whose grain is unknown is broken.
fn name<S: SourceSpan>(declaration: &Declaration<S>, leaf: Leaf, channel: Option<bool>, range: Interval) -> Name<S> {
    Name {
        text: declaration.name.clone(),
        leaf,
        channel: channel.unwrap_or(false),
        range,
        span: declaration.name_span,
        place: declaration.place,
        grain_span: declaration.value.as_ref().map_or(declaration.name_span, |value| value.head_span),
        used: false,
        broken: channel.is_none(),
        axis: None,
    }
}

/// A place among the rule's own names, of which there are few.
fn place(count: usize) -> u16 {
    count as u16
}

/// The part that keeps a decay from being proved: the factor, or the only summand, that may be above 0.
fn culprit<S>(syntax: &Syntax<S>, typed: &Typed) -> usize {
    let range = |at: usize| typed.parts[at].1;
    let either = |at: usize| range(at).lower() < 0.0 && range(at).upper() > 0.0;
    let mut at = syntax.nodes.len() - 1;
    loop {
        at = match syntax.nodes[at].op {
            SyntaxOp::Neg(a) => a,
            SyntaxOp::Binary('*' | '/', a, _) if either(a) => a,
            SyntaxOp::Binary('*' | '/', _, b) if either(b) => b,
            SyntaxOp::Binary('+', a, b) if range(a).upper() <= 0.0 => b,
            SyntaxOp::Binary('+' | '-', a, b) if range(b).upper() <= 0.0 && range(b).lower() >= 0.0 => a,
            SyntaxOp::Binary('+', a, b) if range(b).upper() <= 0.0 => a,
            _ => return at,
        };
    }
}
