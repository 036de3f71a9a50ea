//! The rule that the training example embeds, read from its source, put through `gdn2 gradcheck`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;
use std::process::Command;

use gdn2_dsl::{InSource, Named, rules_in_source};

#[test]
fn the_gradients_of_the_training_example_pass() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let source = std::fs::read_to_string(root.join("gdn2/examples/associative_recall/main.rs")).unwrap();
    let found = rules_in_source(&source).unwrap();
    let [InSource { rule: Named::Rule(rule), .. }] = found.as_slice() else {
        unreachable!("the example has one rule, written in place")
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("layer.gdn2");
    std::fs::write(&file, rule.to_string()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_gdn2")).arg("gradcheck").arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("layer"), "{said}");
}
