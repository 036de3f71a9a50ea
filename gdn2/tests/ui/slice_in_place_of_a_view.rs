gdn2::delta_rule! {
    pub mod kda { decay: channel; erase: scalar; write: erase; key_dim: 64; value_dim: 64; dtype: bf16; }
}

fn call<'a>(x: gdn2::View<'a>, q: &'a [f32]) -> kda::Forward<'a> {
    kda::Forward { q, k: x, v: x, g: x, beta: x, initial_state: None, cu_seqlens: None, scale: None }
}

fn main() {}
