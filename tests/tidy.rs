//! The house's invariants, most of them absences: what each crate does not depend on, what no template contains.
//! ARCHITECTURE.md states them; this file makes them true.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use gdn2_tests::{files_below, root};

/// Files with one of these extensions, committed generated kernels left out.
fn files(extensions: &[&str]) -> Vec<(PathBuf, String)> {
    files_below("")
        .unwrap()
        .into_iter()
        .filter(|path| !path.starts_with(root().join("kernels")))
        .filter(|path| extensions.iter().any(|extension| path.extension().is_some_and(|own| own == *extension)))
        .map(|path| (path.clone(), std::fs::read_to_string(path).unwrap()))
        .collect()
}

fn is_below(path: &Path, folder: &str) -> bool {
    path.starts_with(root().join(folder))
}

#[test]
fn no_file_is_longer_than_600_lines() {
    let long: Vec<String> = files(&["rs", "cuh", "hbs", "py", "c"])
        .iter()
        .filter(|(_, text)| text.lines().count() > 600)
        .map(|(path, text)| format!("{} has {} lines", path.display(), text.lines().count()))
        .collect();
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn every_rust_file_says_what_it_owns() {
    // Programs that must not compile are quoted whole in their expected messages.
    for (path, text) in files(&["rs"]).into_iter().filter(|(path, _)| !is_below(path, "gdn2/tests/ui")) {
        assert!(text.starts_with("//!"), "{} does not begin with a //! line", path.display());
    }
}

#[test]
fn no_module_is_a_drawer() {
    for (path, _) in files(&["rs"]) {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        assert!(!["util", "utils", "common", "helper", "helpers", "misc"].contains(&stem), "{}", path.display());
    }
}

#[test]
fn templates_hold_fields_flat_loops_and_partials_only() {
    // Kernels' templates; the report's page is HTML, where numbers are escaped and drawings are not.
    let mut templates = files(&["hbs"]);
    templates.retain(|(path, _)| is_below(path, "templates"));
    assert!(!templates.is_empty());
    for (path, text) in templates {
        let mut depth = 0u32;
        for tag in text.split("{{").skip(1).map(|rest| rest.split("}}").next().unwrap().trim()) {
            match tag {
                "/each" => depth -= 1,
                _ if tag.starts_with("#each ") => {
                    depth += 1;
                    assert_eq!(depth, 1, "{}: nested {{{{{tag}}}}}", path.display());
                }
                _ => {
                    let name = tag.strip_prefix("> ").unwrap_or(tag);
                    let plain = |c: char| c.is_ascii_alphanumeric() || "_./".contains(c);
                    assert!(!name.is_empty() && name.chars().all(plain), "{}: {{{{{tag}}}}}", path.display());
                }
            }
        }
    }
}

#[test]
fn the_generator_matches_granularity_in_the_plan_alone() {
    for (path, text) in files(&["rs"]) {
        let scanned = ["gdn2-codegen/src", "gdn2-vm", "gdn2-cli", "gdn2-tune"].iter().any(|room| is_below(&path, room));
        if !scanned || path.ends_with("gdn2-codegen/src/plan.rs") {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            let matches = ["Grain::None", "Grain::Scalar", "Grain::Channel"].iter().any(|grain| line.contains(grain));
            assert!(!matches, "{}: {}", path.display(), line.trim());
        }
    }
}

#[test]
fn language_and_generator_read_no_environment() {
    for folder in ["gdn2-dsl/src", "gdn2-codegen/src"] {
        for path in files_below(folder).unwrap() {
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(!text.contains("env::var"), "{} reads the environment", path.display());
        }
    }
}

#[test]
fn no_file_names_a_machine() {
    let folders = ["work", "root", "home", "tmp/bash"].map(|folder| format!("/{folder}/"));
    for (path, text) in files(&["rs", "md", "toml", "cuh", "hbs", "py", "gdn2", "json", "sh"]) {
        for folder in &folders {
            let hit = text.lines().find(|line| line.contains(folder.as_str()));
            assert!(hit.is_none(), "{}: {}", path.display(), hit.unwrap().trim());
        }
    }
}

#[test]
fn every_path_that_the_documents_name_exists() {
    for document in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = std::fs::read_to_string(root().join(document)).unwrap();
        for quoted in text.split('`').skip(1).step_by(2) {
            let is_path = quoted.contains('/') && !quoted.contains([' ', '*', '<', '{', '$', '(', ':', '…', '×']);
            // `gdn2-dsl/` is a folder, `bf16/f16` is not: a path ends in a slash or has an extension.
            let looks_real = quoted.ends_with('/') || quoted.rsplit('/').next().unwrap().contains('.');
            if is_path && looks_real {
                assert!(root().join(quoted).exists(), "{document} names `{quoted}`, which is not there");
            }
        }
    }
}

#[test]
fn what_is_committed_stays_small() {
    for (folder, limit) in [("kernels", 26 << 20), ("tests/cases", 3_000_000)] {
        let bytes: u64 = files_below(folder).unwrap().iter().map(|path| path.metadata().unwrap().len()).sum();
        assert!(bytes > 0 && bytes <= limit, "{folder} holds {bytes} bytes, at most {limit}");
    }
}

/// Names of everything in a package's tree on this platform, build and development dependencies left out.
fn tree(package: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--package", package, "--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .args(["--locked", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    let names: BTreeSet<String> = lines.lines().filter_map(|line| Some(line.split(' ').next()?.to_owned())).collect();
    assert!(names.contains(package), "{package} is gone");
    names
}

#[test]
fn dependencies_point_one_way() {
    let below: [(&str, &[&str]); 7] = [
        ("gdn2-dsl", &[][..]),
        ("gdn2-codegen", &["gdn2-dsl"]),
        ("gdn2-vm", &[]),
        ("gdn2-clock", &[]),
        ("gdn2-macros", &["gdn2-dsl", "gdn2-codegen"]),
        ("gdn2-runtime", &["gdn2-dsl", "gdn2-codegen", "gdn2-vm"]),
        ("gdn2", &["gdn2-dsl", "gdn2-codegen", "gdn2-vm", "gdn2-runtime", "gdn2-macros"]),
    ];
    for (package, allowed) in below {
        for used in tree(package).iter().filter(|used| used.starts_with("gdn2") && *used != package) {
            assert!(allowed.contains(&used.as_str()), "{package} depends on {used}");
        }
    }
}

#[test]
fn what_is_absent_from_each_tree() {
    let absent: [(&str, &[&str]); 5] = [
        ("gdn2-macros", &["cudarc", "libloading", "gdn2-runtime", "gdn2-vm", "handlebars", "serde_json"]),
        ("gdn2-codegen", &["cudarc", "libloading", "gdn2-runtime", "gdn2-vm"]),
        ("gdn2-vm", &["cudarc", "libloading", "gdn2-codegen", "gdn2-dsl"]),
        ("gdn2-clock", &["cudarc", "libloading", "gdn2-codegen", "gdn2-dsl", "gdn2-vm"]),
        ("gdn2", &["clap", "comfy-table", "indicatif"]),
    ];
    for (package, unwanted) in absent {
        let tree = tree(package);
        for name in unwanted {
            assert!(!tree.contains(*name), "{package} has {name} in its tree");
        }
    }
}
