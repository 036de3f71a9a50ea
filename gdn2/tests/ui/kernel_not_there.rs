gdn2::delta_rule! {
    #[kernel("mine.cu", forward)]
    pub mod one { decay: scalar; erase: none; write: none; key_dim: 32; value_dim: 32; dtype: bf16; }

    #[kernel(forward, "nowhere.cu")]
    pub mod two { decay: scalar; erase: none; write: none; key_dim: 32; value_dim: 32; dtype: bf16; }
}

fn main() {}
