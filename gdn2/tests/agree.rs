//! The generated functions against the definition in float64, and decoding against the chunked pass.
#![allow(clippy::unwrap_used)]

use gdn2::{Device, Dtype, Tensor, View, bf16};

mod rules {
    ::gdn2::include_rule!("../rules/kda.gdn2");
    ::gdn2::include_rule!("../rules/gdn2.gdn2");
}

use rules::kda;

gdn2::delta_rule! {
    /// Nobody's rule: a decay per head, an erase gate per channel, states kept with K contiguous.
    pub mod odd { decay: scalar; erase: channel; write: none; key_dim: 32; value_dim: 48; dtype: f16; state: vk; }
}

/// Numbers in [low, high), a different sequence for each seed.
fn draw(seed: u64, elements: usize, low: f32, high: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..elements).map(|_| low + (high - low) * next()).collect()
}

/// Rows of length 1.
fn unit(mut numbers: Vec<f32>, width: usize) -> Vec<f32> {
    for row in numbers.chunks_exact_mut(width) {
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter_mut().for_each(|x| *x /= length);
    }
    numbers
}

/// RMSE over the reference's RMS.
fn error(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |x: f64| x * x;
    let rmse: f64 = got.iter().zip(want).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let size: f64 = want.iter().map(|b| square(f64::from(*b))).sum();
    (rmse / want.len() as f64).sqrt() / ((size / want.len() as f64).sqrt() + 1e-8)
}

/// The error bar of `o` and the states, as for all kernels with bf16 or f16 operands.
const BAR: f64 = 0.005;

#[test]
fn the_cpu_agrees_with_the_definition() {
    forward_agrees_with_the_definition_and_decode_with_forward(&Device::cpu());
}

#[test]
fn the_kernels_agree_with_the_definition() {
    forward_agrees_with_the_definition_and_decode_with_forward(&Device::vm());
}

fn forward_agrees_with_the_definition_and_decode_with_forward(device: &Device) {
    let (b, t, h, hv) = (2, 37, 1, 2);
    let q = unit(draw(1, b * t * h * 128, -1.0, 1.0), 128);
    let k = unit(draw(2, b * t * h * 128, -1.0, 1.0), 128);
    let v = draw(3, b * t * hv * 128, -1.0, 1.0);
    let g = draw(4, b * t * hv * 128, -0.2, 0.0);
    let beta = draw(5, b * t * hv, 0.0, 1.0);
    let state = draw(6, b * hv * 128 * 128, -0.1, 0.1);
    let forward = kda::Forward {
        q: View::new(&q, [b, t, h, 128]).unwrap(),
        k: View::new(&k, [b, t, h, 128]).unwrap(),
        v: View::new(&v, [b, t, hv, 128]).unwrap(),
        g: View::new(&g, [b, t, hv, 128]).unwrap(),
        beta: View::new(&beta, [b, t, hv]).unwrap(),
        initial_state: Some(View::new(&state, [b, hv, 128, 128]).unwrap()),
        cu_seqlens: None,
        scale: None,
    };
    let exact = kda::load(&"cpu:f64".parse().unwrap()).unwrap().forward(forward).unwrap();
    let kernels = kda::load(device).unwrap();
    let out = kernels.forward(forward).unwrap();
    assert_eq!((out.o.shape(), out.o.dtype()), ([b, t, hv, 128].as_slice(), Dtype::Bf16));
    assert!(error(&out.o.to_f32(), &exact.o.to_f32()) < BAR);
    assert!(error(&out.final_state.to_f32(), &exact.final_state.to_f32()) < BAR);

    let mut carried = Tensor::zeros([b, hv, 128, 128], Dtype::F32).unwrap();
    carried.as_mut_slice::<f32>().unwrap().copy_from_slice(&state);
    let mut o = vec![0.0; b * t * hv * 128];
    for token in 0..t {
        let view = |numbers, heads, width| tokens(numbers, t, token, [b, 1, heads, width]);
        let decode = kda::Decode {
            q: view(&q, h, 128),
            k: view(&k, h, 128),
            v: view(&v, hv, 128),
            g: view(&g, hv, 128),
            beta: View::strided(&beta[token * hv..], [b, 1, hv], [t * hv, hv, 1]).unwrap(),
            slots: None,
            scale: None,
        };
        let row = kernels.decode(&mut carried, decode).unwrap().to_f32();
        for (batch, row) in row.chunks_exact(hv * 128).enumerate() {
            o[(batch * t + token) * hv * 128..][..hv * 128].copy_from_slice(row);
        }
    }
    assert!(error(&o, &exact.o.to_f32()) < BAR);
    assert!(error(&carried.to_f32(), &exact.final_state.to_f32()) < BAR);
}

/// Tokens from `first` on, of every batch row of a `[B, T, heads, width]` tensor.
fn tokens(numbers: &[f32], t: usize, first: usize, shape: [usize; 4]) -> View<'_> {
    let [_, _, heads, width] = shape;
    View::strided(&numbers[first * heads * width..], shape, [t * heads * width, heads * width, width, 1]).unwrap()
}

#[test]
fn a_state_of_the_pool_is_updated_in_the_rules_layout() {
    let kernels = odd::load(&Device::cpu()).unwrap();
    let (q, k) = (unit(draw(1, 32, -1.0, 1.0), 32), unit(draw(2, 32, -1.0, 1.0), 32));
    let (v, g, b) = (draw(3, 48, -1.0, 1.0), [-0.5f32], [0.0f32; 32]);
    let mut pool = Tensor::zeros([3, 1, 48, 32], Dtype::F32).unwrap();
    let decode = odd::Decode {
        q: View::new(&q, [1, 1, 1, 32]).unwrap(),
        k: View::new(&k, [1, 1, 1, 32]).unwrap(),
        v: View::new(&v, [1, 1, 1, 48]).unwrap(),
        g: View::new(&g, [1, 1, 1]).unwrap(),
        b: View::new(&b, [1, 1, 1, 32]).unwrap(),
        slots: Some((&[1]).into()),
        scale: Some(1.0),
    };
    kernels.decode(&mut pool, decode).unwrap();
    // From an empty state, S = k vᵀ, and the layout is [V, K].
    let written = &pool.as_slice::<f32>().unwrap()[48 * 32..2 * 48 * 32];
    let want: Vec<f32> = v.iter().flat_map(|v| k.iter().map(move |k| k * v)).collect();
    assert!(error(written, &want) < 0.002, "f16 inputs");
    assert!(pool.as_slice::<f32>().unwrap()[..48 * 32].iter().all(|x| *x == 0.0));
}

#[test]
fn bf16_and_f32_inputs_of_the_same_numbers_give_the_same_bits() {
    let kernels = rules::gdn2::load(&Device::cpu()).unwrap();
    let numbers = draw(1, 5 * 128, 0.0, 0.5);
    let (narrow, decay): (Vec<bf16>, Vec<f32>) =
        (numbers.iter().map(|x| bf16::from_f32(*x)).collect(), draw(2, 5 * 128, -1.0, 0.0));
    let forward = |x, g| rules::gdn2::Forward {
        q: x,
        k: x,
        v: x,
        g,
        b: x,
        w: x,
        initial_state: None,
        cu_seqlens: None,
        scale: None,
    };
    let g = View::new(&decay, [1, 5, 1, 128]).unwrap();
    let wide = kernels.forward(forward(View::new(&numbers, [1, 5, 1, 128]).unwrap(), g)).unwrap();
    let narrow = kernels.forward(forward(View::new(&narrow, [1, 5, 1, 128]).unwrap(), g)).unwrap();
    assert_eq!(wide, narrow);
}

#[test]
fn handles_are_shared_between_threads() {
    fn shared<T: Send + Sync + Clone + 'static>(_: &T) {}
    shared(&kda::load(&Device::cpu()).unwrap());
}

#[test]
fn the_virtual_machine_gives_the_bits_of_the_command() {
    use gdn2::Pass;
    use gdn2_codegen::abi::Tensor as Name;
    use gdn2_runtime::artifact::Compiler;
    use gdn2_runtime::engine::{Engine, Run};
    use gdn2_runtime::tensors::{Array, Case};
    use gdn2_runtime::toolchain::Search;

    // What `gdn2 run --device vm` does with a file of these tensors, for a rule with embedded PTX.
    let (t, rule) = (70, rules::gdn2::rule());
    let wide = |seed, low, high| draw(seed, t * 128, low, high);
    let (q, k, v) = (unit(wide(1, -1.0, 1.0), 128), unit(wide(2, -1.0, 1.0), 128), wide(3, -1.0, 1.0));
    let (g, b, w) = (wide(4, -0.2, 0.0), wide(5, 0.0, 1.0), wide(6, 0.0, 1.0));
    let named = [(Name::Q, &q), (Name::K, &k), (Name::V, &v), (Name::G, &g), (Name::B, &b), (Name::W, &w)];
    let array = |data: &Vec<f32>| Array::new(&[1, t, 1, 128], data.clone()).unwrap();
    let case = Case { tensors: named.map(|(name, data)| (name, array(data))).into(), ..Case::default() };
    let device = Device::vm();
    let engine = Engine::new(Compiler::new(Search::from_environment(None, None)));
    let want = engine.run(&Run::new(&rule, Pass::Forward, &device), &case).unwrap();

    let view = |data| View::new(data, [1, t, 1, 128]).unwrap();
    let kernels = rules::gdn2::load(&device).unwrap();
    let got = kernels.forward(rules::gdn2::Forward {
        q: view(&q),
        k: view(&k),
        v: view(&v),
        g: view(&g),
        b: view(&b),
        w: view(&w),
        initial_state: None,
        cu_seqlens: None,
        scale: None,
    });
    let got = got.unwrap();
    assert_eq!(got.o.to_f32(), want.tensors[&Name::O].data);
    assert_eq!(got.final_state.to_f32(), want.tensors[&Name::FinalState].data);
    assert!(
        kernels
            .explain(gdn2::Shape::dense(1, t, 1, 1))
            .iter()
            .take(2)
            .all(|kernel| kernel.origin == Some(gdn2::Origin::EmbeddedPtx))
    );
}
