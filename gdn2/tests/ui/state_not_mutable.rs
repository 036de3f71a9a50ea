gdn2::delta_rule! {
    pub mod kda { decay: channel; erase: scalar; write: erase; key_dim: 64; value_dim: 64; dtype: bf16; }
}

fn step(kernels: &kda::Kernels, state: &gdn2::Tensor, x: gdn2::View<'_>) {
    let _ = kernels.decode(state, kda::Decode { q: x, k: x, v: x, g: x, beta: x, slots: None, scale: None });
}

fn main() {}
