//! What a researcher with a rule of their own sees of its gradients, and what works of them without a compiler.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;
use std::process::{Command, Output};

use gdn2_codegen::arch::Arch;
use gdn2_codegen::committed::Committed;
use gdn2_codegen::kernel::Pass;
use gdn2_dsl::parse_file;
use tempfile::TempDir;

const MINE: &str =
    "rule mine { decay: scalar; erase: channel; write: scalar; key_dim: 16; value_dim: 16; dtype: bf16; }";

fn gdn2(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gdn2"));
    command.current_dir(folder).args(arguments);
    command
}

/// A folder with a rule of one's own.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("mine.gdn2"), MINE).unwrap();
    folder
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn gradcheck_prints_a_row_per_draw_and_gradient() {
    let folder = folder();
    let output = gdn2(folder.path(), &["gradcheck", "mine.gdn2", "--seed", "7"]).output().unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    // The last draw has no initial state.
    for (tensor, times) in [("dq", 3), ("dk", 3), ("dv", 3), ("dg", 3), ("db", 3), ("dw", 3), ("d_initial_state", 2)] {
        let rows = text.lines().filter(|line| line.split_whitespace().any(|word| word == tensor));
        assert_eq!(rows.filter(|row| row.ends_with("pass")).count(), times, "{tensor}: {text}");
    }
    assert!(text.contains("\n20 passed, 0 failed\n") && text.contains("--seed 7"), "{text}");
}

#[test]
fn gradcheck_fails_kernels_that_are_wrong() {
    let folder = folder();
    let rule = parse_file(MINE).unwrap().remove(0);
    let kernels = folder.path().join("kernels");
    std::fs::create_dir(&kernels).unwrap();
    for pass in [Pass::ForwardForBackward, Pass::Backward] {
        let arguments = ["emit", "mine.gdn2", "--pass", &pass.to_string(), "--arch", "sm_80", "--emit", "ptx"];
        let output = gdn2(folder.path(), &arguments).output().unwrap();
        let right = String::from_utf8(output.stdout).unwrap();
        let wrong = right.replace("sub.f32", "add.f32");
        assert_ne!(right, wrong);
        let file = Committed::new(&rule, pass, Arch::Sm80).unwrap().ptx_file(&wrong, "13.0");
        std::fs::write(kernels.join(format!("mine_{pass}_sm_80.ptx")), file).unwrap();
    }
    let mut command = gdn2(folder.path(), &["gradcheck", "mine.gdn2", "--json"]);
    let output = command.env("GDN2_NVRTC", "/nowhere").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(json["failed"].as_u64().unwrap() > 0 && json["seed"].is_u64(), "{json:#}");
}

#[test]
fn the_committed_backward_kernels_run_without_a_compiler() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let arguments = ["verify", "--cases", "tests/cases/gdn_d128.safetensors", "--device", "vm", "--pass", "backward"];
    let mut command = gdn2(&root, &[&arguments[..], &["rules/gdn.gdn2"]].concat());
    let output = command.env("GDN2_NVRTC", "/nowhere").output().unwrap();
    let text = text(&output);
    assert!(output.status.success() && text.contains("\n6 passed, 0 failed\n"), "{text}");
}

/// One of the cases starts from no state and holds that state's gradient all the same.
#[test]
fn every_gradient_of_the_repository_s_cases_is_within_its_bar() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (cases, device) in [("tests/cases", "vm"), ("tests/cases/gla_d48.safetensors", "cpu")] {
        let arguments = ["verify", "--cases", cases, "--device", device, "--pass", "backward"];
        let output = gdn2(&root, &arguments).output().unwrap();
        let text = text(&output);
        assert!(output.status.success() && text.contains(" passed, 0 failed\n"), "{text}");
        let judged = text.lines().filter(|line| line.contains("gla_d48") && line.contains("d_initial_state"));
        assert_eq!(judged.count(), 1, "{text}");
    }
}

#[test]
fn a_machine_without_a_gpu_is_told_so() {
    let folder = folder();
    let check = ["gradcheck", "mine.gdn2", "--device", "cpu"];
    let bench = ["bench", "mine.gdn2", "--pass", "backward", "--shape", "B=1,T=8,H=1", "--device", "vm"];
    for (arguments, says) in [(&check[..], "the CPU runs no kernels"), (&bench[..], "bench times a GPU")] {
        let output = gdn2(folder.path(), arguments).output().unwrap();
        assert!(output.status.code() == Some(2) && text(&output).contains(says), "{}", text(&output));
    }
}
