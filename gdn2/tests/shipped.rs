//! Every shipped rule through the macro, on the virtual machine: forward, backward and decode against the definition in
//! float64. The kernels are the committed PTX where there is some, else the embedded CUDA.
#![allow(clippy::unwrap_used)]

use gdn2::{Device, Dtype, Tensor, View, bf16};

/// Tokens: more than one chunk of the longest kind.
const T: usize = 70;
/// Query and key heads, value heads.
const H: usize = 1;
const HV: usize = 2;
const K: usize = 128;
const V: usize = 128;

/// Numbers in [low, high) as bf16 has them, a different sequence for each seed.
fn draw(seed: u64, count: usize, low: f32, high: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..count).map(|_| bf16::from_f32(low + (high - low) * next()).to_f32()).collect()
}

fn unit(mut numbers: Vec<f32>) -> Vec<f32> {
    for row in numbers.chunks_exact_mut(K) {
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter_mut().for_each(|x| *x = bf16::from_f32(*x / length).to_f32());
    }
    numbers
}

/// Holds a tensor against the definition's: RMSE over RMS within the bar.
fn agree(name: &str, got: &Tensor, want: &Tensor, bar: f64) {
    assert_eq!(got.shape(), want.shape(), "{name}");
    let (got, want) = (got.to_f32(), want.to_f32());
    let sum = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| f64::from(x) * f64::from(x)).sum::<f64>();
    let error =
        sum(&mut got.iter().zip(&want).map(|(a, b)| a - b)).sqrt() / (sum(&mut want.iter().copied()).sqrt() + 1e-8);
    assert!(error < bar, "{name}: error {error}, bar {bar}");
}

/// A test of one rule: its module, then each gate's field, its gradient's field, its channels (none for a scalar gate)
/// and the range its numbers are drawn from.
macro_rules! agrees {
    ($rule:ident, $module:path, $file:literal $(, $gate:ident $grad:ident [$($channels:expr)?] $low:literal..$high:literal)*) => {
        mod $rule {
            ::gdn2::include_rule!(pub(super) $file);
        }

        #[test]
        #[allow(unused_mut, unused_variables)]
        fn $rule() {
            use $module as rule;
            let (kernels, exact) = (rule::load(&Device::vm()).unwrap(), rule::load(&"cpu:f64".parse().unwrap()).unwrap());
            let (q, k) = (unit(draw(1, T * H * K, -1.0, 1.0)), unit(draw(2, T * H * K, -1.0, 1.0)));
            let (v, state) = (draw(3, T * HV * V, -1.0, 1.0), draw(4, HV * K * V, -0.1, 0.1));
            let (d_out, d_state) = (draw(5, T * HV * V, -1.0, 1.0), draw(6, HV * K * V, -1.0, 1.0));
            $(let $gate = draw(7 + stringify!($gate).len() as u64, T * HV $(* $channels)?, $low, $high);)*
            let forward = rule::Forward {
                q: View::new(&q, [1, T, H, K]).unwrap(),
                k: View::new(&k, [1, T, H, K]).unwrap(),
                v: View::new(&v, [1, T, HV, V]).unwrap(),
                $($gate: View::new(&$gate, [1, T, HV $(, $channels)?]).unwrap(),)*
                initial_state: Some(View::new(&state, [1, HV, K, V]).unwrap()),
                cu_seqlens: None,
                scale: None,
            };
            let backward = rule::Backward {
                d_out: View::new(&d_out, [1, T, HV, V]).unwrap(),
                d_final_state: Some(View::new(&d_state, [1, HV, K, V]).unwrap()),
            };
            let (got, saved) = kernels.forward_for_backward(forward).unwrap();
            let (want, exactly) = exact.forward_for_backward(forward).unwrap();
            agree("o", &got.o, &want.o, 0.005);
            agree("final_state", &got.final_state, &want.final_state, 0.005);
            let (got, grads) = (kernels.backward(&saved, backward).unwrap(), exact.backward(&exactly, backward).unwrap());
            agree("dq", &got.dq, &grads.dq, 0.008);
            agree("dk", &got.dk, &grads.dk, 0.008);
            agree("dv", &got.dv, &grads.dv, 0.008);
            $(agree(stringify!($grad), &got.$grad, &grads.$grad, 0.02);)*
            agree("d_initial_state", got.d_initial_state.as_ref().unwrap(), &grads.d_initial_state.unwrap(), 0.008);

            let mut carried = Tensor::zeros([1, HV, K, V], Dtype::F32).unwrap();
            carried.as_mut_slice::<f32>().unwrap().copy_from_slice(&state);
            let mut o = Tensor::zeros([1, T, HV, V], Dtype::F32).unwrap();
            for (t, row) in o.as_mut_slice::<f32>().unwrap().chunks_exact_mut(HV * V).enumerate() {
                let decode = rule::Decode {
                    q: View::new(&q[t * H * K..][..H * K], [1, 1, H, K]).unwrap(),
                    k: View::new(&k[t * H * K..][..H * K], [1, 1, H, K]).unwrap(),
                    v: View::new(&v[t * HV * V..][..HV * V], [1, 1, HV, V]).unwrap(),
                    $($gate: {
                        let width = HV $(* $channels)?;
                        View::new(&$gate[t * width..][..width], [1, 1, HV $(, $channels)?]).unwrap()
                    },)*
                    slots: None,
                    scale: None,
                };
                row.copy_from_slice(&kernels.decode(&mut carried, decode).unwrap().to_f32());
            }
            agree("o, decoded", &o, &want.o, 0.005);
            agree("state, decoded", &carried, &want.final_state, 0.005);
        }
    };
}

agrees!(gdn2_rule, gdn2_rule::gdn2, "../rules/gdn2.gdn2", g dg [K] -0.3..0.0, b db [K] 0.0..1.0, w dw [V] 0.0..1.0);
agrees!(kda, kda::kda, "../rules/kda.gdn2", g dg [K] -0.3..0.0, beta dbeta [] 0.0..1.0);
agrees!(kda_safe, kda_safe::kda_safe, "../rules/kda_safe.gdn2", g dg [K] -4.0..0.0, beta dbeta [] 0.0..1.0);
agrees!(gdn, gdn::gdn, "../rules/gdn.gdn2", g dg [] -0.3..0.0, beta dbeta [] 0.0..1.0);
agrees!(deltanet, deltanet::deltanet, "../rules/deltanet.gdn2", beta dbeta [] 0.0..1.0);
agrees!(mamba2, mamba2::mamba2, "../rules/mamba2.gdn2", g dg [] -0.3..0.0, w dw [] 0.0..1.0);
agrees!(gla, gla::gla, "../rules/gla.gdn2", g dg [K] -0.3..0.0);
agrees!(linear, linear::linear, "../rules/linear.gdn2");
