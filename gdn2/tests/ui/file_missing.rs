gdn2::include_rule!("rules/nowhere.gdn2");

fn main() {}
