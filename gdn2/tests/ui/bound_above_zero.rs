gdn2::delta_rule! {
    pub mod kda { decay: channel in [-5, 1]; erase: scalar in [0, 1]; write: erase; key_dim: 64; value_dim: 64; dtype: bf16; }
}

fn main() {}
