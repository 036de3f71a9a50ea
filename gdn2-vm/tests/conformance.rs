//! Every conformance kernel on the machine gives what its scalar definition says.
#![allow(clippy::unwrap_used)]

use gdn2_vm::conformance::{Kernel, kernels};
use gdn2_vm::{Check, Landing, Launch, Limits, Memory, Module, Value, run};

fn output(kernel: &Kernel) -> Result<Vec<u8>, String> {
    let module = Module::parse(&kernel.ptx).map_err(|error| error.to_string())?;
    let mut memory = Memory::new();
    let mut args: Vec<Value> =
        kernel.inputs.iter().map(|bytes| Value::Pointer(memory.upload("input", bytes).0)).collect();
    let out = memory.poisoned("output", kernel.expected.bytes());
    args.push(Value::Pointer(out.0));
    let limits = Limits { shared_per_block: 48 << 10, threads_per_block: 1024, sm: kernel.sm };
    let launch = Launch {
        entry: "k",
        grid: [1, 1, 1],
        block: [kernel.threads, 1, 1],
        shared_bytes: 0,
        args: &args,
        limits,
        check: Check::Full,
        landing: Landing::Late,
        order: None,
        outputs: &[],
        count: false,
    };
    run(&module, &launch, &mut memory).map_err(|trap| trap.to_string())?;
    Ok(memory.read(out).to_vec())
}

#[test]
fn every_kernel_gives_what_its_definition_says() {
    let mut wrong = Vec::new();
    for kernel in kernels() {
        match output(&kernel) {
            Ok(bytes) => wrong.extend(kernel.expected.compare(&kernel.name, &bytes).err().map(|e| e.to_string())),
            Err(error) => wrong.push(format!("{}: {error}", kernel.name)),
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
