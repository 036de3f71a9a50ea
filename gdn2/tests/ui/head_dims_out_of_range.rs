gdn2::delta_rule! {
    pub mod kda { decay: channel; erase: scalar; write: erase; key_dim: 100; value_dim: 1024; dtype: bf16; }
}

fn main() {}
