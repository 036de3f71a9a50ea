gdn2::delta_rule! {
    pub mod layer {
        decay: none; erase: scalar = sigmoid(x); write: erase = sigmoid(x);
        key_dim: 64; value_dim: 64; dtype: bf16;
    }
}

fn main() {}
