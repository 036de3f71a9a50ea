gdn2::delta_rule! {
    /// Two mistakes; the module's types exist all the same, so its use below is not an error.
    pub mod kda { decay: channel; erase: scalar; write: erase; key_dim: 60; value_dim: 64; dtype: bf61; }
}

fn call(x: gdn2::View<'_>) -> kda::Forward<'_> {
    kda::Forward { q: x, k: x, v: x, g: x, beta: x, initial_state: None, cu_seqlens: None, scale: None }
}

fn main() {
    let _ = kda::load(&gdn2::Device::cpu()).map(|kernels| kernels.clone().device().arch());
}
