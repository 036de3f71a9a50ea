//! The commands of the pages in `docs/` run, and print what the pages say.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// A fenced block: its language and its text.
struct Block {
    language: String,
    text: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let fences = page.split("```").skip(1).step_by(2);
    let block = |fence: &str| {
        let (language, text) = fence.split_once('\n').unwrap();
        Block { language: language.to_owned(), text: text.to_owned() }
    };
    fences.map(block).collect()
}

/// Runs the commands of a page in a copy of its folder; each `text` block is what those before it print.
fn run(page: &Path) {
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(page.parent().unwrap()).unwrap().flatten() {
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    std::os::unix::fs::symlink(page.parent().unwrap().join("../rules"), folder.path().join("rules")).unwrap();
    let program = PathBuf::from(env!("CARGO_BIN_EXE_gdn2"));
    let path = std::env::join_paths(
        [program.parent().unwrap().to_owned()]
            .into_iter()
            .chain(std::env::split_paths(&std::env::var("PATH").unwrap())),
    );
    let path = path.unwrap();
    let mut printed = String::new();
    let mut compared = 0;
    for block in blocks(&std::fs::read_to_string(page).unwrap()) {
        match block.language.as_str() {
            "sh" => {
                let mut shell = Command::new("bash");
                shell.args(["-c", &block.text]).current_dir(folder.path()).env("PATH", &path);
                let output = shell.env_remove("CLICOLOR_FORCE").output().unwrap();
                assert!(output.stderr.is_empty(), "{}: {}", block.text, String::from_utf8_lossy(&output.stderr));
                printed += &String::from_utf8(output.stdout).unwrap();
            }
            "text" => {
                assert_eq!(printed.trim_end(), block.text.trim_end(), "{}", page.display());
                printed.clear();
                compared += 1;
            }
            // What a page quotes of a file is in the file.
            "cuda" => {
                let files = std::fs::read_dir(folder.path()).unwrap().flatten().map(|file| file.path());
                let quoted = |path: PathBuf| std::fs::read_to_string(path).is_ok_and(|text| text.contains(&block.text));
                let cuda = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "cu");
                assert!(files.filter(cuda).any(quoted), "{}", block.text);
            }
            // The tests of the Python package and of the crate `gdn2` run these.
            "python" | "rust" => {}
            // What needs a file of somebody's own; gdn2/tests/outside.rs has one like it.
            "rust,ignore" => {}
            other => panic!("{}: a block of `{other}`", page.display()),
        }
    }
    assert!(compared > 0, "{} shows no output", page.display());
}

fn page(name: &str) {
    run(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name));
}

#[test]
fn a_kernel_is_checked_as_the_page_says() {
    page("check-your-kernel.md");
}

#[test]
fn a_rule_of_ones_own_is_written_as_the_page_says() {
    page("a-rule-of-your-own.md");
}

#[test]
fn an_engine_finds_what_the_page_says() {
    page("in-an-engine.md");
}

#[test]
fn a_kernel_is_measured_as_the_page_says() {
    page("make-it-faster.md");
}
