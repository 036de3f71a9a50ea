//! Tells whether a change of the generator changed a kernel: keeps the CUDA text of every shipped rule, pass and
//! architecture in a folder, and compares it with the folder of an earlier run.
//!
//! ```text
//! cargo run --release -p gdn2-tests --example same_kernels -- before
//! cargo run --release -p gdn2-tests --example same_kernels -- after before [PART OF A NAME]
//! ```
//!
//! Then, where no PTX differs, `same_kernels --restamp` gives the records of tuning/ the hashes of the new texts.
//!
//! Text that differs in comments, blank lines or indentation alone is the same code. Other code is compiled, both
//! versions, and the PTX without debug lines compared, then what the assembler reports of each entry. Rows that share
//! both versions of their code are compiled once, for the first of their architectures. Exits with 1 where PTX differs.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a development tool: its errors are for its author")]

use gdn2_codegen::arch::Arch;
use gdn2_codegen::committed::Committed;
use gdn2_codegen::gpu::GPUS;
use gdn2_codegen::kernel::{CudaSource, Pass};
use gdn2_codegen::record::{Records, rule_fingerprint, source_fingerprint};
use gdn2_codegen::schedule::Schedule;
use gdn2_dsl::Rule;
use gdn2_runtime::artifact::{Artifact, Compiler};
use gdn2_runtime::toolchain::Search;
use gdn2_tests::{files_below, root, rules_with_kernels};
use std::collections::BTreeMap;
use std::path::PathBuf;

fn main() {
    if std::env::args().nth(1).is_some_and(|argument| argument == "--restamp") {
        return restamp();
    }
    let folders: Vec<PathBuf> = std::env::args().skip(1).map(PathBuf::from).collect();
    let (new, old) = (folders.first().expect("a folder to write"), folders.get(1));
    std::fs::create_dir_all(new).unwrap();
    let compiler = Compiler::new(Search::from_environment(None, None));
    let (mut rows, mut moved, mut differ) = (0, 0, 0);
    let mut compared: BTreeMap<(String, String), Comparison> = BTreeMap::new();
    let only = folders.get(2).map(|part| part.display().to_string()).unwrap_or_default();
    for kernel in kernels().into_iter().filter(|kernel| kernel.stem.contains(&only)) {
        rows += 1;
        let file = format!("{}.cu", kernel.stem);
        std::fs::write(new.join(&file), &kernel.source.text).unwrap();
        let Some(old) = old else { continue };
        let Ok(before) = std::fs::read_to_string(old.join(&file)) else {
            println!("{file}: new");
            continue;
        };
        let codes = (code(&before), code(&kernel.source.text));
        if codes.0 == codes.1 {
            continue;
        }
        moved += 1;
        let comparison = compared.entry(codes).or_insert_with(|| {
            let comparison = compare(&compiler, &kernel, before);
            println!("{}: {}", kernel.stem, comparison.words);
            comparison
        });
        differ += usize::from(!comparison.same);
    }
    println!("{rows} kernels, {moved} of other CUDA code, {differ} of other PTX");
    std::process::exit(i32::from(differ > 0));
}

/// Renews the hash of each record's text: for texts that changed and kernels that did not.
fn restamp() {
    let rules = rules_with_kernels();
    for path in files_below("tuning").unwrap() {
        let text = std::fs::read_to_string(&path).unwrap();
        let gpu = path.file_stem().unwrap().to_string_lossy();
        if path.parent() != Some(&root().join("tuning")) || !GPUS.iter().any(|(name, _)| *name == gpu) {
            continue;
        }
        let (records, damage) = Records::parse(&text);
        assert!(damage.is_empty(), "{damage:?}");
        let mut renewed = records.clone();
        for record in records.iter() {
            let of = |rule: &&Rule| rule_fingerprint(rule) == record.provenance.rule;
            let rule = rules.iter().find(of).expect("records are of shipped rules");
            let mut record = record.clone();
            let (schedule, arch) = (record.winner.schedule, record.provenance.arch);
            record.provenance.source = source_fingerprint(rule, record.pass, schedule, arch).expect("a legal winner");
            renewed.insert(record);
        }
        let changed = records.iter().zip(renewed.iter()).filter(|(old, new)| old != new).count();
        println!("{}: {changed} of {} records", path.display(), records.iter().count());
        std::fs::write(&path, renewed.to_text().unwrap()).unwrap();
    }
}

struct Comparison {
    same: bool,
    words: String,
}

fn compare(compiler: &Compiler, kernel: &Committed, before: String) -> Comparison {
    let compile = |source| compiler.compile_source(kernel.kernel.clone(), source).unwrap();
    let (before, after) = (compile(CudaSource::new(before)), compile(kernel.source.clone()));
    if ptx(kernel, &before) == ptx(kernel, &after) {
        return Comparison { same: true, words: "the same PTX".to_owned() };
    }
    let (before, after) = (describe(&before), describe(&after));
    let mut words = "other PTX".to_owned();
    for (entry, after) in &after {
        let change = match before.get(entry) {
            Some(before) if before == after => format!("{after}, as before"),
            Some(before) => format!("{after}, before {before}"),
            None => format!("{after}, new"),
        };
        words += &format!("\n  {entry}: {change}");
    }
    Comparison { same: false, words }
}

/// Every shipped rule and pass on every architecture in its built-in schedule, and the forms no built-in one has.
fn kernels() -> Vec<Committed> {
    let mut all = Vec::new();
    for rule in rules_with_kernels() {
        for arch in Arch::ALL {
            for pass in Pass::ALL {
                all.extend(forms(pass, arch).iter().filter_map(|text| bound(&rule, pass, arch, text)));
            }
        }
    }
    all
}

fn forms(pass: Pass, arch: Arch) -> &'static [&'static str] {
    match (pass, arch) {
        (Pass::Forward, Arch::Sm90a) => {
            &["", "matrix=mma", "matrix=wgmma", "matrix=wgmma,segments=2", "matrix=wgmma,segments=8"]
        }
        (Pass::Forward, Arch::Sm80) => &["", "chunk=16", "value_split=2", "segments=2", "segments=8"],
        (Pass::Backward, Arch::Sm80) => &["", "recompute=1", "chunk=16,value_tiles=2"],
        _ => &[""],
    }
}

/// `None` where the schedule is refused.
fn bound(rule: &Rule, pass: Pass, arch: Arch, text: &str) -> Option<Committed> {
    let schedule = Schedule::from_overrides(rule, pass, arch, text).unwrap();
    Committed::tuned(rule, pass, arch, schedule).ok()
}

/// The text without what a compiler skips.
fn code(text: &str) -> String {
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

fn ptx(kernel: &Committed, artifact: &Artifact) -> String {
    let file = kernel.ptx_file(&artifact.ptx, "");
    file.split_once('\n').unwrap().1.to_owned()
}

/// What each entry takes.
fn describe(artifact: &Artifact) -> BTreeMap<String, String> {
    let instructions = instructions(artifact.cubin.as_ref().unwrap());
    let words = artifact.resources.iter().map(|entry| {
        let spills = entry.spill_stores + entry.spill_loads;
        let count = instructions[&format!(".text.{}", entry.entry)];
        (entry.entry.clone(), format!("{} registers, {spills} bytes spilled, {count} instructions", entry.registers))
    });
    words.collect()
}

/// Sizes of an ELF file's sections, in instructions of 16 bytes.
fn instructions(elf: &[u8]) -> BTreeMap<String, u64> {
    let number =
        |at: usize, bytes: usize| elf[at..at + bytes].iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte));
    let (headers, size) = (number(0x28, 8) as usize, number(0x3a, 2) as usize);
    let header = |index: u64| headers + index as usize * size;
    let names = number(header(number(0x3e, 2)) + 0x18, 8) as usize;
    let section = |index: u64| {
        let name = names + number(header(index), 4) as usize;
        let end = elf[name..].iter().position(|byte| *byte == 0).unwrap();
        (String::from_utf8_lossy(&elf[name..name + end]).into_owned(), number(header(index) + 0x20, 8) / 16)
    };
    (0..number(0x3c, 2)).map(section).collect()
}
