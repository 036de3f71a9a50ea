//! What every command does alike: colours, quiet, `-`, exit codes, completions, the cache.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const RULE: &str = "rule own { decay: scalar; erase: none; write: scalar; key_dim: 16; value_dim: 16; dtype: f16; }";

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gdn2"));
    command.current_dir(folder).args(arguments).env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE");
    command
}

fn gdn2(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().unwrap()
}

fn fed(folder: &Path, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = command(folder, arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // What is refused early is not read to its end.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_dash_is_standard_input_and_output() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("own.gdn2"), RULE).unwrap();
    let check = fed(folder, &["check", "-"], RULE.as_bytes());
    assert_eq!(check.stdout, gdn2(folder, &["check", "own.gdn2"]).stdout);
    assert!(check.status.success() && !check.stdout.is_empty());

    let shape = ["--shape", "B=1,T=5,H=1"];
    let to = |output: &'static str| [&["case", "own.gdn2", "-o", output][..], &shape].concat();
    let case = gdn2(folder, &to("-"));
    assert!(case.status.success() && gdn2(folder, &to("in")).status.success());
    assert_eq!(case.stdout, std::fs::read(folder.join("in")).unwrap());

    let run = |inputs: &'static str, out: &'static str| {
        ["run", "own.gdn2", "--device", "cpu", "--inputs", inputs, "--out", out]
    };
    let piped = fed(folder, &run("-", "-"), &case.stdout);
    assert!(piped.status.success() && errors(&piped).contains("final_state"), "{}", errors(&piped));
    assert!(gdn2(folder, &run("in", "out")).status.success());
    assert_eq!(piped.stdout, std::fs::read(folder.join("out")).unwrap());

    let emit = gdn2(folder, &["emit", "own.gdn2", "--emit", "torch-ref", "-o", "-"]);
    assert_eq!(emit.stdout, gdn2(folder, &["emit", "own.gdn2", "--emit", "torch-ref"]).stdout);
    assert!(!folder.join("-").exists());

    let broken = fed(folder, &run("-", "-"), b"no case");
    assert!(broken.status.code() == Some(1) && broken.stdout.is_empty() && errors(&broken).contains("safetensors"));
}

#[test]
fn colours_are_as_asked_and_never_where_nobody_sees_them() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("bad.gdn2"), RULE.replace("none", "nnoe")).unwrap();
    let colored = |arguments: &[&str], variable: Option<(&str, &str)>| {
        let output = command(folder, arguments).envs(variable).output().unwrap();
        assert!(!output.status.success());
        output.stderr.contains(&0x1b)
    };
    assert!(!colored(&["check", "bad.gdn2"], None));
    assert!(colored(&["check", "bad.gdn2", "--color", "always"], None));
    assert!(colored(&["--color=always", "check", "bad.gdn2"], None));
    assert!(!colored(&["check", "bad.gdn2", "--color=never"], Some(("CLICOLOR_FORCE", "1"))));
    assert!(colored(&["check", "bad.gdn2"], Some(("CLICOLOR_FORCE", "1"))));
    // What is said of arguments that are not understood follows too.
    assert!(colored(&["--color", "always", "chekc"], None));
    assert!(!colored(&["--color", "never", "chekc"], Some(("CLICOLOR_FORCE", "1"))));
}

#[cfg(target_os = "linux")]
#[test]
fn a_terminal_gets_no_binary_and_colours_only_where_it_has_them() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("own.gdn2"), RULE).unwrap();
    std::fs::write(folder.join("bad.gdn2"), RULE.replace("none", "nnoe")).unwrap();
    let gdn2 = env!("CARGO_BIN_EXE_gdn2");
    // `script` is what gives a program a terminal; where it is missing there is none to be had.
    let on_terminal = |arguments: &str, variable: (&str, &str)| {
        let line = format!("{gdn2} {arguments}");
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).current_dir(folder);
        // A build service sets CI, which counts as a terminal with colours whatever TERM says.
        for unwanted in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "CI"] {
            script.env_remove(unwanted);
        }
        script.env("TERM", "xterm").env(variable.0, variable.1).stdin(Stdio::null());
        script.output().ok()
    };
    let Some(refused) = on_terminal("case own.gdn2 --shape B=1,T=5,H=1 -o -", ("UNUSED", "")) else { return };
    let said = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(refused.status.code() == Some(2) && said.contains("this output is binary"), "{said}");
    let colored = |variable| on_terminal("check bad.gdn2", variable).unwrap().stdout.contains(&0x1b);
    assert!(colored(("UNUSED", "")));
    assert!(!colored(("NO_COLOR", "1")));
    assert!(!colored(("TERM", "dumb")));
}

#[test]
fn arguments_that_make_no_sense_have_an_exit_code_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("own.gdn2"), RULE).unwrap();
    std::fs::write(folder.join("bad.gdn2"), "no rule").unwrap();
    let tune = ["tune", "own.gdn2", "--shape", "B=1,T=64,H=1"];
    let cases: [(Vec<&str>, i32); 11] = [
        (vec!["check", "own.gdn2"], 0),
        (vec!["check", "bad.gdn2"], 1),
        (vec!["check", "missing.gdn2"], 1),
        (vec!["emit", "own.gdn2#other", "--emit", "cuda"], 2),
        (vec!["emit", "own.gdn2", "--emit", "cuda", "--arch", "sm_1"], 2),
        (vec!["emit", "own.gdn2", "--emit", "cuda", "--schedule", "chunk=17"], 2),
        (vec!["emit", "own.gdn2", "--emit", "cuda", "--schedule", "chnuk=16"], 2),
        (vec!["emit", "own.gdn2", "--emit", "cuda", "--key-dim", "17"], 2),
        ([&tune[..], &["--target", "h2000"]].concat(), 2),
        (vec!["predict", "own.gdn2", "--shape", "B=1,T=64,H=1", "--target", "h2000"], 2),
        (vec!["unknown"], 2),
    ];
    for (arguments, code) in cases {
        let output = gdn2(folder, &arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", errors(&output));
    }
    let help = String::from_utf8(gdn2(folder, &["--help"]).stdout).unwrap();
    assert!(help.contains("Exit codes:") && help.contains("standard input or standard output"), "{help}");
}

#[test]
fn quiet_leaves_results_alone_and_tables_have_a_form_for_machines() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("own.gdn2"), RULE).unwrap();
    std::fs::create_dir(folder.join("rules")).unwrap();
    let made = gdn2(folder, &["--quiet", "case", "own.gdn2", "--shape", "B=1,T=5,H=1", "-o", "in"]);
    assert!(made.status.success());
    let run = ["run", "own.gdn2", "--device", "cpu", "--inputs", "in", "--out", "out"];
    assert!(!gdn2(folder, &run).stdout.is_empty());
    let quiet = gdn2(folder, &[&run[..], &["-q"]].concat());
    assert!(quiet.status.success() && quiet.stdout.is_empty() && quiet.stderr.is_empty());
    for arguments in [&["check", "own.gdn2", "--json"][..], &["devices", "--json"], &["cache", "size", "--json"]] {
        let output = gdn2(folder, arguments);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(json.is_object() || json.is_array(), "{arguments:?}");
    }
    let check = gdn2(folder, &["check", "own.gdn2", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&check.stdout).unwrap();
    assert_eq!((&json[0]["rule"], &json[0]["state"]), (&"own".into(), &"kv".into()));
}

#[test]
fn completions_know_the_commands_of_every_shell() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = gdn2(folder.path(), &["completions", shell]);
        let text = String::from_utf8(output.stdout).unwrap();
        for word in ["hardware-check", "vm-check", "largest-erase"] {
            assert!(text.contains(word), "{shell} lacks {word}");
        }
    }
}

#[test]
fn the_cache_can_be_measured_limited_and_cleaned() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for part in ["kernels", "counts", "toolchain/wheel"] {
        std::fs::create_dir_all(at(part)).unwrap();
    }
    for (file, bytes) in
        [("kernels/a.bin", 1000), ("kernels/b.bin", 2000), ("counts/c", 500), ("toolchain/wheel/d", 70)]
    {
        std::fs::write(at(file), vec![0; bytes]).unwrap();
    }
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(1_000_000);
    std::fs::File::options().write(true).open(at("kernels/b.bin")).unwrap().set_modified(old).unwrap();
    let cache = |arguments: &[&str]| {
        let output =
            command(folder.path(), &[&["cache"], arguments].concat()).env("GDN2_CACHE", folder.path()).output();
        let output = output.unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, said) = cache(&["size"]);
    assert!(
        code == 0 && said.contains("2 files") && said.contains("3000 bytes") && said.contains("70 bytes"),
        "{said}"
    );
    assert_eq!(cache(&["limit", "2K"]), (0, "2000 bytes removed\n".to_owned()));
    assert!(at("kernels/a.bin").exists() && !at("kernels/b.bin").exists() && at("counts/c").exists());
    assert_eq!(cache(&["limit", "lots"]).0, 2);
    assert_eq!(cache(&["clean"]), (0, "1500 bytes removed\n".to_owned()));
    assert!(at("toolchain/wheel/d").exists() && !at("kernels").exists() && !at("counts").exists());
    assert_eq!(cache(&["clean", "--toolchain"]).0, 0);
    assert!(!at("toolchain").exists());
}
