//! `gdn2 referee`: ours, and a bundle of somebody else's that is right, wrong, racy or damaged.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

const RULE: &str = "rule own { decay: none; erase: none; write: none; key_dim: 16; value_dim: 16; dtype: bf16; }";

fn gdn2(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gdn2")).current_dir(folder).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The state after one token, by a kernel whose body is given; `i` is the channel of the key, `j` that of the value.
fn bundle(folder: &Path, body: &str) {
    let peer = folder.join("peers/own");
    std::fs::create_dir_all(&peer).unwrap();
    let kernel = format!(
        "extern \"C\" __global__ void last(const float* s0, const float* k, const float* v, float* s) {{\n  \
         __shared__ float row[256]; int t = threadIdx.x, i = t / 16, j = t % 16;\n  {body}\n}}\n"
    );
    std::fs::write(peer.join("k.cu"), kernel).unwrap();
    let input = |tensor: &str| json!({ "file": "case.safetensors", "tensor": tensor, "as": "F32" });
    let run = json!({
        "buffers": {
            "s0": input("initial_state"), "k": input("k"), "v": input("v"),
            "s": { "dtype": "F32", "shape": [1, 1, 16, 16], "output": true },
        },
        "launches": [{
            "kernel": "k.cu", "entry": "last", "grid": [1], "block": [256],
            "args": [{ "buffer": "s0" }, { "buffer": "k" }, { "buffer": "v" }, { "buffer": "s" }],
        }],
    });
    std::fs::write(peer.join("run.json"), run.to_string()).unwrap();
    let says = json!({
        "by": "somebody 1.0", "call": "last", "compiled_by": "NVRTC", "rule": "own", "pass": "forward",
        "shape": "B=1,T=1,H=1", "run": "run.json", "reference": "case.safetensors", "outputs": { "s": "final_state" },
    });
    std::fs::write(peer.join("peer.json"), says.to_string()).unwrap();
}

const RIGHT: &str = "row[t] = k[i] * v[j]; __syncthreads(); s[t] = s0[t] + row[t ^ 0];";
const WRONG: &str = "row[t] = k[i] * v[j]; __syncthreads(); s[t] = s0[t] + row[t ^ 16];";
const RACY: &str = "row[255 - t] = k[15 - i] * v[15 - j]; s[t] = s0[t] + row[t];";

fn rows(output: &Output) -> Vec<Value> {
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    said["rows"].as_array().unwrap().clone()
}

#[test]
fn ours_and_others_are_judged_alike() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("own.gdn2"), RULE).unwrap();
    bundle(folder, RIGHT);
    let case = ["case", "own.gdn2", "--shape", "B=1,T=1,H=1", "--output", "peers/own/case.safetensors"];
    assert!(gdn2(folder, &case).status.success());
    std::fs::write(folder.join("argued.json"), "[]").unwrap();
    let judged = |more: &[&str]| {
        let usual = ["referee", "own.gdn2", "--pass", "forward", "--peers", "peers", "--argued", "argued.json"];
        gdn2(folder, &[&usual[..], more].concat())
    };

    let output = judged(&["--json", "--out", "table.md", "--out", "page.html"]);
    let both = rows(&output);
    assert!(output.status.success() && both.len() == 2, "{}", text(&output.stdout));
    let (ours, theirs) = (&both[0], &both[1]);
    assert_eq!((&ours["by"], &theirs["by"]), (&json!("gdn2"), &json!("somebody 1.0 by NVRTC")));
    // Three inputs and a result of float32 for one token and head, where the rule has bf16: q is not read.
    assert_eq!(theirs["cost"]["bytes"], json!(4.0 * (256.0 * 2.0 + 256.0 * 2.0)));
    assert_eq!(ours["cost"]["distinct"], ours["cost"]["floor"]);
    for (name, has) in
        [("table.md", "| somebody 1.0 by NVRTC | last |"), ("page.html", "<td>somebody 1.0 by NVRTC</td>")]
    {
        let table = std::fs::read_to_string(folder.join(name)).unwrap();
        assert!(table.contains(has), "{table}");
    }

    bundle(folder, WRONG);
    let output = judged(&[]);
    assert!(output.status.code() == Some(1) && text(&output.stdout).contains("WRONG"), "{}", text(&output.stdout));

    bundle(folder, RACY);
    let output = judged(&[]);
    let said = text(&output.stdout);
    assert!(output.status.code() == Some(1) && said.contains("shared-memory race"), "{said}");
    assert!(said.contains("NOT ARGUED") && said.contains("k.cu:3"), "{said}");
    let why = json!([{ "entry": "last", "rule": "shared-memory race", "why": "Real: no barrier." }]);
    std::fs::write(folder.join("argued.json"), why.to_string()).unwrap();
    let argued = rows(&judged(&["--json"]));
    assert!(argued[1]["findings"].as_array().unwrap().iter().all(|found| found["argued"] == "Real: no barrier."));
}

#[test]
fn what_is_damaged_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("own.gdn2"), RULE).unwrap();
    let refused = |says: &str| {
        let arguments = ["referee", "own.gdn2", "--pass", "decode", "--peers", "peers", "--argued", "argued.json"];
        let output = gdn2(folder, &arguments);
        assert!(!output.status.success() && output.stdout.is_empty());
        let told = text(&output.stderr);
        assert!(told.contains(says), "{told}");
    };
    refused("peers");
    std::fs::create_dir(folder.join("peers")).unwrap();
    refused("build some with benchmarks/referee.py");
    bundle(folder, RIGHT);
    refused("argued.json");
    std::fs::write(folder.join("argued.json"), "[]").unwrap();
    refused("case.safetensors");
    let case = ["case", "own.gdn2", "--shape", "B=1,T=2,H=1", "--output", "peers/own/case.safetensors"];
    assert!(gdn2(folder, &case).status.success());
    let path = folder.join("peers/own/peer.json");
    let says = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, says.replace("final_state", "final")).unwrap();
    refused("outputs: `s`: `final`");
    std::fs::write(&path, says.replace("\"by\"", "\"bye\"")).unwrap();
    refused("unknown field `bye`");
}
