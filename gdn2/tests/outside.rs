//! A crate of its own that depends on `gdn2`: it builds with one dependency line, and it is rebuilt when a rule file, a
//! committed kernel or a tuning record changes.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use gdn2_codegen::arch::Arch;
use gdn2_codegen::committed::Committed;
use gdn2_codegen::kernel::Pass;
use gdn2_codegen::record::Records;
use gdn2_runtime::artifact::Compiler;
use gdn2_runtime::toolchain::Search;

const MAIN: &str = r#"
gdn2::include_rule!("rules/mine.gdn2");

fn main() {
    let kernels = mine::load(&gdn2::Device::vm()).unwrap();
    println!("{} {}", mine::KEY_DIM, kernels.explain(gdn2::Shape::dense(1, 64, 1, 1)).first().map_or(String::new(), |kernel| kernel.to_string()));
}
"#;

const RULE: &str = "rule mine { decay: scalar; erase: none; write: none; key_dim: 32; value_dim: 32; dtype: bf16; }\n";

/// Runs cargo on the crate, in the target folder and the profile of this test so that dependencies are shared.
fn cargo(folder: &Path, arguments: &[&str]) -> String {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .args(["--quiet", "--offline"])
        .args(if cfg!(debug_assertions) { &[][..] } else { &["--release"][..] })
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", target.parent().unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Builds and runs the crate.
fn run(folder: &Path) -> String {
    cargo(folder, &["run"])
}

/// Whether the crate had to be built again.
fn rebuilt(folder: &Path) -> bool {
    let messages = cargo(folder, &["build", "--message-format=json"]);
    let own = messages.lines().find(|line| line.contains("compiler-artifact") && line.contains(r#""name":"outside""#));
    own.unwrap().contains(r#""fresh":false"#)
}

#[test]
fn a_crate_with_one_dependency_follows_its_rule_files_and_kernels() {
    let folder = tempfile::tempdir().unwrap();
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let manifest = fs::read_to_string(workspace.join("Cargo.toml")).unwrap();
    let profiles = manifest.find("[profile.").map_or("", |at| &manifest[at..]);
    let dependency = format!("gdn2 = {{ path = {:?} }}", workspace.join("gdn2"));
    fs::write(
        folder.path().join("Cargo.toml"),
        format!(
            "[package]\nname = \"outside\"\nedition = \"2024\"\n[dependencies]\n{dependency}\n[workspace]\n{profiles}"
        ),
    )
    .unwrap();
    fs::copy(workspace.join("Cargo.lock"), folder.path().join("Cargo.lock")).unwrap();
    for name in ["src", "rules", "kernels", "tuning"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    fs::write(folder.path().join("src/main.rs"), MAIN).unwrap();
    let rule = folder.path().join("rules/mine.gdn2");
    fs::write(&rule, RULE).unwrap();
    let records = folder.path().join("tuning/h200.json");
    fs::write(&records, "[\n]\n").unwrap();
    assert!(run(folder.path()).starts_with("32 forward on sm_80"));

    // What `gdn2 prepare` would commit for the rule as it will be, found when the changed rule rebuilds the crate.
    let text = RULE.replace("32", "48");
    let compiler = Compiler::new(Search::from_environment(None, None));
    let committed = Committed::new(&gdn2_dsl::parse_file(&text).unwrap()[0], Pass::Forward, Arch::Sm80).unwrap();
    let artifact = compiler.compile(committed.kernel.clone()).unwrap();
    let kernel = folder.path().join("kernels").join(format!("{}.ptx", committed.stem));
    fs::write(&kernel, committed.ptx_file(&artifact.ptx, "13.0")).unwrap();
    fs::write(&rule, text).unwrap();
    let printed = run(folder.path());
    assert!(printed.starts_with("48 forward on sm_80") && printed.contains("embedded PTX"), "{printed}");

    // A kernel that no longer belongs to what is generated is left alone.
    fs::write(&kernel, committed.ptx_file(&artifact.ptx, "13.0") + "// changed by hand\n").unwrap();
    let printed = run(folder.path());
    assert!(printed.contains("embedded CUDA"), "{printed}");

    assert!(!rebuilt(folder.path()), "nothing has changed");
    fs::write(&records, Records::default().to_text().unwrap() + "\n").unwrap();
    assert!(rebuilt(folder.path()), "a record may have");
    assert!(!rebuilt(folder.path()));
}
