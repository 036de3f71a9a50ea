//! Names the way of counting: a fingerprint of the virtual machine's text and of what reads its counters, so that counts
//! kept by one build serve another only where both count alike.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

fn main() {
    let own = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let mut hasher = DefaultHasher::new();
    std::env::var("CARGO_PKG_VERSION").unwrap_or_default().hash(&mut hasher);
    // Outside of the workspace the machine's text is its release's, which the version names.
    let folder = own.join("../gdn2-vm/src");
    let mut texts = files(&folder);
    texts.push(own.join("src/model/counts.rs"));
    for file in texts {
        println!("cargo:rerun-if-changed={}", file.display());
        std::fs::read(&file).unwrap_or_default().hash(&mut hasher);
    }
    println!("cargo:rerun-if-changed={}", folder.display());
    println!("cargo:rustc-env=GDN2_COUNTING={:016x}", hasher.finish());
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect();
    files.sort();
    files
}
