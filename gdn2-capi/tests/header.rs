//! The header against the library: a C compiler reads it, and its structs lie in memory as the Rust ones do.
#![allow(clippy::unwrap_used)]

use std::fmt::Write;
use std::mem::{offset_of, size_of};
use std::process::Command;

use gdn2::raw::Arguments;
use gdn2_c::{Call, Gradients, RuleInfo, Sizes, Tensor};

#[test]
fn a_c_compiler_sees_the_same_structs() {
    let mut program = String::from("#include \"gdn2.h\"\n");
    let mut claim =
        |text: &str, value: usize| writeln!(program, "_Static_assert({text} == {value}, \"{text}\");").unwrap();
    claim("sizeof(gdn2_tensor)", size_of::<Tensor>());
    claim("offsetof(gdn2_tensor, strides)", offset_of!(Tensor, strides));
    claim("sizeof(gdn2_call)", size_of::<Call>());
    claim("offsetof(gdn2_call, initial_state)", offset_of!(Call, initial_state));
    claim("offsetof(gdn2_call, cu_seqlens)", offset_of!(Call, cu_seqlens));
    claim("offsetof(gdn2_call, slots)", offset_of!(Call, slots));
    claim("offsetof(gdn2_call, scale)", offset_of!(Call, scale));
    claim("offsetof(gdn2_call, scale_given)", offset_of!(Call, scale_given));
    claim("offsetof(gdn2_call, named)", offset_of!(Call, named));
    claim("sizeof(gdn2_rule)", size_of::<RuleInfo>());
    claim("offsetof(gdn2_rule, state_vk)", offset_of!(RuleInfo, state_vk));
    claim("sizeof(gdn2_gradients)", size_of::<Gradients>());
    claim("offsetof(gdn2_gradients, d_initial_state)", offset_of!(Gradients, d_initial_state));
    claim("offsetof(gdn2_gradients, named)", offset_of!(Gradients, named));
    claim("sizeof(gdn2_shape)", size_of::<Sizes>());
    claim("offsetof(gdn2_shape, value_heads)", offset_of!(Sizes, value_heads));
    claim("sizeof(gdn2_arguments)", size_of::<Arguments>());
    claim("offsetof(gdn2_arguments, o)", offset_of!(Arguments, o));
    claim("offsetof(gdn2_arguments, cu_seqlens)", offset_of!(Arguments, cu_seqlens));
    claim("offsetof(gdn2_arguments, sequences)", offset_of!(Arguments, sequences));
    claim("offsetof(gdn2_arguments, scale)", offset_of!(Arguments, scale));
    claim("offsetof(gdn2_arguments, gradients)", offset_of!(Arguments, gradients));
    claim("offsetof(gdn2_arguments, named)", offset_of!(Arguments, named));
    claim("GDN2_MOST_NAMED", gdn2::raw::MOST_NAMED);

    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("layout.c");
    std::fs::write(&source, program).unwrap();
    let compiler = std::env::var("CC").unwrap_or("cc".to_owned());
    let output = Command::new(compiler)
        .args(["-std=c11", "-Wall", "-Werror", "-fsyntax-only", "-I"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/include"))
        .arg(source)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
