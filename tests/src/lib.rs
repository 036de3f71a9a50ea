//! What the workspace's tests share: where the repository is and which files it is made of.

pub mod agrees;
pub mod draws;
pub mod evidence;
pub mod fuzz;
pub mod mutants;
pub mod named;
pub mod seed;
pub mod sweep;
pub mod views;

use std::path::{Path, PathBuf};

use gdn2_dsl::{Combination, Grain, Rule};
use gdn2_runtime::artifact::Compiler;
use gdn2_runtime::device::Device;
use gdn2_runtime::device::vm::Settings;
use gdn2_runtime::engine::Engine;
use gdn2_runtime::toolchain::{self, Search};
use gdn2_vm::Check;

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every file below `folder` of the repository, sorted; symbolic links, build outputs and version control left out.
pub fn files_below(folder: &str) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_file() {
                found.push(entry.path());
            } else if kind.is_dir() && !["target", ".git"].iter().any(|name| entry.file_name() == *name) {
                folders.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Every shipped rule whose gates arrive computed; layers have tests of their own.
pub fn rules_with_kernels() -> Vec<Rule> {
    let files = files_below("rules").unwrap_or_default();
    let read = |path: PathBuf| gdn2_dsl::parse_file(&std::fs::read_to_string(path).unwrap_or_default());
    let rules = files.into_iter().filter_map(|path| read(path).ok()).flatten();
    rules.filter(|rule| rule.prologue.is_empty()).collect()
}

/// An engine that compiles with NVRTC, fetched if it is nowhere: a test that compiles fails without one.
pub fn engine() -> Engine {
    let compiler = Compiler::new(Search::from_environment(None, None));
    if compiler.nvrtc().is_ok() {
        return Engine::new(compiler);
    }
    // What goes wrong here shows, with its reason, as soon as something is compiled.
    let _ = toolchain::install(None, &mut |line| eprintln!("{line}"));
    Engine::new(Compiler::new(Search::from_environment(None, None)))
}

/// The virtual machine with every check on.
pub fn checked() -> Device {
    Device::Vm(Settings { check: Check::Full, ..Settings::default() })
}

/// The combinations with one gate less. A tie goes before the erase gate it is tied to.
pub fn with_one_gate_less(of: Combination) -> Vec<Combination> {
    let none = Some(Grain::None);
    let mut less = vec![Combination { decay: Grain::None, ..of }, Combination { write: none, ..of }];
    if of.write.is_some() {
        less.push(Combination { erase: Grain::None, ..of });
    }
    less.retain(|combination| *combination != of);
    less
}
