gdn2::delta_rule! {
    pub mod layer {
        decay: scalar = -2 softplus(x); erase: scalar = relu(x); write: scalar = x ^ 2;
        key_dim: 64; value_dim: 64; dtype: bf16;
    }
}

fn main() {}
