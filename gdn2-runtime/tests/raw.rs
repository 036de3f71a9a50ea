//! The raw layer refuses what would run out of a tensor or misalign a load, before anything is launched.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use gdn2_codegen::abi::{Arg, Axis, Condition, Extent, Factor, Tensor, Workspace};
use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::{Kernel, Pass};
use gdn2_codegen::schedule::Schedule;
use gdn2_dsl::{Combination, Dtype, Grain};
use gdn2_runtime::raw::Value;
use gdn2_runtime::raw::{Arguments, RawError, View, grid, resolve, workspace_bytes};

fn kernel() -> Kernel {
    let gates = Combination { decay: Grain::Channel, erase: Grain::Scalar, write: None };
    let rule = gates.rule(64, 64, Dtype::Bf16).unwrap();
    let schedule = Schedule::default_for(&rule, Pass::Forward, Arch::Sm80).unwrap();
    gdn2_codegen::bind(&rule, Pass::Forward, schedule, Arch::Sm80).unwrap()
}

fn call() -> Arguments {
    let wide = |address| View { address, batch: 12_800, token: 128, head: 64 };
    Arguments {
        q: wide(0x1000),
        k: wide(0x2000),
        v: wide(0x3000),
        g: wide(0x4000),
        b: View { address: 0x5004, batch: 200, token: 2, head: 1 },
        o: wide(0x6000),
        sequences: 3,
        tokens: 100,
        key_heads: 2,
        value_heads: 2,
        scale: 0.125,
        ..Arguments::default()
    }
}

fn refusal(change: impl Fn(&mut Arguments)) -> String {
    let mut wrong = call();
    change(&mut wrong);
    wrong.check(&kernel()).unwrap_err().to_string()
}

#[test]
fn a_sound_call_passes() {
    assert_eq!(call().check(&kernel()), Ok(()));
    let empty = Arguments { sequences: 0, tokens: 0, q: View::default(), ..call() };
    assert_eq!(empty.check(&kernel()), Ok(()));
}

#[test]
fn each_fault_names_its_field() {
    assert_eq!(refusal(|call| call.tokens = -1), "tokens is -1, must not be negative");
    assert_eq!(
        refusal(|call| call.key_heads = 3),
        "value_heads is 2, must be a multiple of key_heads 3, and both at least 1"
    );
    assert_eq!(refusal(|call| call.k.address = 0), "k is null, the kernel needs it");
    assert_eq!(refusal(|call| call.v.address += 8), "v: address is 12296 bytes, must be a multiple of 16");
    assert_eq!(refusal(|call| call.q.token = 129), "q: token stride is 258 bytes, must be a multiple of 16");
    assert_eq!(refusal(|call| call.g.head = 2), "g: head stride is 8 bytes, must be a multiple of 16");
    assert_eq!(
        refusal(|call| call.final_state = 0x8008),
        "final_state: address is 32776 bytes, must be a multiple of 16"
    );
    assert_eq!(refusal(|call| call.b.address += 1), "b: address is 20485 bytes, must be a multiple of 2");
    assert_eq!(
        refusal(|call| call.o.batch = i64::MAX),
        format!("o: batch stride is {} bytes, must be a multiple of 16", i128::from(i64::MAX) * 2)
    );
}

#[test]
fn parameters_resolve_by_meaning() {
    let (kernel, call) = (kernel(), Arguments { cu_seqlens: 0x7000, cu_seqlens_is_64: 1, ..call() });
    let value = |arg| resolve(&kernel, &arg, &call, &[]).unwrap();
    assert_eq!(value(Arg::Pointer(Tensor::G)), Value::Pointer(0x4000));
    assert_eq!(value(Arg::Stride(Tensor::B, Axis::Token)), Value::I64(2));
    assert_eq!(value(Arg::Pointer(Tensor::InitialState)), Value::Pointer(0));
    assert_eq!(value(Arg::CuSeqlensIs64), Value::I32(1));
    assert_eq!(value(Arg::Scale), Value::F32(0.125));
    assert_eq!(call.extents().unwrap().total_tokens, 100, "packed: T is the total");
    let missing = resolve(&kernel, &Arg::Workspace("states".into()), &call, &[]);
    assert_eq!(missing, Err(RawError::Workspace("states".into())));
}

#[test]
fn grids_and_workspaces_that_overflow_are_refused() {
    let mut kernel = kernel();
    let extents = call().extents().unwrap();
    assert_eq!(extents.total_tokens, 300);
    let many = |times| Extent { factors: vec![Factor::TotalTokens], times };
    kernel.launches[0].grid = many(7_158_279);
    assert!(matches!(grid(&kernel.launches[0], extents), Err(RawError::Grid { blocks: Some(2_147_483_700), .. })));
    kernel.launches[0].grid = many(u64::MAX);
    assert!(matches!(grid(&kernel.launches[0], extents), Err(RawError::Grid { blocks: None, .. })));
    kernel.launches[0].grid = many(0);
    assert_eq!(grid(&kernel.launches[0], extents), Ok(0));
    let workspace =
        |times| Workspace { name: "states".into(), bytes: many(times), saved: false, when: Condition::Always };
    kernel.workspaces = vec![workspace(16), workspace(1)];
    assert_eq!(workspace_bytes(&kernel, extents), Ok(vec![4800, 300]));
    kernel.workspaces = vec![workspace(1 << 60)];
    assert_eq!(workspace_bytes(&kernel, extents), Err(RawError::WorkspaceSize("states".into())));
}
