//! Candle's tensors through the generated functions: inference, and gradients through candle's autograd.
#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device as Cpu, Tensor, Var};
use gdn2::{Device, View};

gdn2::delta_rule! {
    /// Every gate there is.
    pub mod rule { decay: channel; erase: channel; write: channel; key_dim: 32; value_dim: 16; dtype: bf16; }
}

const B: usize = 2;
const T: usize = 20;
const H: usize = 1;
const HV: usize = 2;
const K: usize = 32;
const V: usize = 16;

/// Numbers in [low, high) as bf16 has them.
fn draw(seed: u64, shape: &[usize], low: f32, high: f32) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    let count = shape.iter().product();
    let numbers: Vec<f32> = (0..count).map(|_| gdn2::bf16::from_f32(low + (high - low) * next()).to_f32()).collect();
    Tensor::from_vec(numbers, shape, &Cpu::Cpu).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1().unwrap()
}

fn inputs() -> [Tensor; 7] {
    [
        draw(1, &[B, T, H, K], -0.2, 0.2),
        draw(2, &[B, T, H, K], -0.2, 0.2),
        draw(3, &[B, T, HV, V], -1.0, 1.0),
        draw(4, &[B, T, HV, K], -0.3, 0.0),
        draw(5, &[B, T, HV, K], 0.0, 1.0),
        draw(6, &[B, T, HV, V], 0.0, 1.0),
        draw(7, &[B, HV, K, V], -0.1, 0.1),
    ]
}

fn forward([q, k, v, g, b, w, state]: [&Tensor; 7]) -> rule::CandleForward<'_> {
    rule::CandleForward { q, k, v, g, b, w, initial_state: Some(state), cu_seqlens: None, scale: None }
}

#[test]
fn gradients_through_candle_are_those_of_the_generated_backward() {
    for device in [Device::cpu(), Device::vm()] {
        let kernels = rule::load(&device).unwrap();
        let plain = inputs();
        let vars: Vec<Var> = plain.iter().map(|tensor| Var::from_tensor(tensor).unwrap()).collect();
        let tensors: [&Tensor; 7] = std::array::from_fn(|index| vars[index].as_tensor());
        let out = kernels.forward_candle(forward(tensors)).unwrap();
        assert_eq!(out.packed_bytes, 4 * plain.iter().map(Tensor::elem_count).sum::<usize>());
        let (d_out, d_state) = (draw(8, &[B, T, HV, V], -1.0, 1.0), draw(9, &[B, HV, K, V], -1.0, 1.0));
        let loss = (&out.o * &d_out).unwrap().sum_all().unwrap();
        let loss = (loss + (&out.final_state * &d_state).unwrap().sum_all().unwrap()).unwrap();
        let grads = loss.backward().unwrap();

        let held: Vec<Vec<f32>> = plain.iter().map(numbers).collect();
        let view = |index: usize| View::new(&held[index], plain[index].dims()).unwrap();
        let given = rule::Forward {
            q: view(0),
            k: view(1),
            v: view(2),
            g: view(3),
            b: view(4),
            w: view(5),
            initial_state: Some(view(6)),
            cu_seqlens: None,
            scale: None,
        };
        let (want, saved) = kernels.forward_for_backward(given).unwrap();
        assert_eq!(numbers(&out.o), want.o.to_f32());
        assert_eq!(numbers(&out.final_state), want.final_state.to_f32());
        let (d_out, d_state) = (numbers(&d_out), numbers(&d_state));
        let backward = rule::Backward {
            d_out: View::new(&d_out, [B, T, HV, V]).unwrap(),
            d_final_state: Some(View::new(&d_state, [B, HV, K, V]).unwrap()),
        };
        let want = kernels.backward(&saved, backward).unwrap();
        let wanted =
            [want.dq, want.dk, want.dv, want.dg, want.db, want.dw, want.d_initial_state.unwrap()].map(|x| x.to_f32());
        for (index, (var, want)) in vars.iter().zip(wanted).enumerate() {
            assert_eq!(numbers(grads.get(var).unwrap()), want, "input {index}");
        }
    }
}

#[test]
fn inference_packs_nothing_and_decoding_goes_on_from_it() {
    let kernels = rule::load(&Device::cpu()).unwrap();
    let plain = inputs();
    let narrow = plain.clone().map(|tensor| tensor.to_dtype(DType::BF16).unwrap());
    let narrow = [0, 1, 2, 3, 4, 5, 6].map(|index| if index == 6 { &plain[6] } else { &narrow[index] });
    let all = kernels.forward_candle(forward(narrow)).unwrap();
    assert_eq!((all.packed_bytes, all.o.dtype(), all.o.dims()), (0, DType::BF16, [B, T, HV, V].as_slice()));

    let head = narrow.map(|tensor| tensor.clone()).map(|tensor| match tensor.dims().get(1) {
        Some(&T) => tensor.narrow(1, 0, T - 1).unwrap(),
        _ => tensor,
    });
    let head = kernels.forward_candle(forward(std::array::from_fn(|index| &head[index]))).unwrap();
    let last: [Tensor; 6] = std::array::from_fn(|index| narrow[index].narrow(1, T - 1, 1).unwrap());
    let [q, k, v, g, b, w] = &last;
    let (o, state) =
        kernels.decode_candle(&head.final_state, rule::CandleDecode { q, k, v, g, b, w, scale: None }).unwrap();
    let close = |a: &Tensor, b: &Tensor| numbers(a).iter().zip(numbers(b)).all(|(a, b)| (a - b).abs() < 0.01);
    assert!(close(&o, &all.o.narrow(1, T - 1, 1).unwrap()) && close(&state, &all.final_state));
}

#[test]
fn what_does_not_fit_is_told_by_candles_error() {
    let kernels = rule::load(&Device::cpu()).unwrap();
    let plain = inputs();
    let mut tensors: [&Tensor; 7] = std::array::from_fn(|index| &plain[index]);
    tensors[1] = &plain[2];
    let said = kernels.forward_candle(forward(tensors)).unwrap_err().to_string();
    assert!(said.contains("k: shape [2, 20, 2, 16], must be [B,T,H,K] = [2, 20, 1, 32]"), "{said}");
}
