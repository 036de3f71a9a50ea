//! The hardware check, rehearsed whole on the virtual machine: every part, every file, and no time in any of them.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::io::Read as _;
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

/// Stands in for the process that calls the Python package on PyTorch's tensors.
const PYTORCH: &str = r#"echo '{"check": "package", "status": "passed", "found": "gdn2 0.1.0"}' >> "$2""#;

fn rehearse(folder: &Path, peers: &str, minutes: &str) -> Output {
    let rules = folder.join("rules");
    std::fs::create_dir_all(&rules).unwrap();
    std::fs::write(rules.join("gdn.gdn2"), GDN).unwrap();
    std::fs::write(folder.join("peers.sh"), peers).unwrap();
    std::fs::write(folder.join("pytorch.sh"), PYTORCH).unwrap();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let case = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/cases/gdn_d16_empty.safetensors");
    let mut command = Command::new(env!("CARGO_BIN_EXE_gdn2"));
    command.args(["hardware-check", "--device", "vm", "--minutes", minutes, "--python", "/bin/sh", "--cases", case]);
    command.args(["--out", &path("out"), "--rules", &path("rules"), "--peers", &path("peers.sh")]);
    command.args(["--pytorch", &path("pytorch.sh")]);
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
    assert_eq!(names, ["micro", "conformance", "correctness", "pytorch", "peers", "tuning", "calibration"]);
    for part in parts {
        assert_eq!(part["good"], true, "{part:#}");
        assert!(!part["rows"].as_array().unwrap().is_empty(), "{part:#}");
    }
    let correctness = &parts[2];
    assert_eq!(correctness["complaints"].as_array().unwrap().len(), 0, "{correctness:#}");
    let checked: u64 = correctness["rows"].as_array().unwrap().iter().filter_map(|row| row["passed"].as_u64()).sum();
    assert!(checked > 40, "{checked} tensors");
    for name in ["report.md", "correctness.jsonl", "pytorch.jsonl", "peers.jsonl", "tuning.jsonl", "kept.tar"] {
        assert!(folder.path().join("out").join(name).metadata().unwrap().len() > 0, "{name}");
    }
    let page = std::fs::read_to_string(folder.path().join("out/report.md")).unwrap();
    assert!(page.contains("Nothing here is a measurement") && page.contains("no a\\|b"), "{page}");
    let kept = Command::new("tar").arg("-tf").arg(folder.path().join("out/kept.tar")).output().unwrap();
    let kept = String::from_utf8(kept.stdout).unwrap();
    for file in ["tuning/h200.json", "tuning/constants/h200.json", "gdn2-vm/fixtures/"] {
        assert!(kept.contains(file), "{file} is not in {kept}");
    }
    what_was_kept_is_imported(folder.path());
}

type Files = BTreeMap<String, Vec<u8>>;

fn unpacked(archive: &[u8]) -> Files {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().unwrap().map(|entry| entry.unwrap());
    let file = |mut entry: tar::Entry<'_, &[u8]>| {
        let name = entry.path().unwrap().to_str().unwrap().trim_start_matches("./").to_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (name, bytes)
    };
    entries.filter(|entry| entry.header().entry_type().is_file()).map(file).collect()
}

/// An archive of these files whose hashes are right.
fn packed(mut files: Files) -> Vec<u8> {
    files.remove("hashes.json");
    let hashes: BTreeMap<&str, String> =
        files.iter().map(|(name, bytes)| (name.as_str(), blake3::hash(bytes).to_string())).collect();
    let hashes = serde_json::to_vec(&hashes).unwrap();
    files.insert("hashes.json".to_owned(), hashes);
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in &files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn replaced(files: &Files, name: &str, edits: &[(&str, &str)]) -> Files {
    let mut text = String::from_utf8(files[name].clone()).unwrap();
    for (from, to) in edits {
        assert!(text.contains(from), "{name} has no {from}");
        text = text.replace(from, to);
    }
    let mut files = files.clone();
    files.insert(name.to_owned(), text.into_bytes());
    files
}

/// The rehearsal's own archive, then what is made of it.
fn what_was_kept_is_imported(folder: &Path) {
    let root = folder.join("root");
    let import = |archive: &[u8]| {
        let _ = std::fs::remove_dir_all(&root);
        std::fs::write(folder.join("given.tar"), archive).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_gdn2"));
        command.current_dir(folder).args(["records", "import", "given.tar", "--into", "root", "--rules", "rules"]);
        let output = command.output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code(), said)
    };
    let refused = |archive: &[u8], says: &str| {
        let (code, said) = import(archive);
        assert!(code == Some(1) && said.contains(says) && said.contains("nothing was merged"), "{says}: {said}");
        assert!(!root.exists());
    };
    let archive = std::fs::read(folder.join("out/kept.tar")).unwrap();
    let (code, said) = import(&archive);
    assert!(code == Some(0) && said.contains("it holds; a rehearsal measured nothing") && !root.exists(), "{said}");
    // A digit of a time, the archive otherwise as it was.
    let at = archive.windows(9).position(|bytes| bytes == b"\"micros\":").unwrap() + 9;
    let mut changed = archive.clone();
    changed[at] = if changed[at] == b'1' { b'2' } else { b'1' };
    refused(&changed, "tuning/h200.json: changed since it was packed");
    refused(&archive[..archive.len() / 2], "refused");
    // With hashes to match, what was found must still agree with itself.
    let files = unpacked(&archive);
    refused(
        &packed(replaced(&files, "report.json", &[("\"rehearsal\": true", "\"rehearsal\": false")])),
        "names no GPU",
    );
    refused(
        &packed(replaced(&files, "tuning/h200.json", &[("\"source\":\"", "\"source\":\"0")])),
        "is not what is generated",
    );
    let gpu = "\"gpu\": {\"name\": \"NVIDIA H200\", \"records\": \"h200\", \"arch\": \"sm_90a\", \"driver\": \"13.0\", \"clock_mhz\": 1980}";
    let report = [("\"rehearsal\": true", "\"rehearsal\": false"), ("\"gpu\": null", gpu)];
    let real = replaced(&files, "report.json", &report);
    refused(&packed(real.clone()), "times are");
    let basis = ["counted", "predicted"]
        .into_iter()
        .find(|basis| String::from_utf8_lossy(&files["tuning/h200.json"]).contains(&format!("\"basis\":\"{basis}\"")));
    let basis = format!("\"basis\":\"{}\"", basis.unwrap());
    let real = replaced(&real, "tuning/h200.json", &[(&basis, "\"driver\":\"CUDA 13.0\",\"basis\":\"measured\"")]);
    refused(
        &packed(replaced(&real, "report.json", &[("\"driver\": \"13.0\"", "\"driver\": \"13.1\"")])),
        "with driver",
    );
    refused(&packed(replaced(&real, "report.json", &[("\"clock_mhz\": 1980", "\"clock_mhz\": 1500")])), "1500");
    let other = [("\"records\": \"h200\"", "\"records\": \"h20\""), ("NVIDIA H200", "NVIDIA H20")];
    refused(&packed(replaced(&real, "report.json", &other)), "the check ran on NVIDIA H20");
    refused(&packed(replaced(&real, "report.json", &other[1..])), "not the one whose records are h200");
    refused(&packed(replaced(&real, "report.json", &[("\"limit\": 0.0", "\"limit\": 0.0000000")])), "correctness: ");
    let (code, said) = import(&packed(real));
    assert!(code == Some(0) && said.contains("merged into tuning/h200.json"), "{said}");
    let merged = std::fs::read_to_string(root.join("tuning/h200.json")).unwrap();
    assert!(merged.contains("\"basis\":\"measured\""), "{merged}");
    assert!(root.join("tuning/constants/h200.json").exists() && root.join("gdn2-vm/fixtures").is_dir());
}

#[test]
fn a_part_that_fails_costs_itself() {
    let folder = tempfile::tempdir().unwrap();
    let output = rehearse(folder.path(), "echo 'error: out of luck' >&2; exit 7", "0.2");
    assert_eq!(output.status.code(), Some(1));
    let report = report(folder.path());
    let parts = report["parts"].as_array().unwrap();
    assert_eq!(parts.len(), 7);
    let peers = parts.iter().find(|part| part["name"] == "peers").unwrap();
    assert_eq!(peers["good"], false);
    let complaint = peers["complaints"][0].as_str().unwrap();
    assert!(complaint.contains('7') && complaint.contains("out of luck"), "{complaint}");
}

#[test]
fn a_machine_without_python_leaves_its_parts_out() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["hardware-check", "--device", "vm", "--minutes", "0.1", "--python", "no-such-python", "--out", "out"];
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let mut command = Command::new(env!("CARGO_BIN_EXE_gdn2"));
    command.current_dir(folder.path()).args(args).args(["--rules", &format!("{root}/rules")]);
    command.args(["--peers", &format!("{root}/benchmarks/peers.py"), "--pytorch", "no-such-script.py"]);
    command.output().unwrap();
    let report = report(folder.path());
    for (name, missing) in [("peers", "no-such-python"), ("pytorch", "no-such-script.py")] {
        let part = report["parts"].as_array().unwrap().iter().find(|part| part["name"] == name).unwrap();
        assert_eq!(part["good"], true, "{part:#}");
        assert_eq!(part["summary"], format!("left out: {missing} is not there"));
    }
}
