//! Layers that compute their gates, through the macro, on the virtual machine: forward, backward and decode against the
//! definition in float64, parameters and logits as typed fields.
#![allow(clippy::unwrap_used)]

use std::hash::{BuildHasher, RandomState};

use gdn2::{Device, Dtype, Tensor, View, bf16};

/// Tokens: more than one chunk of the longest kind.
const T: usize = 70;
const H: usize = 1;
const HV: usize = 2;
const K: usize = 32;
const V: usize = 48;

gdn2::delta_rule! {
    mod gdn2_small {
        q: l2norm; k: l2norm;
        param a_log: head; param dt_bias: channel;
        decay: channel = -exp(a_log) * softplus(x + dt_bias);
        erase: channel = sigmoid(x); write: channel = sigmoid(x);
        key_dim: 32; value_dim: 48; dtype: bf16;
    }
    mod mamba2_small {
        param a_log: head; param dt_bias: head;
        let dt: scalar = softplus(x + dt_bias);
        decay: scalar = -exp(a_log) * dt; erase: none; write: scalar = dt;
        key_dim: 32; value_dim: 48; dtype: bf16;
    }
    mod retnet_small {
        param a_log: head;
        decay: scalar = -exp(a_log); erase: none; write: none;
        key_dim: 32; value_dim: 48; dtype: bf16;
    }
}

/// Numbers in [low, high) as bf16 has them, others in every run.
struct Numbers(u64);

impl Numbers {
    fn fresh() -> Numbers {
        let seed = RandomState::new().hash_one(0) | 1;
        println!("seed {seed}");
        Numbers(seed)
    }

    fn draw(&mut self, count: usize, low: f32, high: f32) -> Vec<f32> {
        let next = |state: &mut u64| {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            (*state >> 40) as f32 / (1u64 << 24) as f32
        };
        (0..count).map(|_| bf16::from_f32(low + (high - low) * next(&mut self.0)).to_f32()).collect()
    }
}

/// Holds a tensor against the definition's: RMSE over RMS within the bar.
fn agree(name: &str, got: &Tensor, want: &Tensor, bar: f64) {
    assert_eq!((got.shape(), got.dtype()), (want.shape(), want.dtype()), "{name}");
    let (got, want) = (got.to_f32(), want.to_f32());
    let sum = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| f64::from(x) * f64::from(x)).sum::<f64>();
    let size = sum(&mut want.iter().copied()).sqrt();
    let error = sum(&mut got.iter().zip(&want).map(|(a, b)| a - b)).sqrt() / (size + 1e-8);
    assert!(size > 0.0 && error < bar, "{name}: error {error}, bar {bar}");
}

macro_rules! agrees {
    ($test:ident, $rule:ident, rows $low:literal..$high:literal; $($name:ident $grad:ident [$($shape:expr),*] $from:literal..$to:literal);* $(;)?) => {
        #[test]
        fn $test() {
            use $rule as rule;
            let (kernels, exact) = (rule::load(&Device::vm()).unwrap(), rule::load(&"cpu:f64".parse().unwrap()).unwrap());
            let mut numbers = Numbers::fresh();
            let (q, k) = (numbers.draw(T * H * K, $low, $high), numbers.draw(T * H * K, $low, $high));
            let (v, state) = (numbers.draw(T * HV * V, -1.0, 1.0), numbers.draw(HV * K * V, -0.1, 0.1));
            let (d_out, d_state) = (numbers.draw(T * HV * V, -1.0, 1.0), numbers.draw(HV * K * V, -1.0, 1.0));
            $(let $name = numbers.draw([$($shape),*].into_iter().product::<usize>(), $from, $to);)*
            let inputs = rule::Forward {
                q: View::new(&q, [1, T, H, K]).unwrap(),
                k: View::new(&k, [1, T, H, K]).unwrap(),
                v: View::new(&v, [1, T, HV, V]).unwrap(),
                $($name: View::new(&$name, [$($shape),*]).unwrap(),)*
                initial_state: Some(View::new(&state, [1, HV, K, V]).unwrap()),
                cu_seqlens: None,
                scale: None,
            };
            let (got, want) = (kernels.forward(inputs).unwrap(), exact.forward(inputs).unwrap());
            agree("o", &got.o, &want.o, 0.0075);
            agree("final_state", &got.final_state, &want.final_state, 0.0075);

            let upstream = rule::Backward {
                d_out: View::new(&d_out, [1, T, HV, V]).unwrap(),
                d_final_state: Some(View::new(&d_state, [1, HV, K, V]).unwrap()),
            };
            let (_, saved) = kernels.forward_for_backward(inputs).unwrap();
            let got = kernels.backward(&saved, upstream).unwrap();
            let (_, saved) = exact.forward_for_backward(inputs).unwrap();
            let want = exact.backward(&saved, upstream).unwrap();
            agree("dq", &got.dq, &want.dq, 0.012);
            agree("dk", &got.dk, &want.dk, 0.012);
            agree("dv", &got.dv, &want.dv, 0.012);
            $(agree(stringify!($grad), &got.$grad, &want.$grad, 0.04);)*

            // A token through decode is a prefill of one.
            let mut pools = [0; 2].map(|_| Tensor::zeros([1, HV, K, V], Dtype::F32).unwrap());
            for pool in &mut pools {
                pool.as_mut_slice::<f32>().unwrap().copy_from_slice(&state);
            }
            let token = rule::Decode {
                q: View::new(&q[..H * K], [1, 1, H, K]).unwrap(),
                k: View::new(&k[..H * K], [1, 1, H, K]).unwrap(),
                v: View::new(&v[..HV * V], [1, 1, HV, V]).unwrap(),
                $($name: first_token(&$name, &[$($shape),*]),)*
                slots: None,
                scale: None,
            };
            let got = kernels.decode(&mut pools[0], token).unwrap();
            let want = exact.decode(&mut pools[1], token).unwrap();
            agree("o of decode", &got, &want, 0.0075);
            agree("state of decode", &pools[0], &pools[1], 0.0075);
        }
    };
}

/// Of a tensor with a row per token the first, of a parameter all of it.
fn first_token<'a>(numbers: &'a [f32], shape: &[usize]) -> View<'a> {
    let mut shape = shape.to_vec();
    if shape.len() > 2 {
        shape[1] = 1;
    }
    View::new(&numbers[..shape.iter().product()], shape.as_slice()).unwrap()
}

agrees! {
    gdn2_layer, gdn2_small, rows -1.0..1.0;
    g dg [1, T, HV, K] -3.0..1.0;
    b db [1, T, HV, K] -2.0..2.0;
    w dw [1, T, HV, V] -2.0..2.0;
    a_log da_log [HV] -1.0..1.0;
    dt_bias ddt_bias [HV, K] -2.0..0.0;
}
agrees! {
    mamba2_layer, mamba2_small, rows -0.2..0.2;
    a_log da_log [HV] -1.0..0.0;
    dt_bias ddt_bias [HV] -2.0..0.0;
    dt ddt [1, T, HV] -2.0..1.0;
}
agrees! {
    retnet_layer, retnet_small, rows -0.2..0.2;
    a_log da_log [HV] -3.0..0.0;
}

#[test]
fn a_parameter_of_another_shape_is_refused_by_name() {
    let kernels = retnet_small::load(&Device::cpu()).unwrap();
    let (q, v, a_log) = ([0.1f32; K], [0.1f32; HV * V], [0.0f32; 3]);
    let q = View::new(&q, [1, 1, 1, K]).unwrap();
    let inputs = retnet_small::Forward {
        q,
        k: q,
        v: View::new(&v, [1, 1, HV, V]).unwrap(),
        a_log: View::new(&a_log, [3]).unwrap(),
        initial_state: None,
        cu_seqlens: None,
        scale: None,
    };
    let error = kernels.forward(inputs).unwrap_err().to_string();
    assert!(error.contains("a_log") && error.contains("[HV] = [2]"), "{error}");
}
