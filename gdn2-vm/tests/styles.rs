//! PTX as other compilers write it: functions that are called, branch tables, variables with contents, arguments in
//! parameter space; and what the machine must refuse.
#![allow(clippy::unwrap_used, missing_docs)]

use gdn2_vm::{Check, Fault, Landing, Launch, Limits, LoadError, Memory, Module, Report, Trap, Value, run};

const STYLES: &str = include_str!("ptx/styles.ptx");

fn go(ptx: &str, entry: &str, args: &[Value], memory: &mut Memory) -> Result<Report, Trap> {
    let launch = Launch {
        entry,
        grid: [1, 1, 1],
        block: [64, 1, 1],
        shared_bytes: 256,
        args,
        limits: Limits { shared_per_block: 48 << 10, threads_per_block: 1024, sm: 80 },
        check: Check::Full,
        landing: Landing::Early,
        order: None,
        outputs: &[],
        count: false,
        instructions: gdn2_vm::INSTRUCTIONS,
    };
    run(&Module::parse(ptx).unwrap(), &launch, memory)
}

fn collatz(mut n: u32) -> u32 {
    let mut steps = 0;
    while n != 1 {
        n = if n % 2 == 1 { 3 * n + 1 } else { n / 2 };
        steps += 1;
    }
    steps
}

#[test]
fn functions_tables_and_parameters() {
    let mut memory = Memory::new();
    let out = memory.poisoned("out", 64 * 4);
    let pair = [7u32, 100].map(u32::to_le_bytes).concat();
    let report = go(STYLES, "styles", &[Value::Pointer(out.0), Value::Bytes(pair)], &mut memory).unwrap();
    assert_eq!(report.findings, []);
    for (i, bytes) in memory.read(out).chunks_exact(4).enumerate() {
        let lane = i as u32;
        let called = if lane % 2 == 1 { collatz(lane + 1) } else { 0 };
        let chosen = [10, 6, lane.wrapping_sub(2), 40][i % 4];
        let expected = (lane * 7 + 100).wrapping_add(called).wrapping_add(chosen);
        assert_eq!(u32::from_le_bytes(bytes.try_into().unwrap()), expected, "thread {lane}");
    }
}

#[test]
fn a_failed_assertion_is_a_trap() {
    go(STYLES, "asserts", &[Value::I32(3)], &mut Memory::new()).unwrap();
    let trap = go(STYLES, "asserts", &[Value::I32(4)], &mut Memory::new()).unwrap_err();
    assert_eq!(trap.fault, Fault::TrapInstruction);
    assert!(trap.place.unwrap().instruction.contains("__assertfail"));
}

/// What is wrong with the text, and on which line.
fn refused(ptx: &str) -> (u32, String) {
    match Module::parse(ptx).unwrap_err() {
        LoadError::Unknown { line, instruction } => (line, instruction),
        error => panic!("{error}"),
    }
}

#[test]
fn what_is_not_known_is_refused_with_its_line() {
    let line_of = |text: &str, what: &str| text.lines().position(|l| l.contains(what)).unwrap() as u32 + 1;
    let recursive = STYLES.replacen(
        "mov.u64 \t%SPL, __local_depot1;",
        "call.uni (func_retval0), scaled, (scaled_param_0, scaled_param_1);",
        1,
    );
    let line = line_of(&recursive, "call.uni (func_retval0), scaled");
    let refusal = LoadError::Recursive { line, function: "scaled".to_owned() };
    assert_eq!(Module::parse(&recursive).unwrap_err(), refusal);
    for unknown in [
        "tex.1d.v4.f32.s32 {%f1, %f2, %f3, %f4}, [table, {%r1}];",
        "call.uni nowhere;",
        "suld.b.1d.b32.trap {%r1}, [table, {%r1}];",
    ] {
        let text = STYLES.replacen("mov.u32 \t%r3, %tid.x;", &format!("{unknown}\n\tmov.u32 \t%r3, %tid.x;"), 1);
        let text = text.replacen(".reg .b16 \t%rs<4>;", ".reg .b16 \t%rs<4>;\n\t.reg .f32 %f<5>;", 1);
        let (line, instruction) = refused(&text);
        assert_eq!((line, instruction.as_str()), (line_of(&text, unknown), unknown));
    }
}

#[test]
fn a_trap_keeps_what_was_found_before_it() {
    // The word is read before anything wrote it; then the store runs past the end.
    let ptx = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p)\n{\n.reg .b64 %x<2>;\n\
               .reg .b32 %r<2>;\nld.param.u64 %x0, [p];\nld.global.u32 %r0, [%x0];\nst.global.u32 [%x0+256], %r0;\nret;\n}\n";
    let mut memory = Memory::new();
    let buffer = memory.poisoned("buffer", 256);
    let trap = go(ptx, "k", &[Value::Pointer(buffer.0)], &mut memory).unwrap_err();
    assert!(matches!(trap.fault, Fault::OutOfBounds { .. }), "{trap}");
    assert_eq!(trap.findings.iter().map(|f| f.rule).collect::<Vec<_>>(), [gdn2_vm::Rule::UninitialisedGlobal]);
    assert!(trap.to_string().contains("uninitialised global memory"), "{trap}");
}
