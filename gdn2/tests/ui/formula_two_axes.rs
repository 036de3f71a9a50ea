gdn2::delta_rule! {
    pub mod layer {
        param bias: channel; decay: none; erase: channel = sigmoid(x + bias); write: channel = sigmoid(x + bias);
        key_dim: 64; value_dim: 64; dtype: bf16;
    }
}

fn main() {}
