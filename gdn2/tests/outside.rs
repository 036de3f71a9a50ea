//! A crate of its own that depends on `gdn2`: it builds with one dependency line, and it is rebuilt when a rule file, a
//! committed kernel or a tuning record changes.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use gdn2_codegen::arch::Arch;
use gdn2_codegen::committed::{Committed, tuned_stem};
use gdn2_codegen::kernel::{CudaSource, Pass};
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
fn attempt(folder: &Path, arguments: &[&str]) -> Output {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    Command::new(env!("CARGO"))
        .args(arguments)
        .args(["--quiet", "--offline"])
        .args(if cfg!(debug_assertions) { &[][..] } else { &["--release"][..] })
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", target.parent().unwrap())
        .output()
        .unwrap()
}

fn cargo(folder: &Path, arguments: &[&str]) -> String {
    let output = attempt(folder, arguments);
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

/// A crate with one dependency, as a user would begin it. Tests share a target folder, where each needs a name of its own.
fn outside(folder: &Path, name: &str, main: &str) {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let manifest = fs::read_to_string(workspace.join("Cargo.toml")).unwrap();
    let profiles = manifest.find("[profile.").map_or("", |at| &manifest[at..]);
    let dependency = format!("gdn2 = {{ path = {:?} }}", workspace.join("gdn2"));
    fs::write(
        folder.join("Cargo.toml"),
        format!(
            "[package]\nname = {name:?}\nedition = \"2024\"\n[dependencies]\n{dependency}\n[workspace]\n{profiles}"
        ),
    )
    .unwrap();
    fs::copy(workspace.join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    for name in ["src", "rules", "kernels", "tuning", "edited"] {
        fs::create_dir(folder.join(name)).unwrap();
    }
    fs::write(folder.join("src/main.rs"), main).unwrap();
    fs::write(folder.join("rules/mine.gdn2"), RULE).unwrap();
}

#[test]
fn a_crate_with_one_dependency_follows_its_rule_files_and_kernels() {
    let folder = tempfile::tempdir().unwrap();
    outside(folder.path(), "outside", MAIN);
    let rule = folder.path().join("rules/mine.gdn2");
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
    assert!(printed.contains("generated and compiled here"), "{printed}");

    assert!(!rebuilt(folder.path()), "nothing has changed");
    fs::write(&records, Records::default().to_text().unwrap() + "\n").unwrap();
    assert!(rebuilt(folder.path()), "a record may have");
    assert!(!rebuilt(folder.path()));
}

/// What the program with an edited kernel prints: how it was chosen, and an output.
const WITH_EDITED: &str = r#"
gdn2::include_rule!(#[kernel(forward, "edited/mine.cu", from = "HASH")] "rules/mine.gdn2");

fn main() {
    let kernels = mine::load(&gdn2::Device::vm()).unwrap();
    let (x, g) = ([0.5f32; 32], [-0.1f32]);
    let x = gdn2::View::new(&x, [1, 1, 1, 32]).unwrap();
    let g = gdn2::View::new(&g, [1, 1, 1]).unwrap();
    let inputs =
        mine::Forward { q: x, k: x, v: x, g, initial_state: None, cu_seqlens: None, scale: Some(1.0) };
    let out = kernels.forward(inputs).unwrap();
    println!("{}", out.o.to_f32()[0]);
    kernels.explain(gdn2::Shape::dense(1, 1, 1, 1)).iter().for_each(|kernel| println!("{kernel}"));
}
"#;

/// A kernel that was edited by hand comes back into a program: one that has fallen behind does not build, and what does
/// runs in the place of the generated one, as `explain` says.
#[test]
fn a_hand_edited_kernel_runs_in_the_place_of_the_generated_one() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let generated = Committed::new(&gdn2_dsl::parse_file(RULE).unwrap()[0], Pass::Forward, Arch::Sm80).unwrap();
    let hash = &generated.source.hash[..16];
    // Outputs twice as large, so that the edit shows.
    let (ours, mine) = ("store_outputs(out, scale", "store_outputs(out, 2.0f * scale");
    assert!(generated.source.text.contains(ours));
    let text = generated.source.text.replace(ours, mine);
    outside(folder, "edited", &WITH_EDITED.replace("HASH", "0123456789abcdef"));
    fs::write(folder.join("edited/mine.cu"), &text).unwrap();

    // Behind: the error stands on the hash and says what to type.
    let refused = attempt(folder, &["build"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success());
    for words in ["edited/mine.cu was made from another text", &format!("write `from = \"{hash}\"`"), "src/main.rs:2:"]
    {
        assert!(said.contains(words), "{words}: {said}");
    }

    fs::write(folder.join("src/main.rs"), WITH_EDITED.replace("HASH", hash)).unwrap();
    // From an empty state o = (q k) v, and twice that here.
    let printed = run(folder);
    let (o, explained) = printed.split_once('\n').unwrap();
    assert_eq!(o.parse::<f32>().unwrap(), 2.0 * 32.0 * 0.5 * 0.5 * 0.5, "{printed}");
    let chosen = format!("forward on sm_80, {} (named in the source): edited/mine.cu,", generated.kernel.schedule);
    assert!(explained.starts_with(&chosen) && explained.contains("compiled here"), "{printed}");
    assert!(explained.lines().nth(1).unwrap().contains("decode on sm_80"));

    // What `gdn2 prepare` compiles ahead is embedded, as long as it is of this text.
    let schedule = generated.kernel.schedule;
    let rule = &generated.kernel.rule;
    let stem = format!("{}_edited", tuned_stem(rule, Pass::Forward, Arch::Sm80, schedule));
    let edited = Committed { kernel: generated.kernel.clone(), source: CudaSource::new(text.clone()), stem };
    let compiler = Compiler::new(Search::from_environment(None, None));
    let artifact = compiler.compile_source(edited.kernel.clone(), edited.source.clone()).unwrap();
    let ptx = edited.ptx_file(&artifact.ptx, "13.0");
    fs::write(folder.join(format!("kernels/{}.ptx", edited.stem)), ptx).unwrap();
    fs::write(folder.join("src/main.rs"), WITH_EDITED.replace("HASH", &generated.source.hash)).unwrap();
    let printed = run(folder);
    assert!(printed.starts_with("8\n") && printed.contains("edited/mine.cu, its embedded PTX"), "{printed}");

    // Edited again: the crate is built again, and what was compiled from the old text is left alone.
    fs::write(folder.join("edited/mine.cu"), text.replace(mine, "store_outputs(out, 3.0f * scale")).unwrap();
    let printed = run(folder);
    assert!(printed.starts_with("12\n") && printed.contains("edited/mine.cu, compiled here"), "{printed}");
}
