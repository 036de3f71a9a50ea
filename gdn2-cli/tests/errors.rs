//! What the command says to input that is wrong: an error that names it, an exit code that is not 0, and no file.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use gdn2_codegen::abi::Tensor;
use gdn2_dsl::{Draw, parse_file};
use gdn2_runtime::tensors::{Array, Case, CuSeqlens};
use tempfile::TempDir;

const KDA: &str =
    "rule kda { decay: channel in [-5, 0]; erase: scalar; write: erase; key_dim: 32; value_dim: 16; dtype: bf16; }";

fn gdn2(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gdn2")).args(arguments).output().unwrap()
}

/// A folder with a rule and a good case of it.
struct Bench {
    folder: TempDir,
    case: Case,
}

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("kda.gdn2"), KDA).unwrap();
        let rule = parse_file(KDA).unwrap().remove(0);
        let case = Case::drawn(&rule, &Draw::new(2, 5, 1, 2, 7), false).unwrap();
        Bench { folder, case }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, inputs: &Path, device: &str) -> Output {
        let (rule, out) = (self.path("kda.gdn2"), self.path("out.safetensors"));
        let [rule, inputs, out] = [rule.as_path(), inputs, out.as_path()].map(|path| path.to_str().unwrap());
        gdn2(&["run", rule, "--pass", "forward", "--device", device, "--inputs", inputs, "--out", out])
    }

    /// Runs a spoilt copy of the case: it must fail, say each of `says` and write nothing, on cpu and vm alike.
    fn refuses(&self, spoil: impl Fn(&mut Case), says: &[&str]) {
        let mut case = self.case.clone();
        spoil(&mut case);
        let inputs = self.path("in.safetensors");
        std::fs::write(&inputs, case.to_bytes().unwrap()).unwrap();
        for device in ["cpu", "vm"] {
            self.refused(&self.run(&inputs, device), says);
        }
    }

    fn refused(&self, output: &Output, says: &[&str]) {
        let error = String::from_utf8_lossy(&output.stderr);
        // 2 where other arguments would do, 1 where other files would.
        assert!(matches!(output.status.code(), Some(1 | 2)), "{error}");
        assert!(output.stdout.is_empty());
        for word in says {
            assert!(error.contains(word), "no `{word}` in: {error}");
        }
        assert!(!error.contains("panicked"), "{error}");
        let left: Vec<String> = std::fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "kda.gdn2" && name != "in.safetensors")
            .collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

fn array(case: &mut Case, tensor: Tensor) -> &mut Array {
    case.tensors.get_mut(&tensor).unwrap()
}

#[test]
fn a_good_case_runs() {
    let bench = Bench::new();
    let inputs = bench.path("in.safetensors");
    std::fs::write(&inputs, bench.case.to_bytes().unwrap()).unwrap();
    let output = bench.run(&inputs, "cpu");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let out = Case::load(&bench.path("out.safetensors")).unwrap();
    assert_eq!(out.tensors[&Tensor::O].shape, bench.case.tensors[&Tensor::O].shape);
}

#[test]
fn truncated_files() {
    let bench = Bench::new();
    let whole = bench.case.to_bytes().unwrap();
    let inputs = bench.path("in.safetensors");
    for keep in [0, 4, 8, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&inputs, &whole[..keep]).unwrap();
        bench.refused(&bench.run(&inputs, "cpu"), &["in.safetensors", "safetensors"]);
    }
    std::fs::remove_file(&inputs).unwrap();
    bench.refused(&bench.run(&inputs, "cpu"), &["in.safetensors", "No such file"]);
}

#[test]
fn wrong_shapes() {
    let bench = Bench::new();
    bench.refuses(|case| array(case, Tensor::K).shape = vec![2, 5, 32], &["k", "[2, 5, 32]"]);
    bench.refuses(|case| array(case, Tensor::V).shape = vec![2, 5, 1, 32], &["[2, 5, 1, 32]"]);
    bench.refuses(|case| array(case, Tensor::InitialState).shape = vec![2, 2, 16, 32], &["initial_state"]);
    let offsets = |offsets: &[i64]| Some(CuSeqlens { offsets: offsets.to_vec(), is_64: false });
    bench.refuses(|case| case.cu_seqlens = offsets(&[0, 5]), &["cu_seqlens"]);
}

#[test]
fn wrong_storage() {
    let bench = Bench::new();
    let bytes = bench.case.to_bytes().unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
    let integers = header.replacen("\"dtype\":\"F32\"", "\"dtype\":\"I32\"", 1);
    assert_ne!(header, integers);
    let inputs = bench.path("in.safetensors");
    std::fs::write(&inputs, [&bytes[..8], integers.as_bytes(), &bytes[8 + length..]].concat()).unwrap();
    bench.refused(&bench.run(&inputs, "cpu"), &["I32"]);
}

#[test]
fn numbers_no_kernel_may_get() {
    let bench = Bench::new();
    bench.refuses(|case| array(case, Tensor::Q).data[33] = f32::NAN, &["q[0, 1, 0, 1]", "NaN"]);
    bench.refuses(|case| array(case, Tensor::InitialState).data[0] = f32::INFINITY, &["initial_state[0, 0, 0, 0]"]);
    bench.refuses(|case| array(case, Tensor::G).data[2] = 0.5, &["g[0, 0, 0, 2]", "0.5"]);
    bench.refuses(|case| array(case, Tensor::G).data[3] = -6.0, &["g[0, 0, 0, 3]", "-6", "-5"]);
}

#[test]
fn gates_the_rule_does_not_have() {
    let bench = Bench::new();
    let gate = |case: &Case| case.tensors[&Tensor::B].clone();
    bench.refuses(|case| drop(case.tensors.insert(Tensor::W, gate(case))), &["w", "b serves both"]);
    bench.refuses(|case| drop(case.tensors.remove(&Tensor::B)), &["b", "missing"]);
    let renamed = |bytes: Vec<u8>| {
        let at = bytes.windows(4).position(|four| four == b"\"b\":").unwrap();
        [&bytes[..at], b"\"z\":", &bytes[at + 4..]].concat()
    };
    let inputs = bench.path("in.safetensors");
    std::fs::write(&inputs, renamed(bench.case.to_bytes().unwrap())).unwrap();
    bench.refused(&bench.run(&inputs, "cpu"), &["z", "known are"]);
}

#[test]
fn slots_that_overlap_or_are_not_there() {
    let bench = Bench::new();
    bench.refuses(|case| case.final_slots = Some(vec![1, 1]), &["final_slots[1]", "must differ"]);
    bench.refuses(|case| case.final_slots = Some(vec![0, 2]), &["final_slots[1]", "2"]);
    bench.refuses(|case| case.initial_slots = Some(vec![0, 9]), &["initial_slots[1]", "9"]);
    bench.refuses(|case| case.initial_slots = Some(vec![0]), &["initial_slots"]);
}

#[test]
fn rule_files_of_noise() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("noise.gdn2");
    let mut state = 1u64;
    for length in [0, 1, 100, 10_000] {
        let noise: Vec<u8> = (0..length)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        std::fs::write(&file, noise).unwrap();
        let path = file.to_str().unwrap();
        let out = folder.path().join("out");
        for arguments in [
            vec!["check", path],
            vec!["emit", path, "--emit", "cuda", "-o", out.to_str().unwrap()],
            vec!["case", path, "--shape", "B=1,T=2,H=1", "-o", out.to_str().unwrap()],
        ] {
            let output = gdn2(&arguments);
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
            assert!(error.contains("noise.gdn2") && !error.contains("panicked"), "{error}");
            assert!(!out.exists());
        }
    }
}

#[test]
fn every_mistake_of_a_rule_file_is_reported_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.gdn2");
    std::fs::write(
        &file,
        "rule x { decay: chanel; erase: none; write: erase; key_dim: 17; value_dim: 16; dtype: bf16; }",
    )
    .unwrap();
    let error = String::from_utf8(gdn2(&["check", file.to_str().unwrap()]).stderr).unwrap();
    for word in ["chanel", "channel", "write", "17", "3 mistakes"] {
        assert!(error.contains(word), "no `{word}` in: {error}");
    }
}

#[test]
fn arguments_that_mean_nothing() {
    let bench = Bench::new();
    let rule = bench.path("kda.gdn2");
    let (rule, out) = (rule.to_str().unwrap(), bench.path("out"));
    let out = out.to_str().unwrap();
    let other = format!("{rule}#gdn");
    for (arguments, says) in [
        (vec!["emit", &other, "--emit", "plan"], "no rule `gdn`"),
        (vec!["emit", rule, "--emit", "cuda", "--schedule", "chnk=64", "-o", out], "chnk"),
        (vec!["emit", rule, "--emit", "cuda", "--schedule", "chunk=24", "-o", out], "illegal: chunk"),
        (vec!["emit", rule, "--emit", "cuda", "--key-dim", "24", "-o", out], "key_dim"),
        (vec!["case", rule, "--shape", "B=2,T=5,H=1", "--seqlens", "2,3", "-o", out], "B=1"),
        (vec!["case", rule, "--shape", "B=1,T=5,H=1", "-o", "/nowhere/out"], "/nowhere/out"),
        (vec!["run", rule, "--device", "gpu", "--inputs", rule, "--out", out], "vm, cpu"),
        (vec!["bench", rule, "--shape", "B=1,T=5,H=1", "--device", "vm"], "cuda:N"),
        (vec!["bench", rule, "--shape", "B=1,T=5,H=1", "--device", "cuda:99"], "cuda"),
        (vec!["verify", "--cases", rule, "--device", "cpu:f32"], "vm, cpu"),
    ] {
        bench.refused(&gdn2(&arguments), &[says]);
    }
}

/// Checks that never ran found nothing, and are not said to have.
#[test]
fn a_case_that_is_not_there_passes_no_checks() {
    let said = |case: &str| {
        let output = gdn2(&["verify", "--cases", case, "--pass", "forward", "--device", "vm"]);
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, missing) = said("nowhere.safetensors");
    assert!(code == Some(1) && missing.contains("1 failed") && !missing.contains("no findings"), "{missing}");
    let (code, there) = said(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/cases/gdn_d16_empty.safetensors"));
    assert!(code == Some(0) && there.contains("no findings of the virtual machine's full checks"), "{there}");
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_with_a_way_on() {
    let bench = Bench::new();
    let inputs = bench.path("in.safetensors");
    std::fs::write(&inputs, bench.case.to_bytes().unwrap()).unwrap();
    bench.refused(&bench.run(&inputs, "cuda:99"), &["cuda"]);
}

/// `gdn2 vm` on a kernel that adds 1 to `n` words, launched as `launch` says.
fn vm(folder: &Path, ptx: &str, launch: &str) -> (Option<i32>, String) {
    let (text, json) = (folder.join("kernel.ptx"), folder.join("launch.json"));
    std::fs::write(&text, ptx).unwrap();
    std::fs::write(&json, launch).unwrap();
    let (text, json) = (text.to_str().unwrap(), json.to_str().unwrap());
    let output = gdn2(&["vm", text, "--launch", json, "--max-instructions", "10000"]);
    let said = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    (output.status.code(), said.concat())
}

#[test]
fn launches_of_foreign_kernels_that_mean_nothing() {
    const PTX: &str = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry add(.param .u64 x, .param .u32 n)\n{\n\
        .reg .pred %p<2>;\n.reg .b32 %r<4>;\n.reg .b64 %x<3>;\nld.param.u64 %x0, [x];\nld.param.u32 %r0, [n];\n\
        mov.u32 %r1, %tid.x;\nsetp.ge.u32 %p0, %r1, %r0;\n@%p0 ret;\nmad.wide.u32 %x1, %r1, 4, %x0;\n\
        ld.global.u32 %r2, [%x1];\nadd.u32 %r2, %r2, 1;\nst.global.u32 [%x1], %r2;\nret;\n}\n";
    const LAUNCH: &str = r#"{"grid": [1], "block": [64], "buffers": {"x": {"bytes": 256, "fill": "zero"}},
        "args": [{"buffer": "x"}, {"i32": 64}]}"#;
    let folder = tempfile::tempdir().unwrap();
    let (code, said) = vm(folder.path(), PTX, LAUNCH);
    assert_eq!(code, Some(0), "{said}");
    for (from, to, says) in [
        ("256", "128", &["out of bounds", "buffer `x`", "128", "-lineinfo"][..]),
        ("\"bytes\": 256", "\"bytes\": 99999999999999", &["buffer `x`", "4294967296"]),
        ("\"bytes\": 256", "\"shape\": [4294967296, 4294967296, 16]", &["buffer `x`", "4294967296"]),
        ("\"bytes\": 256", "\"file\": \"nowhere.safetensors\"", &["nowhere.safetensors"]),
        (", {\"i32\": 64}", "", &["1 arguments", "takes 2", "x (8 bytes)", "n (4 bytes)"]),
        ("{\"i32\": 64}", "{\"i64\": 64}", &["`n` has 8 bytes", "4"]),
        ("{\"i32\": 64}", "{\"u33\": 64}", &["args[1]", "i32", "tensor_map", "u33"]),
        ("{\"i32\": 64}", "{\"i32\": 99999999999}", &["args[1]", "32 bits"]),
        ("{\"buffer\": \"x\"}", "{\"buffer\": \"y\"}", &["args[0]", "no buffer `y`", "x"]),
        ("[1]", "[0]", &["dimension is 0"]),
        ("[1]", "[2147483647, 65535]", &["at most 16777216"]),
        ("[1]", "[-1]", &["launch.json", "line 1"]),
        ("[1]", "[1, 1, 1, 1]", &["grid has 4 numbers"]),
        ("[64]", "[4096]", &["4096 threads", "1024"]),
        ("\"grid\": [1],", "", &["launch.json", "grid"]),
        ("\"grid\": [1],", "\"grid\": [1], \"shared_bytes\": 4000000000,", &["shared memory", "per block"]),
        ("\"grid\": [1],", "\"grid\": [1], \"colour\": 1,", &["colour"]),
        ("}", "", &["launch.json"]),
    ] {
        let (code, said) = vm(folder.path(), PTX, &LAUNCH.replacen(from, to, 1));
        assert!(matches!(code, Some(1 | 2)), "{code:?} {said}");
        assert!(says.iter().all(|what| said.contains(what)), "{to}: {said}");
    }
    for (from, to, says) in [
        ("add.u32 %r2", "tex.u32 %r2", &["line 16", "does not know `tex.u32"][..]),
        ("ret;\nmad", "ret;\nL: bra L;\nmad", &["deadlock", "changes nothing"]),
        ("ret;\nmad", "ret;\nL: ld.global.u32 %r3, [%x0];\nbra L;\nmad", &["runaway", "--max-instructions"]),
        (".visible .entry", ".visible .func", &["no kernel"]),
        ("{\n", "", &["line"]),
        ("%r2, 1;", "%r9, 1;", &["line 16"]),
    ] {
        let (code, said) = vm(folder.path(), &PTX.replacen(from, to, 1), LAUNCH);
        assert!(matches!(code, Some(1 | 2)), "{code:?} {said}");
        assert!(says.iter().all(|what| said.contains(what)), "{to}: {said}");
    }
    let (code, said) = vm(folder.path(), "", LAUNCH);
    assert!(matches!(code, Some(1 | 2)) && said.contains("no kernel"), "{said}");
}
