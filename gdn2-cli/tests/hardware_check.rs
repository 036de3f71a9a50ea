//! The hardware check, rehearsed whole on the virtual machine: every part, every file, and no time in any of them.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const GDN: &str = "rule gdn { decay: scalar; erase: scalar; write: erase; key_dim: 32; value_dim: 32; dtype: bf16; }";

/// Stands in for the process that calls the peers: `sh SCRIPT --out ROWS …`.
const PEERS: &str = r#"
echo '{"kind": "environment", "rehearsal": true}' >> "$2"
echo '{"kind": "row", "rule": "gdn", "contestant": "gdn2", "status": "rehearsed", "worst_error": 0.003}' >> "$2"
echo '{"kind": "row", "rule": "gdn", "contestant": "fla", "status": "refused", "reason": "no a|b"}' >> "$2"
"#;

fn rehearse(folder: &Path, peers: &str, minutes: &str) -> Output {
    let rules = folder.join("rules");
    std::fs::create_dir_all(&rules).unwrap();
    std::fs::write(rules.join("gdn.gdn2"), GDN).unwrap();
    std::fs::write(folder.join("peers.sh"), peers).unwrap();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let case = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/cases/gdn_d16_empty.safetensors");
    let mut command = Command::new(env!("CARGO_BIN_EXE_gdn2"));
    command.args(["hardware-check", "--device", "vm", "--minutes", minutes, "--python", "/bin/sh", "--cases", case]);
    command.args(["--out", &path("out"), "--rules", &path("rules"), "--peers", &path("peers.sh")]);
    command.output().unwrap()
}

fn report(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("out/report.json")).unwrap()).unwrap()
}

#[test]
fn a_rehearsal_goes_through_every_part_and_measures_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output = rehearse(folder.path(), PEERS, "6");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    let report = report(folder.path());
    assert_eq!(report["rehearsal"], true);
    assert!(report["gpu"].is_null());
    let parts = report["parts"].as_array().unwrap();
    let names: Vec<&str> = parts.iter().map(|part| part["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["conformance", "correctness", "peers", "tuning", "calibration"]);
    for part in parts {
        assert_eq!(part["good"], true, "{part:#}");
        assert!(!part["rows"].as_array().unwrap().is_empty(), "{part:#}");
    }
    let correctness = &parts[1];
    assert_eq!(correctness["complaints"].as_array().unwrap().len(), 0, "{correctness:#}");
    let checked: u64 = correctness["rows"].as_array().unwrap().iter().filter_map(|row| row["passed"].as_u64()).sum();
    assert!(checked > 40, "{checked} tensors");
    for name in ["report.md", "correctness.jsonl", "peers.jsonl", "tuning.jsonl", "kept.tar"] {
        assert!(folder.path().join("out").join(name).metadata().unwrap().len() > 0, "{name}");
    }
    let page = std::fs::read_to_string(folder.path().join("out/report.md")).unwrap();
    assert!(page.contains("Nothing here is a measurement") && page.contains("no a\\|b"), "{page}");
    let kept = Command::new("tar").arg("-tf").arg(folder.path().join("out/kept.tar")).output().unwrap();
    let kept = String::from_utf8(kept.stdout).unwrap();
    for file in ["tuning/h200.json", "tuning/constants/h200.json", "gdn2-vm/fixtures/"] {
        assert!(kept.contains(file), "{file} is not in {kept}");
    }
}

#[test]
fn a_part_that_fails_costs_itself() {
    let folder = tempfile::tempdir().unwrap();
    let output = rehearse(folder.path(), "echo 'error: out of luck' >&2; exit 7", "0.2");
    assert_eq!(output.status.code(), Some(1));
    let report = report(folder.path());
    let parts = report["parts"].as_array().unwrap();
    assert_eq!(parts.len(), 5);
    assert_eq!(parts[2]["good"], false);
    let complaint = parts[2]["complaints"][0].as_str().unwrap();
    assert!(complaint.contains('7') && complaint.contains("out of luck"), "{complaint}");
}
