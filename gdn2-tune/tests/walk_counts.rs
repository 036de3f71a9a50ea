//! What the clock walks is what the virtual machine runs: executed instructions by class, of every block and warp of the
//! kernels that ship. Nothing here needs a GPU; without NVRTC or nvdisasm there is no machine code and nothing to compare.
//! Repeat with `cargo test --release -p gdn2-tune --test walk_counts`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use gdn2_clock::kernel::Kernel as Machine;
use gdn2_clock::walk::walk;
use gdn2_codegen::abi::Tensor;
use gdn2_codegen::arch::Arch;
use gdn2_codegen::bind;
use gdn2_codegen::kernel::Pass;
use gdn2_codegen::schedule::Schedule;
use gdn2_dsl::Draw;
use gdn2_runtime::artifact::{Artifact, Compiler};
use gdn2_runtime::device::{Device, vm};
use gdn2_runtime::engine::{Run, execute};
use gdn2_runtime::problem::Problem;
use gdn2_runtime::tensors::Case;
use gdn2_runtime::toolchain::{Nvdisasm, Search};
use gdn2_tune::job::Shape;
use gdn2_tune::timing::launches_of;
use gdn2_vm::Report;
use std::collections::BTreeMap;
use std::path::Path;

/// PTX by its beginning, and the machine code it becomes.
const CLASSES: [(&str, &str); 15] = [
    ("wgmma.mma_async", "HGMMA"),
    ("mma.sync", "HMMA"),
    ("ldmatrix", "LDSM"),
    ("stmatrix", "STSM"),
    ("movmatrix", "MOVM"),
    ("ex2", "MUFU.EX2"),
    ("cp.async.ca", "LDGSTS"),
    ("cp.async.cg", "LDGSTS"),
    ("mbarrier.arrive", "SYNCS.ARRIVE"),
    ("mbarrier.init", "SYNCS.EXCH"),
    ("ld.shared", "LDS"),
    ("st.shared", "STS"),
    ("shfl", "SHFL"),
    ("bar.sync", "BAR"),
    ("bar.arrive", "BAR"),
];

/// Classes whose machine code may be fewer than its PTX: the assembler joins loads and stores of neighbours, drops barriers
/// of a single warp, folds exchanges whose result it knows, and takes an exponential once that is asked for twice.
const JOINED: [&str; 5] = ["LDS", "STS", "SHFL", "BAR", "MUFU.EX2"];

fn class_of_machine(name: &str, modifiers: &[String]) -> Option<&'static str> {
    let has = |modifier: &str| modifiers.iter().any(|own| own == modifier);
    CLASSES.iter().map(|(_, class)| *class).find(|class| match class.split_once('.') {
        Some((opcode, modifier)) => name == opcode && has(modifier),
        None => name == *class,
    })
}

fn machine_counts(machine: &Machine, launch: &gdn2_clock::launch::Launch) -> BTreeMap<&'static str, u64> {
    let mut counts = BTreeMap::new();
    for block in 0..launch.blocks() {
        let walked = walk(&machine.program, &machine.entry, launch, launch.coordinates(block)).unwrap();
        assert!(walked.notes.is_empty(), "{}: {:?}", machine.entry.name, walked.notes);
        for step in walked.executed() {
            let instruction = &machine.program.instructions[step.instruction as usize];
            if let Some(class) = class_of_machine(&instruction.name, &instruction.modifiers) {
                *counts.entry(class).or_insert(0) += 1;
            }
        }
    }
    counts
}

fn ptx_counts(report: &Report) -> BTreeMap<&'static str, u64> {
    let mut counts = BTreeMap::new();
    for count in &report.counters.as_ref().unwrap().instructions {
        let text = count.instruction.trim_start();
        let text =
            if text.starts_with('@') { text.split_once(char::is_whitespace).unwrap().1.trim_start() } else { text };
        if let Some((_, class)) = CLASSES.iter().find(|(begins, _)| text.starts_with(begins)) {
            *counts.entry(*class).or_insert(0) += count.executed;
        }
    }
    counts
}

fn check(artifact: &Artifact, disassembler: &Nvdisasm, reports: &[Report], shape: Shape) -> Vec<String> {
    let mut wrong = Vec::new();
    let disassembly = disassembler.encoded_sass(artifact.cubin.as_ref().unwrap()).unwrap();
    let launches = launches_of(&artifact.kernel, shape).unwrap();
    assert_eq!(launches.len(), reports.len());
    for ((index, launch), report) in launches.iter().zip(reports) {
        let entry = &artifact.kernel.launches[*index].entry;
        let machine = Machine::read(artifact.cubin.as_ref().unwrap(), &disassembly, Some(entry)).unwrap();
        let (walked, ran) = (machine_counts(&machine, launch), ptx_counts(report));
        println!(
            "{entry} {} {}\n  walked {walked:?}\n  ran    {ran:?}",
            artifact.kernel.arch, artifact.kernel.schedule
        );
        for (_, class) in CLASSES {
            let (walked, ran) = (walked.get(class).copied().unwrap_or(0), ran.get(class).copied().unwrap_or(0));
            let fits = if JOINED.contains(&class) { walked <= ran } else { walked == ran };
            if !fits {
                wrong.push(format!("{entry} {}, {class}: walked {walked}, ran {ran}", artifact.kernel.schedule));
            }
        }
    }
    wrong
}

#[test]
fn walked_counts_are_those_of_the_virtual_machine() {
    let search = Search::from_environment(None, None);
    let Ok(disassembler) = Nvdisasm::find(&search) else { return println!("no nvdisasm: nothing compared") };
    let compiler = Compiler::new(search);
    if compiler.nvrtc().is_err() {
        return println!("no NVRTC: nothing compared");
    }
    let mut wrong = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for name in ["gdn", "kda", "gdn2", "gdn_layer", "gdn2_layer"] {
        let text = std::fs::read_to_string(root.join(format!("rules/{name}.gdn2"))).unwrap();
        let rule = gdn2_dsl::parse_file(&text).unwrap().remove(0);
        for (arch, pass, fields) in [
            (Arch::Sm90a, Pass::Forward, ""),
            (Arch::Sm90a, Pass::Forward, "matrix=wgmma,segments=2"),
            (Arch::Sm80, Pass::Forward, ""),
            (Arch::Sm120, Pass::Forward, ""),
            (Arch::Sm90a, Pass::ForwardForBackward, ""),
            (Arch::Sm90a, Pass::Decode, ""),
        ] {
            let tokens = if pass == Pass::Decode { 1 } else { 256 };
            let shape = Shape { batch: 1, tokens, key_heads: 1, value_heads: 1 };
            let schedule = Schedule::from_overrides(&rule, pass, arch, fields).unwrap();
            let artifact = compiler.compile(bind(&rule, pass, schedule, arch).unwrap()).unwrap();
            let draw = Draw::new(1, tokens as usize, 1, 1, 1);
            let mut case = Case::drawn_inputs(&rule, &draw, false).unwrap();
            case.tensors.remove(&Tensor::InitialState);
            let device = Device::Vm(vm::Settings { count: true, ..vm::Settings::default() });
            let run = Run { arch: Some(arch), tokens_per_launch: tokens as usize, ..Run::new(&rule, pass, &device) };
            let problem = Problem::new(&rule, &case).unwrap();
            let Ok(outcome) = execute(&run, Some(&artifact), &problem) else {
                println!("{name} {pass} {arch}: not run alone");
                continue;
            };
            wrong.extend(check(&artifact, &disassembler, &outcome.reports, shape));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
