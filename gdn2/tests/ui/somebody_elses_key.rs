gdn2::delta_rule! {
    pub mod kda { alpha: channel; beta: scalar; write: erase; head_dim: 64; value_dim: 64; dtype: bf16; }
}

fn main() {}
