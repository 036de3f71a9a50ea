gdn2::delta_rule! {
    pub mod kda { decay: channel; erase: scalar; write: erase; key_dim: 64; value_dim: 64; dtype: bf16; }
}

fn call(x: gdn2::View<'_>) -> kda::Decode<'_> {
    kda::Decode { q: x, k: x, v: x, g: x, beta: x, initial_state: Some(x), slots: None, scale: None }
}

fn main() {}
