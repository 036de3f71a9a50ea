//! A hand-edited kernel comes back through --source: judged by the same bars, counted and predicted like the generated one,
//! and refused where it does not fit its launch.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;
use std::process::Command;

const RULE: &str = "rule linear { decay: none; erase: none; write: none; key_dim: 16; value_dim: 16; dtype: bf16 }";
const AS_GENERATED: [&str; 4] = ["--arch", "sm_80", "--schedule", "chunk=16"];

fn gdn2(folder: &Path, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_gdn2")).current_dir(folder).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), text)
}

#[test]
fn a_hand_edited_kernel_is_judged_like_the_generated_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    std::fs::write(path.join("linear.gdn2"), RULE).unwrap();
    let (good, said) =
        gdn2(path, &[&["emit", "linear.gdn2", "--emit", "cuda", "-o", "my.cu"][..], &AS_GENERATED].concat());
    assert!(good, "{said}");
    let generated = std::fs::read_to_string(path.join("my.cu")).unwrap();
    let edit = |from: &str, to: &str| {
        assert!(generated.contains(from), "{from}");
        std::fs::write(path.join("my.cu"), generated.replacen(from, to, 1)).unwrap();
    };
    let own = ["--source", "my.cu"];
    let verify =
        |more: &[&str]| gdn2(path, &[&["verify", "linear.gdn2", "--draws", "--device", "vm"], more, &own[..]].concat());

    edit("out[group][0] * scale", "scale * out[group][0]");
    let (good, said) = verify(&AS_GENERATED);
    assert!(good && said.contains("chunk=16") && !said.contains("FAIL"), "{said}");
    let profile = ["profile", "linear.gdn2", "--device", "vm", "--annotate", "costs.cu"];
    let (good, said) = gdn2(path, &[&profile[..], &AS_GENERATED, &own].concat());
    let costs = std::fs::read_to_string(path.join("costs.cu")).unwrap_or_default();
    assert!(good && costs.contains("scale * out[group][0]"), "{said}");
    let shape = ["--shape", "B=1,T=64,H=2", "--target", "a100", "--schedule", "chunk=16"];
    let (good, said) = gdn2(path, &[&["predict", "linear.gdn2"], &shape[..], &own].concat());
    assert!(good && said.contains("chunk=16"), "{said}");

    // What is wrong fails by the same bars.
    edit("out[group][0] * scale", "out[group][0] * scale * 1.1f");
    let (good, said) = verify(&AS_GENERATED);
    assert!(!good && said.contains("FAIL"), "{said}");
    edit("out[group][0] * scale", "out[group][0] * skale");
    let (good, said) = verify(&AS_GENERATED);
    assert!(!good && said.contains("skale"), "the compiler's words: {said}");

    // What does not fit the launch is refused before anything is compiled.
    edit("const Bf16* __restrict__ k,", "const float* __restrict__ k,");
    let (good, said) = verify(&AS_GENERATED);
    assert!(!good && said.contains("parameter 2 of `linear_forward` is `float * k`"), "{said}");
    edit("linear_forward(", "mine_forward(");
    let (good, said) = verify(&AS_GENERATED);
    assert!(!good && said.contains("`mine_forward`") && said.contains("launches `linear_forward`"), "{said}");
    edit("scale", "scale");
    let (good, said) = verify(&["--arch", "sm_80", "--schedule", "chunk=32"]);
    assert!(!good && said.contains("was generated as `sm_80, chunk=16"), "{said}");
    let (good, said) = gdn2(path, &[&["verify", "linear.gdn2", "--draws", "--device", "cpu"], &own[..]].concat());
    assert!(!good && said.contains("the cpu device runs none"), "{said}");
}
