//! Dev: emit RULEFILE ARCH SCHEDULE
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let text = std::fs::read_to_string(&args[1]).unwrap_or(args[1].clone());
    let rules = gdn2_dsl::parse_file(&text).unwrap();
    let rule = &rules[0];
    let arch: gdn2_codegen::arch::Arch = args[2].parse().unwrap();
    let pass = gdn2_codegen::kernel::Pass::Forward;
    let schedule = gdn2_codegen::schedule::Schedule::from_overrides(rule, pass, arch, &args[3]).unwrap();
    match gdn2_codegen::bind(rule, pass, schedule, arch) {
        Err(e) => { eprintln!("{schedule}: {e}"); std::process::exit(1); }
        Ok(kernel) => { eprintln!("{schedule} {} bytes", kernel.launches[0].shared_bytes); println!("{}", gdn2_codegen::render(&kernel).text); }
    }
}
