gdn2::delta_rule! {}

fn main() {}
