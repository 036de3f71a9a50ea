//! Each device file of templates/ is CUDA of its own: with what it includes, and nothing else, it compiles.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use gdn2_runtime::nvrtc::Options;
use gdn2_tests::{engine, files_below, root};
use std::collections::BTreeSet;

/// A file after those it includes, each once.
fn expanded(file: &str, seen: &mut BTreeSet<String>, text: &mut String) {
    if !seen.insert(file.to_owned()) {
        return;
    }
    let own = std::fs::read_to_string(root().join("templates").join(file)).expect(file);
    assert!(own.lines().any(|line| line == "#pragma once"), "{file} has no #pragma once");
    for line in own.lines() {
        match line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"')) {
            Some(included) => expanded(included, seen, text),
            None if line == "#pragma once" => {}
            None => *text += &format!("{line}\n"),
        }
    }
}

#[test]
fn every_device_file_compiles_alone() {
    let engine = engine();
    let nvrtc = engine.compiler().nvrtc().unwrap();
    let files = files_below("templates").unwrap();
    let files: Vec<_> = files.iter().filter(|path| path.extension().is_some_and(|own| own == "cuh")).collect();
    assert!(files.len() > 50);
    let templates = root().join("templates");
    let mut refused = Vec::new();
    for path in files {
        let name = path.strip_prefix(&templates).unwrap().to_str().unwrap();
        let mut text = String::new();
        expanded(name, &mut BTreeSet::new(), &mut text);
        if let Err(error) = nvrtc.compile(&text, "sm_90a", &Options::default()) {
            refused.push(format!("{name}: {error}"));
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}
