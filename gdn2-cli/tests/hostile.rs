//! Folders that somebody else filled: nothing in them runs, blocks or is overwritten by mistake.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Output};

const RULE: &str = "rule deep { decay: channel; erase: none; write: none; key_dim: 16; value_dim: 32; dtype: bf16; }";

fn gdn2(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().unwrap()
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gdn2"));
    command.current_dir(folder).args(arguments);
    command
}

#[test]
fn python_of_the_current_folder_is_never_run() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let trap = "import os; open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'ran'), 'w').write('x')\n";
    // Every module that python3 or pip could be looking for, as a file and as a package.
    for module in ["sysconfig", "site", "sitecustomize", "usercustomize", "os", "json", "runpy", "importlib"] {
        std::fs::write(at(&format!("{module}.py")), trap).unwrap();
    }
    std::fs::create_dir(at("pip")).unwrap();
    for file in ["pip/__init__.py", "pip/__main__.py"] {
        std::fs::write(at(file), trap).unwrap();
    }
    std::fs::write(at("deep.gdn2"), RULE).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let commands: [&[&str]; 3] =
        [&["devices"], &["emit", "deep.gdn2", "--emit", "resources"], &["toolchain", "install"]];
    for arguments in commands {
        for path in ["", "."] {
            // An empty cache, so that every place is asked, and no index, so that nothing is fetched.
            let output = command(folder.path(), arguments)
                .env("GDN2_CACHE", cache.path())
                .env("PYTHONPATH", path)
                .env("PIP_NO_INDEX", "1")
                .output()
                .unwrap();
            assert!(!at("ran").exists() && !at("pip/ran").exists(), "{arguments:?} ran Python of the current folder");
            if arguments[0] == "toolchain" {
                let error = String::from_utf8_lossy(&output.stderr);
                assert!(!output.status.success() && error.contains("python3 -I -m pip install"), "{error}");
            }
        }
    }
}

#[test]
fn a_truncated_toolchain_is_fetched_again() {
    let cache = tempfile::tempdir().unwrap();
    let kept = cache.path().join("toolchain/nvidia-cuda-nvrtc-13.0.88");
    std::fs::create_dir_all(&kept).unwrap();
    for file in ["libnvrtc.so.13", "libnvrtc-builtins.so.13.0"] {
        std::fs::write(kept.join(file), b"\x7fELF\x02\x01 and no more").unwrap();
    }
    let output = command(cache.path(), &["toolchain", "install"])
        .env("GDN2_CACHE", cache.path())
        .env("PIP_NO_INDEX", "1")
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    for says in ["libnvrtc.so.13: truncated", "fetching nvidia-cuda-nvrtc==13.0.88"] {
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn outputs_go_through_what_is_no_regular_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("deep.gdn2"), RULE).unwrap();
    let shape = ["--shape", "B=1,T=3,H=1"];
    let made = gdn2(folder.path(), &[&["case", "deep.gdn2", "-o", "in.safetensors"][..], &shape].concat());
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let run = ["run", "deep.gdn2", "--device", "cpu", "--inputs", "in.safetensors", "--out"];
    let commands: [&[&str]; 3] =
        [&run, &["case", "deep.gdn2", "--shape", "B=1,T=2,H=1", "-o"], &["emit", "deep.gdn2", "--emit", "cuda", "-o"]];
    for arguments in commands {
        std::fs::write(at("target"), "").unwrap();
        std::fs::write(at("private"), "x").unwrap();
        std::fs::set_permissions(at("private"), std::fs::Permissions::from_mode(0o600)).unwrap();
        symlink("target", at("link")).unwrap();
        assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
        let to = |name: &'static str| gdn2(folder.path(), &[arguments, &[name]].concat());
        for name in ["link", "private"] {
            let output = to(name);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        assert!(std::fs::symlink_metadata(at("link")).unwrap().is_symlink());
        let bytes = std::fs::read(at("target")).unwrap();
        assert!(!bytes.is_empty() && bytes == std::fs::read(at("private")).unwrap());
        assert_eq!(std::fs::metadata(at("private")).unwrap().permissions().mode() & 0o777, 0o600);
        let refused = to("pipe");
        let error = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(1) && error.contains("pipe") && error.contains("FIFO"), "{error}");
        let pipe = at("pipe");
        let reader = std::thread::spawn(move || std::fs::read(pipe).unwrap());
        assert!(to("pipe").status.success());
        assert_eq!(reader.join().unwrap(), bytes);
        assert!(std::fs::metadata(at("pipe")).unwrap().file_type().is_fifo());
        for name in ["link", "private", "pipe", "target"] {
            std::fs::remove_file(at(name)).unwrap();
        }
    }
}

#[test]
fn numbers_out_of_range_are_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("deep.gdn2"), RULE).unwrap();
    let case = |more: &[&'static str]| [&["case", "deep.gdn2", "-o", "made"][..], more].concat();
    let tune = |more: &[&'static str]| {
        [&["tune", "deep.gdn2", "--shape", "B=1,T=64,H=1", "--target", "h200", "--records", "made"][..], more].concat()
    };
    let refused: Vec<(Vec<&str>, &str)> = vec![
        (case(&["--shape", "B=1,T=1000000000000,H=1"]), "T = 1000000000000: at most 2147483647"),
        (case(&["--shape", "B=18446744073709551615,T=18446744073709551615,H=2"]), "at most 2147483647"),
        (case(&["--shape", "B=99999999999999999999,T=1,H=2"]), "no whole number"),
        (case(&["--shape", "B=65536,T=65536,H=1"]), "B·T"),
        (case(&["--shape", "B=1,T=2000000000,H=4"]), "at most 8589934592 numbers"),
        (case(&["--shape", "B=1,T=1,H=1,HV=2000000000"]), "HV"),
        (case(&["--shape", "B=1,T=3,H=1", "--seqlens", "18446744073709551615,4"]), "--seqlens"),
        (case(&["--shape", "B=1,T=3,H=1", "--largest-erase", "nan"]), "from 0 to 2"),
        (case(&["--shape", "B=1,T=3,H=1", "--largest-erase", "inf"]), "from 0 to 2"),
        (case(&["--shape", "B=1,T=3,H=1", "--largest-erase=-0.1"]), "from 0 to 2"),
        (case(&["--shape", "B=1,T=3,H=1", "--key-dim", "4294967295"]), "key_dim"),
        (tune(&["--budget", "18446744073709551615s"]), "up to 720h"),
        (tune(&["--budget", "18446744073709551615h"]), "up to 720h"),
        (tune(&["--timeout", "721h"]), "up to 720h"),
        (tune(&["--workers", "0"]), "--workers"),
        (tune(&["--workers", "100000"]), "--workers"),
        (tune(&["--candidates", "0"]), "--candidates"),
        (vec!["predict", "deep.gdn2", "--target", "h200", "--shape", "B=1,T=4294967295,H=1"], "at most 2147483647"),
        (
            vec!["profile", "deep.gdn2", "--device", "vm", "--shape", "B=1,T=2000000000,H=9"],
            "at most 8589934592 numbers",
        ),
        (vec!["hardware-check", "--device", "vm", "--out", "made", "--minutes", "nan"], "0.1 to 600"),
        (vec!["hardware-check", "--device", "vm", "--out", "made", "--minutes", "1e300"], "0.1 to 600"),
        (vec!["check", "/dev/zero"], "more than 1048576 bytes"),
        (vec!["run", "deep.gdn2", "--device", "cpu", "--inputs", "/dev/zero", "--out", "made"], "safetensors"),
    ];
    for (arguments, says) in refused {
        let output = gdn2(folder.path(), &arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{arguments:?}: {}: {error}", output.status);
        assert!(error.contains(says) && !error.contains("panicked"), "{arguments:?}: {error}");
        assert!(!folder.path().join("made").exists(), "{arguments:?} left something");
    }
}

#[test]
fn a_damaged_file_of_records_is_a_warning_and_a_rules_path_need_not_be_text() {
    use std::os::unix::ffi::OsStrExt as _;
    let folder = tempfile::tempdir().unwrap();
    let name = std::ffi::OsStr::from_bytes(b"d\xff#p.gdn2");
    std::fs::write(folder.path().join(name), RULE).unwrap();
    std::fs::create_dir(folder.path().join("tuning")).unwrap();
    let records = folder.path().join("tuning/a100.json");
    let emit = |end: &[u8]| {
        let file = std::ffi::OsString::from(std::ffi::OsStr::from_bytes(&[name.as_bytes(), end].concat()));
        Command::new(env!("CARGO_BIN_EXE_gdn2"))
            .current_dir(folder.path())
            .args(["emit", "--emit", "abi", "--arch", "sm_80"])
            .arg(file)
            .output()
            .unwrap()
    };
    let good = emit(b"");
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    assert!(good.stderr.is_empty());
    for end in [&b"#deep"[..], b""] {
        for (file, says) in [
            (&b"[\n]\n\xff"[..], "a100.json: line 3"),
            (b"[\n\xff\xfe\n]\n", "a100.json: line 2"),
            (b"", "the file is empty"),
            (b"\n\n", "the file is empty"),
            (b"[\n", "it was cut short"),
        ] {
            std::fs::write(&records, file).unwrap();
            let output = emit(end);
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && output.stdout == good.stdout, "{error}");
            assert!(error.starts_with("warning: ") && error.contains(says), "{error}");
        }
    }
    std::fs::write(&records, b"[\n]\n").unwrap();
    assert!(emit(b"").stderr.is_empty(), "no record is no damage");
    std::fs::remove_file(&records).unwrap();
    assert!(Command::new("mkfifo").arg(&records).status().unwrap().success());
    let output = emit(b"");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && error.contains("not a regular file"), "{error}");
    let output = emit(b"#shallow");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && error.contains("no rule `shallow`"), "{error}");
}

#[test]
fn states_of_a_file_are_laid_out_as_check_says() {
    use gdn2_codegen::abi::Tensor;
    use gdn2_runtime::tensors::{Array, Case};
    let folder = tempfile::tempdir().unwrap();
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    for (key, value) in [(16usize, 16usize), (16, 32), (32, 16)] {
        let rule = format!(
            "rule turned {{ decay: none; erase: none; write: none; key_dim: {key}; value_dim: {value}; dtype: bf16; \
             state: vk; }}"
        );
        std::fs::write(folder.path().join("turned.gdn2"), rule).unwrap();
        let check = gdn2(folder.path(), &["check", "turned.gdn2"]);
        let said = String::from_utf8_lossy(&check.stdout).into_owned();
        assert!(said.contains(&format!("[N,HV,{value},{key}]")), "{said}");
        // S[k][v] = (V k + v) / 1024, stored V first. The one token has k = 0, so S stays, and q is the unit vector of a
        // channel: o is that row of S, over the root of K.
        let row = seed as usize % key;
        let number = |k: usize, v: usize| (value * k + v) as f32 / 1024.0;
        let states = (0..value).flat_map(|v| (0..key).map(move |k| number(k, v))).collect::<Vec<f32>>();
        let unit = (0..key).map(|k| f32::from(u8::from(k == row))).collect::<Vec<f32>>();
        let array = |shape: &[usize], data: Vec<f32>| Array::new(shape, data).unwrap();
        let case = Case {
            tensors: [
                (Tensor::Q, array(&[1, 1, 1, key], unit)),
                (Tensor::K, array(&[1, 1, 1, key], vec![0.0; key])),
                (Tensor::V, array(&[1, 1, 1, value], vec![1.0; value])),
                (Tensor::InitialState, array(&[1, 1, value, key], states.clone())),
            ]
            .into(),
            ..Case::default()
        };
        case.save(&folder.path().join("in")).unwrap();
        for (device, pass) in [("cpu", "forward"), ("cpu:f64", "forward"), ("vm", "forward"), ("vm", "decode")] {
            let run = ["run", "turned.gdn2", "--device", device, "--pass", pass, "--inputs", "in", "--out", "out"];
            let output = gdn2(folder.path(), &run);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let out = Case::load(&folder.path().join("out")).unwrap();
            for (v, o) in out.tensors[&Tensor::O].data.iter().enumerate() {
                let want = number(row, v) / (key as f32).sqrt();
                assert!((o - want).abs() <= 0.02 * want.max(0.01), "{device} {key}x{value} o[{v}] {o}, {want}");
            }
            assert_eq!(out.tensors[&Tensor::FinalState], array(&[1, 1, value, key], states.clone()), "{device}");
        }
        // What `case` writes, `verify` reads, without being told the rule too.
        let made = ["case", "turned.gdn2", "--shape", "B=2,T=18,H=1", "-o", "drawn.safetensors"];
        assert!(gdn2(folder.path(), &made).status.success());
        for rule in [&["turned.gdn2"][..], &[]] {
            let verify = [&["verify"][..], rule, &["--cases", "drawn.safetensors", "--device", "vm"]].concat();
            let output = gdn2(folder.path(), &verify);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
    }
}
