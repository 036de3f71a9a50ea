gdn2::delta_rule! {
    pub mod layer {
        param dt_bias: channel; decay: scalar = -softplus(x + dt_bias); erase: none; write: none;
        key_dim: 64; value_dim: 64; dtype: bf16;
    }
}

fn main() {}
