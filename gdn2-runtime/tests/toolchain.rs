//! The search for NVRTC, what it says when it fails, and what a compile reports.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use gdn2_runtime::nvrtc::{Nvrtc, NvrtcError, Options};
use gdn2_runtime::toolchain::{NVRTC_WHEEL, Nvdisasm, Search, ToolchainError};
use std::path::{Path, PathBuf};

fn tried(search: &Search) -> Vec<String> {
    match Nvrtc::find(search) {
        Err(NvrtcError::Missing { tried }) => tried,
        other => panic!("{other:?}"),
    }
}

fn toolkit(libraries: &Path, files: &[&str]) {
    std::fs::create_dir_all(libraries).unwrap();
    for file in files {
        std::fs::write(libraries.join(file), "not a library").unwrap();
    }
}

#[test]
fn a_given_path_is_the_only_one_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    toolkit(&folder.path().join("cuda/lib64"), &["libnvrtc.so.13"]);
    let toolkits = vec![folder.path().join("cuda")];
    let search = Search { toolkits, environment: Some("/environment".into()), ..Search::default() };
    assert_eq!(tried(&search), ["GDN2_NVRTC /environment: no libnvrtc.so there"]);
    let search = Search { explicit: Some("/flag".into()), ..search };
    assert_eq!(tried(&search), ["given path /flag: no libnvrtc.so there"]);
}

#[test]
fn unusable_libraries_are_passed_over_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    toolkit(&root.join("new/lib64"), &["libnvrtc.so.12", "libnvrtc.so.13", "libnvrtc.alt.so.13", "libcudart.so"]);
    let cache = root.join("cache");
    toolkit(&cache.join("toolchain").join(NVRTC_WHEEL.replace("==", "-")), &["libnvrtc.so.13"]);
    let toolkits = vec![root.join("none"), root.join("new")];
    let tried = tried(&Search { toolkits, cache: Some(cache), ..Search::default() });
    let starts = [root.join("new/lib64/libnvrtc.so.13"), root.join("new/lib64/libnvrtc.so.12")];
    for (line, start) in tried.iter().zip(starts) {
        assert!(line.starts_with(&start.display().to_string()), "{line}");
    }
    assert!(tried.len() == 3 && tried[2].contains("/cache/toolchain/"), "{tried:?}");
}

#[test]
fn a_folder_and_a_file_both_name_the_library() {
    let found = Nvrtc::find(&Search::from_environment(None, None)).unwrap();
    // Found through the loader's own path, there is no folder to point at.
    let Some(folder) = found.path().parent().filter(|folder| folder.is_absolute()) else { return };
    for path in [folder, found.path()] {
        let again = Nvrtc::find(&Search { explicit: Some(path.to_owned()), ..Search::default() }).unwrap();
        assert_eq!((again.path(), again.version()), (found.path(), found.version()));
    }
}

/// The library that the other tests compile with, and its bytes.
fn library() -> Option<(PathBuf, Vec<u8>)> {
    let found = Nvrtc::find(&Search::from_environment(None, None)).unwrap();
    // Found through the loader's own path, there is no file to look at.
    let path = found.path().is_absolute().then(|| found.path().to_owned())?;
    let bytes = std::fs::read(&path).unwrap();
    Some((path, bytes))
}

#[test]
fn a_truncated_library_is_named_and_never_loaded() {
    let Some((path, whole)) = library() else { return };
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().canonicalize().unwrap().join(path.file_name().unwrap());
    for keep in [0, 40, 64, 300, 1_000_000, whole.len() / 2, whole.len() * 9 / 10] {
        std::fs::write(&copy, &whole[..keep]).unwrap();
        let tried = tried(&Search { explicit: Some(copy.clone()), ..Search::default() });
        assert!(tried.len() == 1 && tried[0].starts_with(&copy.display().to_string()), "{keep}: {tried:?}");
        assert!(keep < 300 || tried[0].contains("truncated"), "{keep}: {tried:?}");
    }
}

#[test]
fn the_cache_serves_the_pinned_bytes_and_no_others() {
    let Some((path, whole)) = library() else { return };
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("toolchain").join(NVRTC_WHEEL.replace("==", "-"));
    toolkit(&kept, &["libnvrtc-builtins.so.13.0"]);
    let library = kept.join("libnvrtc.so.13");
    let search = Search { cache: Some(folder.path().to_owned()), ..Search::default() };
    let mut altered = whole.clone();
    altered[whole.len() / 3] ^= 1;
    for (bytes, says) in [(&whole[..1_000_000], "truncated"), (&altered, "altered"), (&whole, "builtins")] {
        std::fs::write(&library, bytes).unwrap();
        let tried = tried(&search);
        let last = tried.last().unwrap();
        // A library of another release than the pinned one is of another length.
        assert!(last.contains(says) || last.contains("of another release"), "{last}");
        assert!(last.contains("`gdn2 toolchain install`"), "{last}");
    }
    let beside = |file: &str| std::fs::copy(path.with_file_name(file), kept.join(file));
    if beside("libnvrtc-builtins.so.13.0").is_ok() && path.ends_with("nvidia-cuda-nvrtc-13.0.88/libnvrtc.so.13") {
        assert_eq!(Nvrtc::find(&search).unwrap().path(), library.canonicalize().unwrap());
    }
}

#[test]
fn a_compile_reports_what_each_entry_takes() {
    let nvrtc = Nvrtc::find(&Search::from_environment(None, None)).unwrap();
    let source = "extern \"C\" __global__ void small(float* x) { x[threadIdx.x] = 1.0f; }\n\
        extern \"C\" __global__ void wide(float* x, int* at) {\n\
          __shared__ float s[64];\n\
          float local[100];\n\
          for (int i = 0; i < 100; ++i) local[at[i]] = x[i];\n\
          s[threadIdx.x] = local[at[threadIdx.x]];\n\
          __syncthreads();\n\
          x[threadIdx.x] = s[63 - threadIdx.x];\n\
        }";
    for target in ["sm_80", "sm_90a", "sm_120"] {
        let compiled = nvrtc.compile(source, target, &Options::default()).unwrap();
        assert!(compiled.ptx.contains(&format!(".target {target}")) && compiled.ptx.contains(".loc"));
        assert!(compiled.cubin.starts_with(b"\x7fELF"));
        let of = |entry: &str| compiled.resources.iter().find(|found| found.entry == entry).unwrap().clone();
        let (small, wide) = (of("small"), of("wide"));
        assert_eq!((small.stack, small.spill_stores, small.static_shared), (0, 0, 0));
        assert_eq!((wide.stack, wide.static_shared, wide.barriers), (400, 256, 1));
        assert!(wide.registers >= small.registers && small.registers > 0);
    }
}

#[test]
fn a_refused_text_keeps_the_compilers_words() {
    let nvrtc = Nvrtc::find(&Search::from_environment(None, None)).unwrap();
    let error = nvrtc.compile("__global__ void f() { undeclared = 1; }", "sm_80", &Options::default()).unwrap_err();
    assert!(matches!(&error, NvrtcError::Compile { log, .. } if log.contains("kernel.cu(1)")), "{error}");
    assert!(error.to_string().contains("undeclared"), "{error}");
    let error = nvrtc.compile("a\0b", "sm_80", &Options::default()).unwrap_err();
    assert_eq!(error, NvrtcError::Nul("the source"));
}

#[test]
fn a_missing_disassembler_says_what_to_run() {
    match Nvdisasm::find(&Search { cache: Some("/none".into()), ..Search::default() }) {
        Err(error @ ToolchainError::NoDisassembler { .. }) => {
            assert!(error.to_string().contains("run `gdn2 toolchain install`"));
        }
        other => panic!("{other:?}"),
    }
}
