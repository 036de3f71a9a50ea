//! Trains one GDN-2 layer on associative recall, on the CPU, in seconds: a sequence shows pairs of a name and a number,
//! then names alone; the layer must say the number that went with each. Short convolution, l2 norm, three gates and a
//! gated RMSNorm stand around the generated forward and backward, as in the published layer.

mod tape;

use std::error::Error;

use gdn2::View;
use tape::{Tape, Var};

gdn2::delta_rule! {
    /// Gated DeltaNet-2 with one small head.
    pub mod layer { decay: channel; erase: channel; write: channel; key_dim: 32; value_dim: 32; dtype: bf16; }
}

const WIDTH: usize = 32;
const NAMES: usize = 8;
const NUMBERS: usize = 8;
const PAIRS: usize = 4;
/// Pairs, then each name once more.
const TOKENS: usize = 3 * PAIRS;
const BATCH: usize = 32;
const STEPS: usize = 250;
/// What the loss must fall to; saying any of the four shown numbers at random would give ln 4 = 1.39.
const GOAL: f32 = 0.1;

/// A generator of numbers that look random, the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, count: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % count
    }

    /// Numbers in [-size, size).
    fn matrix(&mut self, count: usize, size: f32) -> Vec<f32> {
        (0..count).map(|_| size * (self.below(1 << 16) as f32 / f32::from(1u16 << 15) - 1.0)).collect()
    }
}

/// Sequences of name and number pairs, then names; and the number to say at each token.
fn sequences(random: &mut Random) -> (Vec<usize>, Vec<Option<usize>>) {
    let (mut tokens, mut targets) = (Vec::new(), Vec::new());
    for _ in 0..BATCH {
        let mut names: Vec<usize> = (0..NAMES).collect();
        (1..NAMES).rev().for_each(|last| names.swap(last, random.below(last + 1)));
        let numbers: Vec<usize> = (0..PAIRS).map(|_| random.below(NUMBERS)).collect();
        for (name, number) in names.iter().zip(&numbers) {
            tokens.extend([*name, NAMES + number]);
            targets.extend([None, None]);
        }
        for (name, number) in names.iter().zip(&numbers).rev() {
            tokens.push(*name);
            targets.push(Some(*number));
        }
    }
    (tokens, targets)
}

/// The layer's matrices, by the order in which `logits` takes them: rows and columns.
const SHAPES: [(usize, usize); 13] = [
    (NAMES + NUMBERS, WIDTH), // embedding
    (WIDTH, WIDTH),           // q
    (WIDTH, WIDTH),           // k
    (WIDTH, WIDTH),           // v
    (4, WIDTH),               // taps of q
    (4, WIDTH),               // taps of k
    (4, WIDTH),               // taps of v
    (WIDTH, WIDTH),           // decay
    (WIDTH, WIDTH),           // erase
    (WIDTH, WIDTH),           // write
    (WIDTH, WIDTH),           // output gate
    (1, WIDTH),               // gain of the norm
    (WIDTH, NUMBERS),         // output
];

fn logits(
    tape: &mut Tape,
    kernels: &layer::Kernels,
    weights: &[Var; 13],
    tokens: Vec<usize>,
) -> Result<Var, Box<dyn Error>> {
    let [embedding, wq, wk, wv, tq, tk, tv, wg, wb, ww, wz, gain, out] = *weights;
    let x = tape.rows(embedding, tokens);
    let mut token = |w, taps| {
        let y = tape.matmul(x, w);
        let y = tape.convolve(y, taps, TOKENS);
        tape.map(y, silu)
    };
    let (q, k, v) = (token(wq, tq), token(wk, tk), token(wv, tv));
    let (q, k) = (tape.unit(q), tape.unit(k));
    let mut gate = |w, f: fn(f32) -> (f32, f32)| {
        let y = tape.matmul(x, w);
        tape.map(y, f)
    };
    let (g, b, w, z) = (gate(wg, log_decay), gate(wb, sigmoid), gate(ww, sigmoid), gate(wz, silu));
    let o = delta_rule(tape, kernels, [q, k, v, g, b, w])?;
    let o = tape.unit(o);
    let o = tape.mul(o, gain);
    let o = tape.mul(o, z);
    Ok(tape.matmul(o, out))
}

/// The generated functions on the tape.
fn delta_rule(tape: &mut Tape, kernels: &layer::Kernels, inputs: [Var; 6]) -> Result<Var, Box<dyn Error>> {
    const SHAPE: [usize; 4] = [BATCH, TOKENS, 1, WIDTH];
    let view = |var| View::new(tape.value(var), SHAPE);
    let [q, k, v, g, b, w] = inputs;
    let (out, saved) = kernels.forward_for_backward(layer::Forward {
        q: view(q)?,
        k: view(k)?,
        v: view(v)?,
        g: view(g)?,
        b: view(b)?,
        w: view(w)?,
        initial_state: None,
        cu_seqlens: None,
        scale: None,
    })?;
    let kernels = kernels.clone();
    Ok(tape.push(out.o.to_f32(), WIDTH, move |before, d_out| {
        let d_out = View::new(d_out, SHAPE)?;
        let grads = kernels.backward(&saved, layer::Backward { d_out, d_final_state: None })?;
        let grads = [grads.dq, grads.dk, grads.dv, grads.dg, grads.db, grads.dw];
        inputs.iter().zip(grads).for_each(|(var, grad)| before.add_all(*var, &grad.to_f32()));
        Ok(())
    }))
}

fn sigmoid(x: f32) -> (f32, f32) {
    let y = 1.0 / (1.0 + (-x).exp());
    (y, y * (1.0 - y))
}

fn silu(x: f32) -> (f32, f32) {
    let (y, dy) = sigmoid(x);
    (x * y, y + x * dy)
}

/// A twentieth of −ln(1 + eˣ): a decay between 1 and nearly 1 at first.
fn log_decay(x: f32) -> (f32, f32) {
    (-0.05 * x.exp().ln_1p(), -0.05 * sigmoid(x).0)
}

#[allow(dead_code, reason = "a test calls `train`")]
fn main() -> Result<(), Box<dyn Error>> {
    train(&std::env::args().nth(1).unwrap_or("cpu".to_owned()).parse()?)
}

/// Trains until the loss is where it should be, or says that it is not.
pub fn train(device: &gdn2::Device) -> Result<(), Box<dyn Error>> {
    let kernels = layer::load(device)?;
    let mut random = Random(0x5eed);
    let mut weights: Vec<Vec<f32>> =
        SHAPES.iter().map(|(rows, columns)| random.matrix(rows * columns, 1.7 / (*rows as f32).sqrt())).collect();
    // The norm starts as RMSNorm does, whose rows have length √WIDTH.
    weights[11] = vec![(WIDTH as f32).sqrt(); WIDTH];
    let mut moments: Vec<Vec<(f32, f32)>> = weights.iter().map(|w| vec![(0.0, 0.0); w.len()]).collect();

    let (mut loss, mut right) = (0.0, 0);
    for step in 1..=STEPS {
        let (tokens, targets) = sequences(&mut random);
        let mut tape = Tape::default();
        let vars: Vec<Var> =
            weights.iter().zip(SHAPES).map(|(w, (_, columns))| tape.leaf(w.clone(), columns)).collect();
        let vars: [Var; 13] = vars.try_into().map_err(|_| "one variable for each matrix")?;
        let logits = logits(&mut tape, &kernels, &vars, tokens)?;
        (loss, right) = tape.train(logits, &targets)?;
        for ((weights, moments), var) in weights.iter_mut().zip(&mut moments).zip(vars) {
            adam(weights, moments, tape.grad(var), step);
        }
        if step % 50 == 0 || step == 1 {
            println!("step {step:3}: loss {loss:.3}, {right} of {} right", BATCH * PAIRS);
        }
    }
    if loss > GOAL {
        return Err(format!("the loss ended at {loss}, above {GOAL}, with {right} right").into());
    }
    Ok(())
}

/// Adam with a rate of 0.01.
fn adam(weights: &mut [f32], moments: &mut [(f32, f32)], grads: &[f32], step: usize) {
    let unbiased = |beta: f32| 1.0 - beta.powi(step as i32);
    for ((weight, (first, second)), grad) in weights.iter_mut().zip(moments).zip(grads) {
        *first = 0.9 * *first + 0.1 * grad;
        *second = 0.99 * *second + 0.01 * grad * grad;
        *weight -= 0.01 * (*first / unbiased(0.9)) / ((*second / unbiased(0.99)).sqrt() + 1e-8);
    }
}
