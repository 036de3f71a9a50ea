//! Tokens one at a time with a carried state, equal to the chunked pass over all of them. It runs on the CPU; `vm` or
//! `cuda:0` as argument runs the generated kernels.

use gdn2::{Dtype, Tensor, View};

gdn2::delta_rule! {
    /// Kimi Delta Attention with small heads.
    pub mod kda { decay: channel; erase: scalar; write: erase; key_dim: 64; value_dim: 64; dtype: bf16; }
}

const TOKENS: usize = 48;
const HEADS: usize = 2;

/// Numbers in [low, high) that look random.
fn draw(seed: f32, count: usize, low: f32, high: f32) -> Vec<f32> {
    let number = |i: usize| low + (high - low) * (((i as f32 + seed) * 12.9898).sin() * 43758.547).fract().abs();
    (0..count).map(number).collect()
}

/// Rows of length 1, as the recurrence wants its keys.
fn unit(mut numbers: Vec<f32>) -> Vec<f32> {
    for row in numbers.chunks_exact_mut(kda::KEY_DIM) {
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter_mut().for_each(|x| *x /= length);
    }
    numbers
}

#[allow(dead_code, reason = "a test calls `stream`")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    stream(&std::env::args().nth(1).unwrap_or("cpu".to_owned()).parse()?)
}

/// Decodes a sequence and holds it against the chunked pass.
pub fn stream(device: &gdn2::Device) -> Result<(), Box<dyn std::error::Error>> {
    let kernels = kda::load(device)?;

    let wide = TOKENS * HEADS * kda::KEY_DIM;
    let (q, k) = (unit(draw(1.0, wide, -1.0, 1.0)), unit(draw(2.0, wide, -1.0, 1.0)));
    let (v, g) = (draw(3.0, wide, -1.0, 1.0), draw(4.0, wide, -0.2, 0.0));
    let beta = draw(5.0, TOKENS * HEADS, 0.0, 1.0);

    let shape = [1, TOKENS, HEADS, 64];
    let chunked = kernels.forward(kda::Forward {
        q: View::new(&q, shape)?,
        k: View::new(&k, shape)?,
        v: View::new(&v, shape)?,
        g: View::new(&g, shape)?,
        beta: View::new(&beta, [1, TOKENS, HEADS])?,
        initial_state: None,
        cu_seqlens: None,
        scale: None,
    })?;

    let mut state = Tensor::zeros([1, HEADS, 64, 64], Dtype::F32)?;
    let mut streamed = Vec::new();
    for token in 0..TOKENS {
        let row = token * HEADS * 64..(token + 1) * HEADS * 64;
        let one = [1, 1, HEADS, 64];
        let o = kernels.decode(
            &mut state,
            kda::Decode {
                q: View::new(&q[row.clone()], one)?,
                k: View::new(&k[row.clone()], one)?,
                v: View::new(&v[row.clone()], one)?,
                g: View::new(&g[row], one)?,
                beta: View::new(&beta[token * HEADS..(token + 1) * HEADS], [1, 1, HEADS])?,
                slots: None,
                scale: None,
            },
        )?;
        streamed.extend(o.to_f32());
    }

    let (o, end) = (distance(&streamed, &chunked.o.to_f32()), distance(&state.to_f32(), &chunked.final_state.to_f32()));
    println!("{TOKENS} tokens decoded one at a time: o differs by {o:.1e}, the state by {end:.1e} of its size");
    assert!(o < 0.005 && end < 0.005);
    Ok(())
}

/// RMS of the difference over the RMS of what is expected.
fn distance(got: &[f32], want: &[f32]) -> f32 {
    let square = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| x * x).sum::<f32>();
    (square(&mut got.iter().zip(want).map(|(a, b)| a - b)) / square(&mut want.iter().copied())).sqrt()
}
