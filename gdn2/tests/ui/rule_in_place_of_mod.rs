gdn2::delta_rule! {
    rule kda { decay: channel; erase: scalar; write: erase; key_dim: 64; value_dim: 64; dtype: bf16; }
}

fn main() {}
