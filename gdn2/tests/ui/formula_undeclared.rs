gdn2::delta_rule! {
    pub mod layer {
        param a_log: head; decay: scalar = -exp(a_log) * softplus(x + A_log); erase: none; write: none;
        key_dim: 64; value_dim: 64; dtype: bf16;
    }
}

fn main() {}
