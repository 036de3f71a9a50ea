gdn2::delta_rule! {
    pub mod kda { decay: channel; erase: scalar; write: erase; key_dim: 64; value_dim: 64; dtype: bf16; }
}

fn call(x: gdn2::View<'_>) -> kda::Forward<'_> {
    kda::Forward { q: x, k: x, v: x, g: x, beta: x, w: x, initial_state: None, cu_seqlens: None, scale: None }
}

fn main() {}
