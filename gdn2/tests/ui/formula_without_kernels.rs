gdn2::delta_rule! {
    pub mod layer {
        q: l2norm; k: l2norm;
        param a_log: head;
        param dt_bias: head;
        decay: scalar = -exp(a_log) * softplus(x + dt_bias);
        erase: scalar = sigmoid(x);
        write: erase;
        key_dim: 64; value_dim: 64; dtype: bf16;
    }
}

fn main() {}
