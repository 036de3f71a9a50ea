//! What the full checks find in small kernels, each beside the right one that differs by a statement, and what they must
//! not find.
#![allow(clippy::unwrap_used, missing_docs)]

mod asynchronous;
mod grouping;
mod order;
mod registers;

use gdn2_vm::{Check, Fault, Landing, Launch, Limits, Memory, Module, Report, Rule, Trap, Value, run};

/// A kernel over `out` (in %rd1, 4 KiB) and `in` (in %rd2), thread number in %r1.
fn kernel(declarations: &str, body: &str) -> String {
    format!(
        ".version 8.6\n.target sm_90a\n.address_size 64\n\
         .visible .entry k(.param .u64 out, .param .u64 in)\n{{\n\
         .reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<40>; .reg .b64 %rd<20>; .reg .f32 %f<9>;\n{declarations}\n\
         ld.param.u64 %rd1, [out];\nld.param.u64 %rd2, [in];\nmov.u32 %r1, %tid.x;\n{body}\n}}\n"
    )
}

/// What is out after the launch, and its report.
fn launched(ptx: &str, threads: u32, landing: Landing) -> Result<(Vec<u8>, Report), Trap> {
    let mut memory = Memory::new();
    let out = memory.upload("out", &[0; 4096]);
    let input: Vec<u8> = (0..4096u32).flat_map(|i| (i * 3 + 1).to_le_bytes()).collect();
    let input = memory.upload("in", &input);
    let launch = Launch {
        entry: "k",
        grid: [1, 1, 1],
        block: [threads, 1, 1],
        shared_bytes: 0,
        args: &[Value::Pointer(out.0), Value::Pointer(input.0)],
        limits: Limits { shared_per_block: 48 << 10, threads_per_block: 1024, sm: 90 },
        check: Check::Full,
        landing,
        order: None,
        outputs: &[],
        count: false,
        instructions: gdn2_vm::INSTRUCTIONS,
    };
    let report = run(&Module::parse(ptx).unwrap(), &launch, &mut memory)?;
    Ok((memory.read(out).to_vec(), report))
}

/// Memory after the launch, and the rules that were broken, each once.
fn found(ptx: &str, threads: u32, landing: Landing) -> Result<(Vec<u32>, Vec<Rule>), Trap> {
    let (bytes, report) = launched(ptx, threads, landing)?;
    let mut rules: Vec<Rule> = report.findings.iter().map(|f| f.rule).collect();
    rules.dedup();
    let words = bytes.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect();
    Ok((words, rules))
}

/// The rules broken when copies land at once; when they land late the same is wrong, or a result differs or traps.
fn rules(ptx: &str, threads: u32) -> Vec<Rule> {
    let (_, early) = found(ptx, threads, Landing::Early).unwrap();
    if let Ok((_, late)) = found(ptx, threads, Landing::Late) {
        assert_eq!(early.is_empty(), late.is_empty(), "early {early:?}, late {late:?}");
    }
    early
}

fn fault(ptx: &str, threads: u32) -> Fault {
    found(ptx, threads, Landing::Early).unwrap_err().fault
}
