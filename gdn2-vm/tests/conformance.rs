//! Every conformance kernel on the machine gives what its scalar definition says, and what GPUs gave.
#![allow(clippy::unwrap_used)]

use gdn2_vm::conformance::kernels;
use safetensors::SafeTensors;

#[test]
fn every_kernel_gives_what_its_definition_says() {
    let mut wrong = Vec::new();
    for kernel in kernels() {
        match kernel.on_vm() {
            Ok(bytes) => wrong.extend(kernel.expected.compare(&kernel.name, &bytes).err().map(|e| e.to_string())),
            Err(error) => wrong.push(format!("{}: {error}", kernel.name)),
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn names_are_unique() {
    let mut names: Vec<String> = kernels().into_iter().map(|kernel| kernel.name).collect();
    names.sort();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
}

/// The files of `fixtures/`, each what `gdn2 conformance --device cuda:N --out FOLDER` wrote on one GPU.
#[test]
fn the_machine_gives_what_gpus_gave() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut wrong = Vec::new();
    for file in files.filter(|file| file.extension().is_some_and(|extension| extension == "safetensors")) {
        let bytes = std::fs::read(&file).unwrap();
        let fixtures = SafeTensors::deserialize(&bytes).unwrap();
        for kernel in kernels() {
            // One that the GPU could not run, or that is younger than the file.
            let Ok(hardware) = fixtures.tensor(&kernel.name) else { continue };
            let machine = kernel.on_vm().unwrap();
            wrong.extend(kernel.matches(&machine, hardware.data()).err().map(|e| format!("{}: {e}", file.display())));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
