//! Counts that can be worked out on paper, through the commands that print them.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use serde_json::Value;
use std::path::Path;
use std::process::Command;

fn json(folder: &Path, args: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_gdn2")).current_dir(folder).args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn micro_asks_what_the_explanations_answer_differently() {
    let folder = tempfile::tempdir().unwrap();
    let printed = json(folder.path(), &["micro", "--device", "vm", "--json"]);
    let rows = printed["rows"].as_array().unwrap();
    let clocks = |question: &str, by: &str| {
        let row = rows.iter().find(|row| row["question"] == question).unwrap();
        assert!(row["measured"].is_null(), "the virtual machine measures nothing: {row}");
        row[by].as_f64().unwrap()
    };
    // 16 products of 64 x 64 x 16 at 2,048 multiply-adds a clock, and no faster.
    assert!(clocks("chain of 16", "data_sheet") >= 512.0);
    assert!(clocks("chain of 16, two warpgroups", "data_sheet") >= 1024.0);
    // One chain is slower if the chain is slow, two accumulators in turns if the pipe is.
    let ratio = |question: &str| clocks(question, "in_a_chain") / clocks(question, "on_the_pipe");
    assert!(ratio("chain of 16") > 1.2 && ratio("chain of 16 on two accumulators") < 0.9, "{printed:#}");
    // A thread that asks for a row at a time is behind one that asks for tiles.
    let copies = printed["copies"].as_array().unwrap();
    let [lanes, rows, tiles] = [0, 1, 2].map(|at| copies[at]["predicted"].as_f64().unwrap());
    assert!(copies.iter().all(|row| row["arrived"].is_null()) && rows > 4.0 * tiles && lanes > 0.0, "{copies:?}");
}

/// Linear attention of one chunk of 16 tokens, 16 key and 16 value channels, in one warp: all of it fits on paper.
#[test]
fn profile_of_one_chunk_of_linear_attention() {
    let folder = tempfile::tempdir().unwrap();
    let rule = "rule linear { decay: none; erase: none; write: none; key_dim: 16; value_dim: 16; dtype: bf16; }";
    std::fs::write(folder.path().join("linear.gdn2"), rule).unwrap();
    let args = ["profile", "linear.gdn2", "--device", "vm", "--shape", "B=1,T=16,H=1", "--schedule", "chunk=16"];
    let profile = json(folder.path(), &[&args[..], &["--annotate", "annotated.cu", "--json"]].concat());
    let total = |name: &str| profile["total"][name].as_u64().unwrap();

    // Bytes: q, k, v of 16 x 16 bf16 and a state of 16 x 16 f32 are read; o and the state are written.
    let (tensor, state) = (16 * 16 * 2, 16 * 16 * 4);
    assert_eq!(total("global_read_bytes"), 3 * tensor + state);
    assert_eq!(total("global_write_bytes"), tensor + state);
    assert_eq!(profile["floor"]["global_bytes"], 4 * tensor + 2 * state);

    // Matrix operations: Q K^T, P V, Q S and K^T V, each 16 x 16 x 16 and so two m16n8k16.
    assert_eq!(total("matrix_fmas"), 4 * 16 * 16 * 16);
    assert_eq!(profile["total"]["by_class"]["matrix"], 4 * 2);

    // Shared memory, 128 bytes a wavefront. In: q and k 512 bytes each in one copy of 16 bytes a lane, v in two copies
    // of 8 bytes a lane. Operands: Q and K for the scores, Q for Q S, P for P V and K^T for the state, each a block of
    // 512 bytes. V: two loads of 8 bytes a lane. P: four stores of 4 bytes a lane. No bank is asked for twice.
    let (copies, blocks, values, scores) = (4 + 4 + 2 + 2, 5 * 4, 2 * 2, 4);
    assert_eq!(total("shared_wavefronts"), copies + blocks + values + scores);
    assert_eq!(total("bank_conflicts"), 0);

    // Stages hold what they call: all products are the kernel's, and all but Q K^T are those of the state.
    let (all, kernel) = (&profile["calls"], &profile["calls"]["calls"]["linear_forward"]);
    assert_eq!(all["instructions"], profile["total"]["instructions"]);
    assert_eq!(kernel["matrix_fmas"], profile["total"]["matrix_fmas"]);
    // By the plan: nothing is solved or decayed, and all of it is somewhere.
    let parts = profile["parts"].as_object().unwrap();
    let names: Vec<&str> = parts.keys().map(String::as_str).collect();
    assert_eq!(names, ["copies", "elsewhere", "outputs", "scores", "state"]);
    let instructions = parts.values().map(|part| part["instructions"].as_u64().unwrap());
    assert_eq!(instructions.sum::<u64>(), profile["total"]["instructions"].as_u64().unwrap());
    assert_eq!(kernel["calls"]["advance_state"]["matrix_fmas"], 3 * 16 * 16 * 16);

    // The source carries the same counts: the line of the only mma has all products.
    let source = std::fs::read_to_string(folder.path().join("annotated.cu")).unwrap();
    let products: Vec<&str> = source.lines().filter(|line| line.contains(" 16384 ")).collect();
    assert_eq!(products.len(), 1, "{products:?}");
}

/// One warp stores a word a lane, `stride` bytes apart, and every lane reads the first word back.
fn strided(stride: u32) -> String {
    format!(
        ".version 7.8\n.target sm_80\n.address_size 64\n.visible .entry k()\n{{\n.shared .align 16 .b8 tile[4096];\n\
         .reg .b32 %r<4>;\nmov.u32 %r0, %tid.x;\nmov.u32 %r1, tile;\nmad.lo.u32 %r2, %r0, {stride}, %r1;\n\
         st.shared.u32 [%r2], %r0;\nbar.warp.sync -1;\nld.shared.u32 %r3, [%r1];\nret;\n}}\n"
    )
}

#[test]
fn bank_conflicts_of_strided_stores() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("launch.json"), r#"{"grid": [1], "block": [32], "args": []}"#).unwrap();
    // 32 banks of 4 bytes: a stride of s words meets each bank it uses gcd(s, 32) times.
    for (stride, times) in [(4, 1), (8, 2), (12, 1), (16, 4), (64, 16), (128, 32), (124, 1)] {
        std::fs::write(folder.path().join("k.ptx"), strided(stride)).unwrap();
        let report = json(folder.path(), &["vm", "k.ptx", "--launch", "launch.json", "--count", "--json"]);
        let counters = &report["counters"];
        // The read of one word by all is one pass.
        assert_eq!(counters["shared_wavefronts"], times + 1, "stride {stride}");
        assert_eq!(counters["shared_ideal_wavefronts"], 2, "stride {stride}");
    }
}

#[test]
fn conformance_on_the_virtual_machine() {
    let folder = tempfile::tempdir().unwrap();
    let printed = json(folder.path(), &["conformance", "--device", "vm", "--kernel", "mma.", "--out", ".", "--json"]);
    let rows = printed["rows"].as_array().unwrap();
    assert!(rows.len() >= 8 && printed["passed"] == rows.len() && printed["failed"] == 0, "{printed}");
    let bytes = std::fs::read(folder.path().join("vm.safetensors")).unwrap();
    let outputs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(outputs.len(), rows.len());
}
