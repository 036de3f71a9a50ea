//! The wheels that are fetched, pinned byte for byte: what pip may take, and what may be loaded from the cache.

use std::fs::File;
use std::path::Path;

use crate::files;

/// A wheel.
#[derive(Debug)]
pub(crate) struct Wheel {
    /// Name and version, as pip spells them.
    pub(crate) requirement: &'static str,
    /// SHA-256 of its file for each platform: x86_64, aarch64.
    sha256: [&'static str; 2],
    /// What is kept of it.
    pub(crate) files: &'static [Kept],
}

/// A file of a wheel.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) name: &'static str,
    /// Length and BLAKE3 of its contents for each platform.
    contents: [(u64, &'static str); 2],
}

pub(crate) const NVRTC: Wheel = Wheel {
    requirement: "nvidia-cuda-nvrtc==13.0.88",
    sha256: [
        "ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575",
        "d27f20a0ca67a4bb34268a5e951033496c5b74870b868bacd046b1b8e0c3267b",
    ],
    files: &[
        Kept {
            name: "libnvrtc.so.13",
            contents: [
                (109_338_064, "c7ef469f9fe736fb98d47c46f6b1b9922152da8bfd420e7807e982298a5ba12a"),
                (99_505_944, "c3ca4f4081d999771af3220987581d86297a1e1005527e1e92538159a53f914b"),
            ],
        },
        Kept {
            name: "libnvrtc-builtins.so.13.0",
            contents: [
                (4_380_616, "7932cb4e2f8ef49c914c7e5f8c4bf6f63e0e848bb185978eca58f1749ff54c48"),
                (4_380_456, "0fcdea79d1608d52d27e780cce7ef145fa242c9dba0cf4e206b8bf8837f83964"),
            ],
        },
    ],
};

pub(crate) const NVDISASM: Wheel = Wheel {
    requirement: "nvidia-cuda-nvdisasm==13.2.51",
    sha256: [
        "5a7acf77c55d6d2911ed6155d4d5bc156ffadf9df7a68a89b0c1155f4b13688c",
        "483c8f652c1ca006135584b4faf7ea1d2bafe4c40ec1c9ef57a04c6acfbdd57f",
    ],
    files: &[Kept {
        name: "nvdisasm",
        contents: [
            (5_136_072, "89a4599ee9caabc31f47bd47fc078616fff92e82b6047a3f2ff83e2d191aa6d9"),
            (4_870_304, "b5020eaba1050479058e614af5522e03841be046b997f12e93f5a606ed5cba41"),
        ],
    }],
};

impl Wheel {
    /// The text of a requirements file that lets pip take this wheel alone.
    pub(crate) fn requirements(&self) -> String {
        let hashes = self.sha256.map(|hash| format!(" --hash=sha256:{hash}"));
        format!("{}{}\n", self.requirement, hashes.concat())
    }

    /// What is wrong with the files in a folder; `None` where each is the wheel's, byte for byte.
    pub(crate) fn damage(&self, folder: &Path) -> Option<String> {
        self.files.iter().find_map(|file| {
            let path = folder.join(file.name);
            file.damage(&path).map(|damage| format!("{}: {damage}", path.display()))
        })
    }
}

impl Kept {
    fn damage(&self, path: &Path) -> Option<String> {
        let there = match std::fs::metadata(path) {
            Ok(there) => there,
            Err(error) => return Some(error.to_string()),
        };
        if let Err(error) = files::expect_regular(&there) {
            return Some(error.to_string());
        }
        let Some((_, hash)) = self.contents.iter().find(|(bytes, _)| *bytes == there.len()) else {
            let want = self.contents.map(|(bytes, _)| bytes.to_string()).join(" or ");
            return Some(format!("truncated or of another release: {} bytes, not {want}", there.len()));
        };
        let mut hasher = blake3::Hasher::new();
        match File::open(path).and_then(|file| hasher.update_reader(file).map(|_| ())) {
            Err(error) => Some(error.to_string()),
            Ok(()) if hasher.finalize().to_hex().as_str() == *hash => None,
            Ok(()) => Some("altered: its bytes are not those of the release".to_owned()),
        }
    }
}
