gdn2::delta_rule! {
    pub mod kda { decay: channel; erase: none; write: erase; key_dim: 64; value_dim: 64; dtype: bf16; }
}

fn main() {}
