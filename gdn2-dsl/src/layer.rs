//! What a whole rule computes, in float64: its rows normalised and its gates from their formulas, then the recurrence,
//! and the gradients of all of it back to raw rows, logits and parameters. For a rule without formulas this is the
//! recurrence alone.
//!
//! A decay is clamped at −104, and below that has derivative 0: there its gradient is rounding noise, which the decay
//! itself would multiply.

use rayon::prelude::*;

use crate::formula::{Formula, Leaf};
use crate::inputs::{Gradients, InputError, Inputs, OutputGradients, Outputs};
use crate::prologue::{Axis, GateOf, LEAST_DECAY, NORM_EPSILON};
use crate::reference;
use crate::rule::{Grain, Rule, Write};

/// Runs a rule over every sequence and head of its raw inputs.
///
/// # Errors
/// Tensors that do not fit the rule or one another.
pub fn forward(rule: &Rule, raw: &Inputs) -> Result<Outputs, InputError> {
    reference::forward(rule.combination(), &computed(rule, raw)?)
}

/// The exact gradients of `sum(o·d_out) + sum(final_state·d_final_state)` by everything the rule is given.
///
/// # Errors
/// Tensors that do not fit the rule or one another.
pub fn backward(rule: &Rule, raw: &Inputs, upstream: &OutputGradients) -> Result<Gradients, InputError> {
    let found = reference::backward(rule.combination(), &computed(rule, raw)?, upstream)?;
    pulled_back(rule, raw, found)
}

/// What the recurrence is given: rows normalised, gates computed.
///
/// # Errors
/// Tensors that do not fit the rule or one another.
pub fn computed(rule: &Rule, raw: &Inputs) -> Result<Inputs, InputError> {
    raw.check_rule(rule)?;
    let mut inputs = raw.clone();
    if rule.prologue.is_empty() {
        return Ok(inputs);
    }
    inputs.named.clear();
    let width = raw.dims.key_dim;
    for (rows, normalised) in
        [(&mut inputs.q, rule.prologue.normalises_q()), (&mut inputs.k, rule.prologue.normalises_k())]
    {
        if normalised {
            rows.par_chunks_exact_mut(width).for_each(|row| {
                let scale = inverse_norm(row);
                row.iter_mut().for_each(|x| *x *= scale);
            });
        }
    }
    let shared = shared(rule, raw);
    let point = Point { rule, raw, shared: &shared };
    for (gate, tensor) in GateOf::ALL.into_iter().zip([&mut inputs.g, &mut inputs.b, &mut inputs.w]) {
        let Some(formula) = rule.prologue.gate(gate) else { continue };
        let mut values = point.values(formula, axis(rule, gate), logit(raw, gate));
        if gate == GateOf::Decay {
            values.iter_mut().filter(|g| **g < LEAST_DECAY).for_each(|g| *g = LEAST_DECAY);
        }
        *tensor = Some(values);
    }
    Ok(inputs)
}

/// Gradients by rows and gates as the recurrence takes them, back to those by what the rule is given.
///
/// # Errors
/// Tensors that do not fit the rule or one another.
pub fn pulled_back(rule: &Rule, raw: &Inputs, found: Gradients) -> Result<Gradients, InputError> {
    raw.check_rule(rule)?;
    let mut all = found;
    if rule.prologue.is_empty() {
        return Ok(all);
    }
    let shared = shared(rule, raw);
    let point = Point { rule, raw, shared: &shared };
    let params = rule.prologue.params().iter().map(|param| vec![0.0; raw.named[&param.name].len()]).collect();
    let mut sums = Sums { params, shared: shared.iter().map(|values| vec![0.0; values.len()]).collect() };
    for (gate, tensor) in GateOf::ALL.into_iter().zip([&mut all.dg, &mut all.db, &mut all.dw]) {
        let Some(formula) = rule.prologue.gate(gate) else { continue };
        let least = if gate == GateOf::Decay { LEAST_DECAY } else { f64::NEG_INFINITY };
        let upstream = tensor.take().unwrap_or_default();
        *tensor = point.pull(formula, axis(rule, gate), logit(raw, gate), least, &upstream, &mut sums);
    }
    for (at, own) in rule.prologue.lets().iter().enumerate().rev() {
        let upstream = std::mem::take(&mut sums.shared[at]);
        let logit = raw.named.get(&own.name).map(Vec::as_slice);
        if let Some(gradient) = point.pull(&own.formula, own.axis, logit, f64::NEG_INFINITY, &upstream, &mut sums) {
            all.named.insert(own.name.clone(), gradient);
        }
    }
    for (param, sum) in rule.prologue.params().iter().zip(sums.params) {
        all.named.insert(param.name.clone(), sum);
    }
    for (rows, gradient, normalised) in
        [(&raw.q, &mut all.dq, rule.prologue.normalises_q()), (&raw.k, &mut all.dk, rule.prologue.normalises_k())]
    {
        if normalised {
            let width = raw.dims.key_dim;
            rows.par_chunks_exact(width)
                .zip(gradient.par_chunks_exact_mut(width))
                .for_each(|(row, d)| pull_norm(row, d));
        }
    }
    Ok(all)
}

/// r = (Σx² + ε)^−½.
fn inverse_norm(row: &[f64]) -> f64 {
    1.0 / (row.iter().map(|x| x * x).sum::<f64>() + NORM_EPSILON).sqrt()
}

/// The gradient by y = r x, to that by x: r (ȳ − y (y·ȳ)).
fn pull_norm(row: &[f64], gradient: &mut [f64]) {
    let r = inverse_norm(row);
    let along: f64 = row.iter().zip(gradient.iter()).map(|(x, d)| r * x * d).sum();
    row.iter().zip(gradient.iter_mut()).for_each(|(x, d)| *d = r * (*d - r * x * along));
}

fn logit(raw: &Inputs, gate: GateOf) -> Option<&[f64]> {
    let tensor = match gate {
        GateOf::Decay => &raw.g,
        GateOf::Erase => &raw.b,
        GateOf::Write => &raw.w,
    };
    tensor.as_deref()
}

/// A gate's channels.
fn axis(rule: &Rule, gate: GateOf) -> Option<Axis> {
    let grain = match (gate, rule.write) {
        (GateOf::Decay, _) => rule.decay.grain,
        (GateOf::Erase, _) => rule.erase.grain,
        (GateOf::Write, Write::Own(own)) => own.grain,
        (GateOf::Write, Write::Tied) => Grain::None,
    };
    (grain == Grain::Channel).then(|| gate.axis())
}

/// The values of every `let`, `[B,T,HV]` or `[B,T,HV,channels]`.
fn shared(rule: &Rule, raw: &Inputs) -> Vec<Vec<f64>> {
    let mut values: Vec<Vec<f64>> = Vec::new();
    for own in rule.prologue.lets() {
        let point = Point { rule, raw, shared: &values };
        let next = point.values(&own.formula, own.axis, raw.named.get(&own.name).map(Vec::as_slice));
        values.push(next);
    }
    values
}

/// What formulas read.
struct Point<'a> {
    rule: &'a Rule,
    raw: &'a Inputs,
    shared: &'a [Vec<f64>],
}

/// Gradients of parameters and `let`s, as far as they are summed.
struct Sums {
    params: Vec<Vec<f64>>,
    shared: Vec<Vec<f64>>,
}

impl Point<'_> {
    fn width(&self, axis: Option<Axis>) -> usize {
        axis.map_or(1, |axis| axis.channels(self.rule) as usize)
    }

    /// Where a leaf's number stands in its tensor, for a row of `[B·T·HV]` and a channel of the formula.
    fn place(&self, leaf: Leaf, width: usize, row: usize, channel: usize) -> usize {
        let at = |axis: Option<Axis>, row: usize| match axis {
            Some(_) => row * width + channel,
            None => row,
        };
        let prologue = &self.rule.prologue;
        match leaf {
            Leaf::Logit => row * width + channel,
            Leaf::Param(own) => at(prologue.params()[usize::from(own)].axis, row % self.raw.dims.value_heads),
            Leaf::Let(own) => at(prologue.lets()[usize::from(own)].axis, row),
        }
    }

    fn tensor<'t>(&'t self, leaf: Leaf, logit: Option<&'t [f64]>) -> &'t [f64] {
        match leaf {
            Leaf::Logit => logit.unwrap_or_default(),
            Leaf::Param(own) => &self.raw.named[&self.rule.prologue.params()[usize::from(own)].name],
            Leaf::Let(own) => &self.shared[usize::from(own)],
        }
    }

    /// A formula at every row and channel.
    fn values(&self, formula: &Formula, axis: Option<Axis>, logit: Option<&[f64]>) -> Vec<f64> {
        let width = self.width(axis);
        let rows = self.raw.dims.batch * self.raw.dims.tokens * self.raw.dims.value_heads;
        let tensors: Vec<(Leaf, &[f64])> = formula.leaves().map(|leaf| (leaf, self.tensor(leaf, logit))).collect();
        let mut values = vec![0.0; rows * width];
        values.par_chunks_mut(width).enumerate().for_each_init(Vec::new, |numbers, (row, values)| {
            for (channel, value) in values.iter_mut().enumerate() {
                let read = |leaf| self.read(&tensors, leaf, width, row, channel);
                *value = formula.evaluate(read, numbers).value();
            }
        });
        values
    }

    fn read(&self, tensors: &[(Leaf, &[f64])], leaf: Leaf, width: usize, row: usize, channel: usize) -> f64 {
        let tensor = tensors.iter().find(|(own, _)| *own == leaf).map_or(&[][..], |(_, tensor)| tensor);
        tensor.get(self.place(leaf, width, row, channel)).copied().unwrap_or(f64::NAN)
    }

    /// The gradient by a formula's value, to those by its leaves: parameters' and `let`s' added to `sums` in the order of
    /// rows, the logit's returned. Where the value is below `least` it is constant.
    fn pull(
        &self,
        formula: &Formula,
        axis: Option<Axis>,
        logit: Option<&[f64]>,
        least: f64,
        upstream: &[f64],
        sums: &mut Sums,
    ) -> Option<Vec<f64>> {
        let width = self.width(axis);
        let tensors: Vec<(Leaf, &[f64])> = formula.leaves().map(|leaf| (leaf, self.tensor(leaf, logit))).collect();
        let mut by_logit = logit.map(|logit| vec![0.0; logit.len()]);
        let mut numbers = Vec::new();
        for (at, upstream) in upstream.iter().enumerate() {
            let (row, channel) = (at / width, at % width);
            let read = |leaf| self.read(&tensors, leaf, width, row, channel);
            let evaluated = formula.evaluate(read, &mut numbers);
            if evaluated.value() < least {
                continue;
            }
            for (leaf, partial) in evaluated.partials() {
                let place = self.place(leaf, width, row, channel);
                let sum = match leaf {
                    Leaf::Logit => by_logit.as_mut(),
                    Leaf::Param(own) => sums.params.get_mut(usize::from(own)),
                    Leaf::Let(own) => sums.shared.get_mut(usize::from(own)),
                };
                if let Some(sum) = sum.and_then(|sum| sum.get_mut(place)) {
                    *sum += partial * upstream;
                }
            }
        }
        by_logit
    }
}
