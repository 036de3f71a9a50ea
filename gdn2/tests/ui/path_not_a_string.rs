gdn2::include_rule!(rules/kda.gdn2);

fn main() {}
