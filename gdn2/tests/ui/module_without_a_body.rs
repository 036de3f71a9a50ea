gdn2::delta_rule! {
    pub mod kda;
}

fn main() {}
