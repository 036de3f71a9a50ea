//! The committed kernels are what the generator makes now, and stand in for NVRTC where there is none.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;
use std::process::{Command, Output};

fn gdn2(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gdn2"));
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).args(arguments);
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn nothing_has_drifted() {
    let output = gdn2(&["prepare", "--check"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn drift_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules");
    std::fs::create_dir(&rules).unwrap();
    // Small, and of a name whose PTX is kept.
    let rule = "rule gdn { decay: none; erase: none; write: none; key_dim: 16; value_dim: 16; dtype: bf16; }";
    std::fs::write(rules.join("gdn.gdn2"), rule).unwrap();
    let kernels = folder.path().join("kernels");
    let folders = ["--rules", rules.to_str().unwrap(), "--kernels", kernels.to_str().unwrap()];
    let prepared = gdn2(&["prepare"]).args(folders).output().unwrap();
    assert!(prepared.status.success(), "{}", text(&prepared));
    let check = || gdn2(&["prepare", "--check"]).args(folders).output().unwrap();
    assert!(check().status.success(), "{}", text(&check()));
    let (cuda, ptx) = (kernels.join("gdn_forward_sm_80.cu"), kernels.join("gdn_decode_sm_80.ptx"));
    for (file, spoilt) in [(cuda, "spoilt"), (ptx, "// source 00, ptx 00, NVRTC 13.0\n")] {
        let whole = std::fs::read(&file).unwrap();
        std::fs::write(&file, spoilt).unwrap();
        assert!(!check().status.success() && text(&check()).contains("gdn2 prepare"));
        std::fs::remove_file(&file).unwrap();
        assert!(text(&check()).contains("missing"));
        std::fs::write(&file, whole).unwrap();
    }
    std::fs::write(kernels.join("gone_forward_sm_80.cu"), "").unwrap();
    assert!(text(&check()).contains("gone_forward_sm_80.cu: left over"));
}

#[test]
fn a_crates_macros_are_prepared_for() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    for name in ["src/inner", "shapes"] {
        std::fs::create_dir_all(at(name)).unwrap();
    }
    let body = "{ decay: none; erase: none; write: none; key_dim: 16; value_dim: 16; dtype: bf16; }";
    let source = format!("gdn2::delta_rule! {{ /// Words.\n pub mod here {body} }}\n");
    std::fs::write(at("src/lib.rs"), &source).unwrap();
    std::fs::write(at("src/inner/deep.rs"), "gdn2::include_rule!(\"shapes/there.gdn2\");\n").unwrap();
    std::fs::write(at("src/inner/none.rs"), "fn nothing() {}\n").unwrap();
    std::fs::write(at("shapes/there.gdn2"), format!("rule there {body}\n")).unwrap();
    let run = |arguments: &[&str]| gdn2(arguments).current_dir(folder.path()).output().unwrap();
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    let sources = ["src/lib.rs", "src/inner/deep.rs", "src/inner/none.rs"];
    let age = || {
        for path in sources {
            std::fs::File::options().append(true).open(at(path)).unwrap().set_modified(old).unwrap();
        }
    };
    let touched = || sources.map(|path| at(path).metadata().unwrap().modified().unwrap() != old);

    age();
    let prepared = run(&["prepare"]);
    assert!(prepared.status.success(), "{}", text(&prepared));
    assert_eq!(touched(), [true, true, false], "what embeds the kernels is built again, the rest is left alone");
    // Inference and training for two architectures, CUDA and PTX of each.
    let count = |rule: &str| {
        let names = std::fs::read_dir(at("kernels")).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_str().unwrap().starts_with(rule)).count()
    };
    assert_eq!((count("here_"), count("there_")), (16, 16));
    assert!(run(&["prepare", "--check"]).status.success());
    age();
    assert!(run(&["prepare"]).status.success());
    assert_eq!(touched(), [false; 3], "nothing has changed");

    std::fs::write(at("src/lib.rs"), source.replace("decay: none", "decay: scalar")).unwrap();
    let stale = run(&["prepare", "--check"]);
    assert!(!stale.status.success() && text(&stale).contains("here_forward_sm_80.ptx: differs"), "{}", text(&stale));
    assert!(!text(&stale).contains("there_"));
    std::fs::write(at("src/lib.rs"), source.replace("here", "there").replace("decay: none", "decay: scalar")).unwrap();
    assert!(text(&run(&["prepare"])).contains("two rules are named `there`"));
    std::fs::write(at("src/lib.rs"), source.replace("none;", "nnoe;")).unwrap();
    assert!(text(&run(&["prepare"])).contains("src/lib.rs: rule `here`: "), "{}", text(&run(&["prepare"])));
}

#[test]
fn a_hand_edited_kernel_is_compiled_ahead() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    std::fs::create_dir(at("src")).unwrap();
    let run = |arguments: &[&str]| gdn2(arguments).current_dir(folder.path()).output().unwrap();
    let body = "{ decay: none; erase: none; write: none; key_dim: 16; value_dim: 16; dtype: bf16; }";
    let source = |from: &str| {
        let source = format!("gdn2::delta_rule! {{ #[kernel(decode, \"mine.cu\"{from})] pub mod here {body} }}\n");
        std::fs::write(at("src/lib.rs"), source).unwrap();
    };
    source("");
    let printed = run(&["emit", "src/lib.rs#here", "--pass", "decode", "--arch", "sm_90a", "--emit", "cuda"]);
    std::fs::write(at("mine.cu"), [printed.stdout.as_slice(), b"// mine\n"].concat()).unwrap();
    let asked = run(&["prepare"]);
    let said = text(&asked);
    assert!(!asked.status.success() && !at("kernels").exists(), "{said}");
    let hash = said.split("write `from = \"").nth(1).unwrap().split('"').next().unwrap();
    source(&format!(", from = \"{hash}\""));
    let prepared = run(&["prepare"]);
    assert!(prepared.status.success(), "{}", text(&prepared));
    let names =
        std::fs::read_dir(at("kernels")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let edited: Vec<String> = names.filter(|name| name.ends_with("_edited.ptx")).collect();
    assert!(matches!(edited.as_slice(), [one] if one.starts_with("here_decode_sm_90a_")), "{edited:?}");
    assert!(run(&["prepare", "--check"]).status.success());
    std::fs::write(at("mine.cu"), [printed.stdout.as_slice(), b"__device__ int more;\n"].concat()).unwrap();
    let stale = run(&["prepare", "--check"]);
    assert!(!stale.status.success() && text(&stale).contains(&format!("{}: differs", edited[0])), "{}", text(&stale));
}

#[test]
fn the_demo_runs_without_a_compiler() {
    let output = gdn2(&["demo"]).env("GDN2_NVRTC", "/nowhere").output().unwrap();
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("running the committed PTX") && text.contains("\n12 passed, 0 failed\n"), "{text}");
}
