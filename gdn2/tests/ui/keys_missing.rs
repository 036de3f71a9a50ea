gdn2::delta_rule! {
    pub mod kda { decay: channel; dtype: bf16; }
}

fn main() {}
