//! Random inputs: the same numbers on every machine for one seed, already rounded to what the rule stores.
//!
//! Only sums, products, quotients and square roots are used, which every machine rounds alike.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::inputs::{Dims, InputError, Inputs, OutputGradients};
use crate::limits::LARGEST_ERASE;
use crate::prologue::{GateOf, NamedTensor};
use crate::rule::{Bound, Dtype, Gate, Grain, Rule, Write};

/// How strongly the drawn gates act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Regime {
    /// g = 0: a decay gate that does nothing.
    None,
    /// g around −0.05 per token.
    Mild,
    /// g from −2.5 to −30 per token.
    Strong,
    /// Mild, and −1000 at one token in sixteen.
    Reset,
}

/// What to draw.
#[derive(Clone, Debug, PartialEq)]
pub struct Draw {
    /// B; 1 with `cu_seqlens`.
    pub batch: usize,
    /// T.
    pub tokens: usize,
    /// H.
    pub heads: usize,
    /// HV.
    pub value_heads: usize,
    /// Packed sequences.
    pub cu_seqlens: Option<Vec<usize>>,
    /// How strongly gates act.
    pub regime: Regime,
    /// Erase gates are drawn from 0 to this, 1 usually and 2 for negative eigenvalues.
    pub largest_erase: f64,
    /// Every key within a hundredth of one direction per head: the hardest case for the chunk's inverse.
    pub near_identical_keys: bool,
    /// Whether there is an initial state.
    pub initial_state: bool,
    /// Same seed, same numbers; a tensor's numbers do not depend on which others the rule has.
    pub seed: u64,
}

impl FromStr for Regime {
    type Err = String;

    fn from_str(word: &str) -> Result<Regime, String> {
        Ok(match word {
            "none" => Regime::None,
            "mild" => Regime::Mild,
            "strong" => Regime::Strong,
            "reset" => Regime::Reset,
            _ => return Err(format!("gates: `{word}` is none of none, mild, strong, reset")),
        })
    }
}

/// One stream per tensor.
#[derive(Clone, Copy)]
enum Tensor {
    Q = 1,
    K,
    V,
    G,
    B,
    W,
    InitialState,
    DOut,
    DFinalState,
    KeyDirection,
    /// The first of the tensors that a rule names itself.
    Named,
}

impl Draw {
    /// Mild gates, an initial state, nothing unusual.
    pub fn new(batch: usize, tokens: usize, heads: usize, value_heads: usize, seed: u64) -> Draw {
        Draw {
            batch,
            tokens,
            heads,
            value_heads,
            cu_seqlens: None,
            regime: Regime::Mild,
            largest_erase: 1.0,
            near_identical_keys: false,
            initial_state: true,
            seed,
        }
    }

    /// Three draws that between them hold what kernels get wrong: a ragged end, grouped heads, packed sequences with one
    /// token and none, strong decay, resets, near-identical keys, erase gates up to 2.
    pub fn telling(seed: u64) -> [Draw; 3] {
        let packed = vec![0, 1, 1, 65, 98];
        [
            Draw::new(1, 75, 1, 2, seed),
            Draw { cu_seqlens: Some(packed), regime: Regime::Strong, ..Draw::new(1, 98, 1, 1, seed.wrapping_add(1)) },
            Draw {
                regime: Regime::Reset,
                near_identical_keys: true,
                largest_erase: 2.0,
                initial_state: false,
                ..Draw::new(2, 33, 1, 1, seed.wrapping_add(2))
            },
        ]
    }

    /// The call's dims for a rule.
    pub fn dims(&self, rule: &Rule) -> Dims {
        Dims {
            batch: self.batch,
            tokens: self.tokens,
            heads: self.heads,
            value_heads: self.value_heads,
            key_dim: rule.key_dim as usize,
            value_dim: rule.value_dim as usize,
        }
    }

    /// Whether inputs can be drawn: sizes within the [limits](crate::limits), offsets that cut the tokens into sequences,
    /// erase gates from 0 to a number from 0 to 2.
    ///
    /// # Errors
    /// What cannot be.
    pub fn check(&self, rule: &Rule) -> Result<(), InputError> {
        let states = self.cu_seqlens.as_ref().map_or(self.batch, |offsets| offsets.len().saturating_sub(1));
        let dims = self.dims(rule);
        dims.check(states)?;
        dims.check_named(rule)?;
        if !(0.0..=LARGEST_ERASE).contains(&self.largest_erase) {
            let got = self.largest_erase;
            return Err(InputError::Dims(format!("largest_erase = {got}: must be from 0 to {LARGEST_ERASE}")));
        }
        let Some(offsets) = &self.cu_seqlens else { return Ok(()) };
        if self.batch != 1 {
            return Err(InputError::Offsets(format!("packed sequences need B = 1, not {}", self.batch)));
        }
        if offsets.first() != Some(&0) || offsets.last() != Some(&self.tokens) || !offsets.is_sorted() {
            return Err(InputError::Offsets(format!("must ascend from 0 to T = {}", self.tokens)));
        }
        Ok(())
    }

    /// Draws the inputs of `rule`; g inside its bound. Sizes are those that [`Draw::check`] lets pass.
    ///
    /// Where a rule normalises rows or computes gates, rows, logits and parameters are bell-shaped: parameters low where
    /// gates are to act mildly and high where strongly, logits ±50 at one token in sixteen for [`Regime::Reset`].
    pub fn inputs(&self, rule: &Rule) -> Inputs {
        let dims = self.dims(rule);
        let rows = self.batch * self.tokens;
        let dtype = rule.dtype;
        let mut stream = self.stream(Tensor::V);
        let v = (0..rows * dims.value_heads * dims.value_dim).map(|_| dtype.round(stream.bell())).collect();
        let gate = |tensor, of: GateOf, gate: Gate, channels, value: &dyn Fn(&mut Stream) -> f64| {
            let width = match gate.grain {
                Grain::None => return None,
                _ if !rule.prologue.has_tensor(of) => return None,
                Grain::Scalar => 1,
                Grain::Channel => channels,
            };
            let mut stream = self.stream(tensor);
            let computed = rule.prologue.gate(of).is_some();
            let mut next = || {
                if computed { gate.storage.round(self.regime.logit(&mut stream)) } else { value(&mut stream) }
            };
            Some((0..rows * dims.value_heads * width).map(|_| next()).collect())
        };
        let decay = |stream: &mut Stream| inside(self.regime.decay(stream), rule.bound, rule.decay.storage);
        let erase = |stream: &mut Stream| rule.erase.storage.round(self.largest_erase * stream.unit());
        let write = match rule.write {
            Write::Own(gate) => gate,
            Write::Tied => Gate { grain: Grain::None, storage: dtype },
        };
        let mut inputs = Inputs {
            dims,
            q: self.rows(Tensor::Q, rows * dims.heads, &dims, dtype, !rule.prologue.normalises_q()),
            k: self.rows(Tensor::K, rows * dims.heads, &dims, dtype, !rule.prologue.normalises_k()),
            v,
            g: gate(Tensor::G, GateOf::Decay, rule.decay, dims.key_dim, &decay),
            b: gate(Tensor::B, GateOf::Erase, rule.erase, dims.key_dim, &erase),
            w: gate(Tensor::W, GateOf::Write, write, dims.value_dim, &|stream| write.storage.round(stream.unit())),
            initial_state: None,
            cu_seqlens: self.cu_seqlens.clone(),
            scale: Inputs::default_scale(dims.key_dim),
            named: self.named(rule, &dims),
        };
        inputs.initial_state = self.initial_state.then(|| self.states(Tensor::InitialState, &inputs));
        inputs
    }

    /// Draws a gradient on o and on the final state.
    pub fn output_gradients(&self, rule: &Rule, inputs: &Inputs) -> OutputGradients {
        let mut stream = self.stream(Tensor::DOut);
        OutputGradients {
            d_out: inputs.v.iter().map(|_| rule.dtype.round(stream.bell())).collect(),
            d_final_state: Some(self.states(Tensor::DFinalState, inputs)),
        }
    }

    fn states(&self, tensor: Tensor, inputs: &Inputs) -> Vec<f64> {
        let mut stream = self.stream(tensor);
        let count = inputs.states() * inputs.dims.value_heads * inputs.dims.state();
        (0..count).map(|_| Dtype::F32.round(0.5 * stream.bell())).collect()
    }

    /// Parameters, and logits of `let`s.
    fn named(&self, rule: &Rule, dims: &Dims) -> BTreeMap<String, Vec<f64>> {
        let draw = |(index, own): (usize, NamedTensor<'_>)| {
            let mut stream = self.stream_of(Tensor::Named as u64 + index as u64);
            let channels = own.axis.map_or(1, |axis| axis.channels(rule) as usize);
            let rows = if own.per_token { self.batch * self.tokens } else { 1 };
            let next = |_| {
                let x = if own.per_token { self.regime.logit(&mut stream) } else { self.regime.parameter(&mut stream) };
                own.storage.round(x)
            };
            (own.name.to_owned(), (0..rows * dims.value_heads * channels).map(next).collect())
        };
        rule.prologue.named().into_iter().enumerate().map(draw).collect()
    }

    /// Rows of q or k, of length 1 where the rule does not see to that itself.
    fn rows(&self, tensor: Tensor, rows: usize, dims: &Dims, dtype: Dtype, unit: bool) -> Vec<f64> {
        let width = dims.key_dim;
        let mut stream = self.stream(tensor);
        let mut directions = self.stream(Tensor::KeyDirection);
        let common: Vec<f64> = (0..dims.heads * width).map(|_| directions.bell()).collect();
        let mut values = Vec::with_capacity(rows * width);
        for index in 0..rows {
            let mut row: Vec<f64> = (0..width).map(|_| stream.bell()).collect();
            if self.near_identical_keys && matches!(tensor, Tensor::K) {
                let common = &common[index % dims.heads * width..];
                row.iter_mut().zip(common).for_each(|(x, common)| *x = common + 0.01 * *x);
            }
            let norm = if unit { row.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-6) } else { 1.0 };
            values.extend(row.iter().map(|x| dtype.round(x / norm)));
        }
        values
    }

    fn stream(&self, tensor: Tensor) -> Stream {
        self.stream_of(tensor as u64)
    }

    fn stream_of(&self, number: u64) -> Stream {
        let mut stream = Stream { state: self.seed ^ number.wrapping_mul(0xA076_1D64_78BD_642F) };
        stream.next();
        stream
    }
}

impl Regime {
    fn decay(self, stream: &mut Stream) -> f64 {
        let (chance, depth) = (stream.unit(), stream.unit());
        match self {
            Regime::None => 0.0,
            Regime::Reset if chance < 1.0 / 16.0 => -1000.0,
            Regime::Mild | Regime::Reset => -0.1 * depth,
            Regime::Strong => -2.5 - 27.5 * depth * depth,
        }
    }

    fn logit(self, stream: &mut Stream) -> f64 {
        let (chance, x) = (stream.unit(), stream.bell());
        match self {
            Regime::None | Regime::Mild => x,
            Regime::Strong => 4.0 * x,
            Regime::Reset if chance < 1.0 / 16.0 => 50.0 * x.signum(),
            Regime::Reset => x,
        }
    }

    fn parameter(self, stream: &mut Stream) -> f64 {
        let x = stream.bell();
        match self {
            Regime::None | Regime::Mild | Regime::Reset => 0.5 * x - 1.5,
            Regime::Strong => 0.5 * x + 0.5,
        }
    }
}

/// `g` as stored, inside the bound after rounding too. A bound tighter than the storage's steps cannot be kept.
fn inside(g: f64, bound: Option<Bound>, storage: Dtype) -> f64 {
    let Some(bound) = bound else { return storage.round(g) };
    let (lower, upper) = (f64::from(bound.lower), f64::from(bound.upper));
    let rounded = storage.round(g.clamp(lower, upper));
    // One part in 256 is a bf16 step: towards zero if rounding went below, away from it if above.
    if rounded < lower {
        storage.round(rounded * (1.0 - 1.0 / 256.0))
    } else if rounded > upper {
        storage.round(rounded * (1.0 + 1.0 / 256.0))
    } else {
        rounded
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014): one addition and a mixing function, every seed a full period.
struct Stream {
    state: u64,
}

impl Stream {
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 up to, not including, 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Nearly normal, mean 0 and deviation 1: a sum of twelve uniform numbers.
    fn bell(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

#[cfg(test)]
mod tests {
    use super::Stream;

    #[test]
    fn the_generator_is_the_published_one() {
        let mut stream = Stream { state: 1_234_567 };
        let published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431];
        assert_eq!(published.map(|_| stream.next()), published);
    }
}
