//! The committed kernels are what the generator makes now, and stand in for NVRTC where there is none.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;
use std::process::{Command, Output};

fn gdn2(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gdn2"));
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).args(arguments);
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn nothing_has_drifted() {
    let output = gdn2(&["prepare", "--check"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn drift_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let kernels = folder.path().to_str().unwrap();
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels")).unwrap() {
        let from = entry.unwrap().path();
        std::fs::copy(&from, folder.path().join(from.file_name().unwrap())).unwrap();
    }
    let check = || gdn2(&["prepare", "--check", "--kernels", kernels]).output().unwrap();
    assert!(check().status.success());
    let (cuda, ptx) = (folder.path().join("gla_forward_sm_80.cu"), folder.path().join("kda_decode_sm_80.ptx"));
    for (file, spoilt) in [(cuda, "spoilt"), (ptx, "// source 00, ptx 00, NVRTC 13.0\n")] {
        let whole = std::fs::read(&file).unwrap();
        std::fs::write(&file, spoilt).unwrap();
        assert!(!check().status.success() && text(&check()).contains("gdn2 prepare"));
        std::fs::remove_file(&file).unwrap();
        assert!(text(&check()).contains("missing"));
        std::fs::write(&file, whole).unwrap();
    }
    std::fs::write(folder.path().join("gone_forward_sm_80.cu"), "").unwrap();
    assert!(text(&check()).contains("gone_forward_sm_80.cu: left over"));
}

#[test]
fn the_demo_runs_without_a_compiler() {
    let output = gdn2(&["demo"]).env("GDN2_NVRTC", "/nowhere").output().unwrap();
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("running the committed PTX") && text.ends_with("12 passed, 0 failed\n"), "{text}");
}
