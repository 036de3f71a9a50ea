//! What the clock extrapolates is what a longer call does: instructions and bytes of every launch at 2,048 tokens, from two
//! shorter calls and walked directly. Nothing here needs a GPU; without NVRTC or nvdisasm there is nothing to compare.
//! Repeat with `cargo test --release -p gdn2-tune --test extrapolation`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use gdn2_clock::kernel::Kernel as Machine;
use gdn2_codegen::arch::Arch;
use gdn2_codegen::bind;
use gdn2_codegen::kernel::Pass;
use gdn2_codegen::schedule::Schedule;
use gdn2_runtime::artifact::{Artifact, Compiler};
use gdn2_runtime::toolchain::{Nvdisasm, Search};
use gdn2_tune::job::Shape;
use gdn2_tune::timing::launches_of;
use std::path::Path;

const TOKENS: u32 = 2048;

/// Blocks of each launch of a call, and a mean block's instructions and bytes.
fn walked(artifact: &Artifact, disassembly: &str, tokens: u32) -> Vec<(String, f64, [f64; 2])> {
    let shape = Shape { batch: 1, tokens, key_heads: 1, value_heads: 2 };
    let cubin = artifact.cubin.as_ref().unwrap();
    let launches = launches_of(&artifact.kernel, shape).unwrap().into_iter();
    let of = |(index, launch): (usize, gdn2_clock::launch::Launch)| {
        let entry = artifact.kernel.launches[index].entry.clone();
        let sample = Machine::read(cubin, disassembly, Some(&entry)).unwrap().sample(&launch).unwrap();
        let instructions = sample.mean(|block| block.executed().count() as f64);
        (entry, launch.blocks() as f64, [instructions, sample.block_bytes()])
    };
    launches.map(of).collect()
}

#[test]
fn a_straight_line_meets_the_longer_call() {
    let search = Search::from_environment(None, None);
    let Ok(disassembler) = Nvdisasm::find(&search) else { return println!("no nvdisasm: nothing compared") };
    let compiler = Compiler::new(search);
    if compiler.nvrtc().is_err() {
        return println!("no NVRTC: nothing compared");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut wrong = Vec::new();
    for (name, pass, fields) in [
        ("gdn", Pass::Forward, ""),
        ("kda", Pass::Forward, "matrix=wgmma,segments=2"),
        ("gdn2", Pass::ForwardForBackward, ""),
        ("gdn", Pass::Backward, ""),
        ("gdn", Pass::Decode, ""),
    ] {
        let text = std::fs::read_to_string(root.join(format!("rules/{name}.gdn2"))).unwrap();
        let rule = gdn2_dsl::parse_file(&text).unwrap().remove(0);
        let schedule = Schedule::from_overrides(&rule, pass, Arch::Sm90a, fields).unwrap();
        let artifact = compiler.compile(bind(&rule, pass, schedule, Arch::Sm90a).unwrap()).unwrap();
        let disassembly = disassembler.encoded_sass(artifact.cubin.as_ref().unwrap()).unwrap();
        let short = 4 * schedule.chunk().unwrap_or(1) * schedule.segments();
        let at = |tokens| walked(&artifact, &disassembly, tokens);
        let (one, two, whole) = (at(short), at(2 * short), at(TOKENS));
        assert!(!whole.is_empty() && one.len() == whole.len());
        for ((from, to), (entry, blocks, direct)) in one.iter().zip(&two).zip(&whole) {
            // A grid of chunks has more blocks, not longer ones, and is walked as it is.
            if from.1 != *blocks {
                continue;
            }
            for (what, index) in [("instructions", 0), ("bytes", 1)] {
                let (a, b) = (from.2[index], to.2[index]);
                let along = b + (b - a) / f64::from(short) * f64::from(TOKENS - 2 * short);
                let off = (along / direct[index] - 1.0).abs();
                println!("{entry} {pass} {schedule}, {what}: {along:.0}, directly {:.0}", direct[index]);
                if off > 0.01 {
                    wrong.push(format!("{entry} {pass}, {what}: {along:.0}, directly {:.0}", direct[index]));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
