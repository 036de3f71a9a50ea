gdn2::delta_rule! {
    pub mod gdn2_rule { decay: channel; erase: channel; write: channel; key_dim: 64; value_dim: 64; dtype: bf16; }
}

fn call(x: gdn2::View<'_>) -> gdn2_rule::Forward<'_> {
    gdn2_rule::Forward { q: x, k: x, v: x, b: x, w: x, initial_state: None, cu_seqlens: None, scale: None }
}

fn main() {}
