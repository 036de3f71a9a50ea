gdn2::delta_rule! {
    pub mod layer {
        decay: scalar = -log(1 + exp(x)); erase: scalar = 1 / (1 + exp(-x)); write: scalar = exp(log(sigmoid(x)));
        key_dim: 64; value_dim: 64; dtype: bf16;
    }
}

fn main() {}
