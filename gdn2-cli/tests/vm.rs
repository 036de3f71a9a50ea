//! `gdn2 vm` on kernels as people have them: CUDA, several launches over one memory, what Triton keeps.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;
use std::process::Command;

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

/// Exit code, and all that was said.
fn vm(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gdn2"));
    command.current_dir(folder).arg("vm").args(arguments).env_remove("CLICOLOR_FORCE");
    let output = command.output().unwrap();
    let said = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    (output.status.code(), said.concat())
}

fn write(folder: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

const SCALE: &str = "#include \"step.h\"
template <class T> __global__ void scale(const T *x, T *y, T by) {
    int i = blockIdx.x * STEP + threadIdx.x;
    y[i] = x[i] * by + T(MORE);
}
";

#[test]
fn cuda_is_compiled_with_headers_macros_and_name_expressions() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, &[("scale.cu", SCALE), ("headers/step.h", "#define STEP 32\n")]);
    let flags = ["scale.cu", "-I", "headers", "-D", "MORE=1", "--entry", "scale<double>"];
    let (code, template) = vm(folder, &[&flags[..], &["--template", "--grid", "2", "--block", "32"]].concat());
    assert_eq!(code, Some(0), "{template}");
    let mut launch: serde_json::Value = serde_json::from_str(&template).unwrap();
    assert_eq!(launch["args"], serde_json::json!([{"buffer": "x"}, {"buffer": "y"}, {"f64": 1.0}]), "{template}");
    // As it came, the output is larger than what two blocks write.
    write(folder, &[("launch.json", &template)]);
    let run = [&flags[..], &["--launch", "launch.json"]].concat();
    let (code, said) = vm(folder, &run);
    assert!(code == Some(1) && said.contains("output not written") && said.contains("buffer `y`"), "{said}");
    launch["buffers"]["y"] = serde_json::json!({"dtype": "F64", "shape": [64], "output": true});
    launch["buffers"]["x"] = serde_json::json!({"dtype": "F64", "shape": [64], "fill": "index"});
    launch["args"][2] = serde_json::json!({"f64": 0.5});
    write(folder, &[("launch.json", &launch.to_string())]);
    let (code, said) = vm(folder, &[&run[..], &["--out", "y.safetensors"]].concat());
    assert!(code == Some(0) && said.contains("no findings"), "{said}");
    let file = std::fs::read(folder.join("y.safetensors")).unwrap();
    let y = SafeTensors::deserialize(&file).unwrap().tensor("y").unwrap().data().to_vec();
    let y: Vec<f64> = y.chunks_exact(8).map(|one| f64::from_le_bytes(one.try_into().unwrap())).collect();
    assert_eq!(y, (0..64).map(|i| f64::from(i) * 0.5 + 1.0).collect::<Vec<_>>());
    // Without its name a template is nothing; without its header it does not compile, and both say so.
    let (code, said) = vm(folder, &["scale.cu", "-Iheaders", "-DMORE=1", "--launch", "launch.json"]);
    assert!(code == Some(2) && said.contains("--entry"), "{said}");
    let (code, said) = vm(folder, &["scale.cu", "-DMORE=1", "--entry", "scale<float>", "--launch", "launch.json"]);
    assert!(code == Some(1) && said.contains("step.h"), "{said}");
    let (code, said) = vm(folder, &[&run[..], &["--vm-check", "basic"]].concat());
    assert!(code == Some(0) && said.contains("basic checks"), "{said}");
}

const TWO: &str = "
extern \"C\" __global__ void first(const unsigned short *x, float *y) {
    if (threadIdx.x < COUNT) y[threadIdx.x] = x[threadIdx.x];
}
extern \"C\" __global__ void second(const float *y, float *z) { z[threadIdx.x] = y[threadIdx.x] + 1; }
";

#[test]
fn launches_share_one_memory_and_what_is_unwritten_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let x: Vec<u8> = (0..32).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let x = TensorView::new(Dtype::F32, vec![32], &x).unwrap();
    std::fs::write(folder.join("x.safetensors"), safetensors::serialize([("x", x)], None).unwrap()).unwrap();
    let launch = r#"{"buffers": {"x": {"file": "x.safetensors", "as": "U16"}, "y": {"dtype": "F32", "shape": [32]},
          "z": {"dtype": "F32", "shape": [32], "output": true}},
        "launches": [{"entry": "first", "grid": [1], "block": [32], "args": [{"buffer": "x"}, {"buffer": "y"}]},
          {"kernel": "two.cu", "entry": "second", "grid": [1], "block": [32], "args": [{"buffer": "y"}, {"buffer": "z"}]}]}"#;
    write(folder, &[("two.cu", TWO), ("launch.json", launch)]);
    let run = |count: &str, more: &[&str]| {
        vm(folder, &[&["two.cu", "-D", count, "--launch", "launch.json"][..], more].concat())
    };
    let (code, said) = run("COUNT=32", &["--out", "z.safetensors"]);
    assert!(code == Some(0) && said.matches("no findings").count() == 2, "{said}");
    let file = std::fs::read(folder.join("z.safetensors")).unwrap();
    let z = SafeTensors::deserialize(&file).unwrap().tensor("z").unwrap().data().to_vec();
    assert_eq!(z, (0..32).flat_map(|i| (i as f32 + 1.0).to_le_bytes()).collect::<Vec<u8>>());
    let (code, said) = run("COUNT=31", &[]);
    assert!(code == Some(1) && said.contains("uninitialised global memory") && said.contains("two.cu:5"), "{said}");
    let (code, said) = run("COUNT=31", &["--json"]);
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, report["launches"][1]["findings"][0]["rule"].as_str()), (Some(1), Some("uninitialised-global")));
    for (from, to, says) in [
        (r#""as": "U16""#, r#""as": "F8_E4M3""#, "cannot be made"),
        (
            r#""dtype": "F32", "shape": [32], "output""#,
            r#""dtype": "F8_E5M2", "fill": 1, "shape": [32], "output""#,
            "fills",
        ),
        (r#""entry": "second""#, r#""entry": "third""#, "third"),
        (r#"{"buffer": "z"}"#, r#"{"buffer": "w"}"#, "launches[1]"),
        (r#""launches": [{"#, r#""launches": [{"buffers": {"y": {"bytes": 4}}, "#, "share one memory"),
        (r#""launches": ["#, r#""grid": [1], "launches": ["#, "grid"),
    ] {
        let spoilt = launch.replacen(from, to, 1);
        assert_ne!(spoilt, launch, "{from}");
        write(folder, &[("launch.json", &spoilt)]);
        let (code, said) = run("COUNT=32", &[]);
        assert!(matches!(code, Some(1 | 2)) && said.contains(says), "{to}: {said}");
    }
}

/// As Triton writes it: threads asked for, and two parameters of its own behind the kernel's.
const ADD: &str = ".version 8.7\n.target sm_90a\n.address_size 64\n.visible .entry add(\n.param .u64 .ptr .global .align 1 add_0,\n\
    .param .u64 .ptr .global .align 1 add_1,\n.param .u64 .ptr .global .align 1 add_2)\n.reqntid 64\n{\n.reg .b32 %r<3>;\n\
    .reg .b64 %rd<4>;\nld.param.b64 %rd1, [add_0];\nmov.u32 %r1, %tid.x;\nmul.wide.u32 %rd2, %r1, 4;\n\
    add.s64 %rd3, %rd1, %rd2;\nst.global.b32 [%rd3], %r1;\nret;\n}\n";

#[test]
fn kernels_are_taken_from_tritons_cache() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let metadata = r#"{"name": "add", "num_warps": 2, "num_stages": 3, "shared": 512, "target": {"arch": 90}}"#;
    let files = [
        ("cache/A1/add.ptx", ADD),
        ("cache/A1/add.json", metadata),
        ("cache/A1/__grp__add.json", r#"{"child_paths": {}}"#),
    ];
    write(folder, &files);
    let (code, template) = vm(folder, &["--from-triton", "cache", "--template"]);
    let launch: serde_json::Value = serde_json::from_str(&template).unwrap();
    assert!(code == Some(0) && launch["block"] == serde_json::json!([64]), "{template}");
    assert!(launch["args"].as_array().unwrap().len() == 1 && launch["shared_bytes"] == 512, "{template}");
    let given = r#"{"grid": [1], "buffers": {"x": {"dtype": "I32", "shape": [64], "output": true}}, "args": [{"buffer": "x"}]}"#;
    write(folder, &[("launch.json", given)]);
    let run = ["--from-triton", "cache", "--launch", "launch.json"];
    let (code, said) = vm(folder, &run);
    assert!(code == Some(0) && said.contains("no findings"), "{said}");
    // Which of two is not guessed.
    write(folder, &[("cache/B2/add.ptx", ADD), ("cache/B2/add.json", metadata)]);
    let (code, said) = vm(folder, &run);
    assert!(code == Some(2) && said.contains("compiled 2 times") && said.contains("B2"), "{said}");
    let (code, said) = vm(folder, &[&run[..], &["--entry", "mul"]].concat());
    assert!(code == Some(2) && said.contains("it has add"), "{said}");
    let (code, said) = vm(folder, &["--from-triton", ".", "--launch", "launch.json", "x.ptx"]);
    assert!(code == Some(2), "{said}");
    let (code, said) = vm(folder, &["--launch", "launch.json"]);
    assert!(code == Some(2) && said.contains("--from-triton"), "{said}");
}
