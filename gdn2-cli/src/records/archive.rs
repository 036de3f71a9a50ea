//! What a hardware check leaves, as one file: read back with its hashes compared.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Component, Path};

/// The hashes of all other files, by name.
pub const HASHES: &str = "hashes.json";
/// What was found.
pub const REPORT: &str = "report.json";

/// Files of an archive, and bytes of each and of all: far more than a check leaves.
const MOST_FILES: usize = 1_000;
const MOST_BYTES: u64 = 256 << 20;
const MOST_TOTAL: u64 = 1 << 30;

/// The hash of a file's bytes, as [`HASHES`] has it.
pub fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_string()
}

/// The files of an archive by their names, and what is wrong with it as a whole; files whose bytes are not those that were
/// packed are told by name.
pub fn read(archive: impl Read) -> (BTreeMap<String, Vec<u8>>, Vec<String>) {
    let mut files = BTreeMap::new();
    let mut wrong = Vec::new();
    if let Err(why) = unpack(archive, &mut files) {
        return (files, vec![why]);
    }
    let Some(hashes) = files.remove(HASHES) else {
        return (files, vec![format!("no {HASHES} in it: not what `gdn2 hardware-check` packs")]);
    };
    let hashes: BTreeMap<String, String> = match serde_json::from_slice(&hashes) {
        Ok(hashes) => hashes,
        Err(error) => return (files, vec![format!("{HASHES}: {error}")]),
    };
    for (name, bytes) in &files {
        match hashes.get(name) {
            Some(known) if *known == hash(bytes) => {}
            Some(_) => wrong.push(format!("{name}: changed since it was packed")),
            None => wrong.push(format!("{name}: not among those that were packed")),
        }
    }
    wrong.extend(hashes.keys().filter(|name| !files.contains_key(*name)).map(|name| format!("{name}: missing")));
    (files, wrong)
}

fn unpack(archive: impl Read, files: &mut BTreeMap<String, Vec<u8>>) -> Result<(), String> {
    let mut archive = tar::Archive::new(archive);
    let mut total = 0;
    for entry in archive.entries().map_err(|error| error.to_string())? {
        let mut entry = entry.map_err(|error| format!("not a tar archive: {error}"))?;
        if entry.header().entry_type().is_dir() {
            continue;
        }
        let path = entry.path().map_err(|error| error.to_string())?.into_owned();
        let name = plain(&path).ok_or_else(|| format!("{}: a path that leads out of the archive", path.display()))?;
        if !entry.header().entry_type().is_file() {
            return Err(format!("{name}: no regular file"));
        }
        total += entry.size();
        if entry.size() > MOST_BYTES || total > MOST_TOTAL || files.len() >= MOST_FILES {
            let most = format!("{MOST_FILES} files of {MOST_BYTES} bytes, {MOST_TOTAL} together");
            return Err(format!("{name}: more than a check leaves, at most {most}"));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(|error| format!("{name}: {error}"))?;
        if files.insert(name.clone(), bytes).is_some() {
            return Err(format!("{name}: twice in the archive"));
        }
    }
    Ok(())
}

/// A path below the archive's root, with slashes.
fn plain(path: &Path) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::Normal(part) => parts.push(part.to_str()?),
            _ => return None,
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(files: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.as_gnu_mut().into_iter().for_each(|gnu| gnu.name[..name.len()].copy_from_slice(name.as_bytes()));
            header.set_cksum();
            let _ = builder.append(&header, text.as_bytes());
        }
        builder.into_inner().unwrap_or_default()
    }

    #[test]
    fn what_was_not_packed_so_is_refused() {
        let hashes = format!("{{\"a\": \"{}\"}}", hash(b"1"));
        let wrong = |files: &[(&str, &str)]| read(packed(files).as_slice()).1.join("; ");
        assert_eq!(wrong(&[("a", "1"), (HASHES, &hashes)]), "");
        assert!(wrong(&[("a", "2"), (HASHES, &hashes)]).contains("a: changed"));
        assert!(wrong(&[("a", "1"), ("b", "1"), (HASHES, &hashes)]).contains("b: not among"));
        assert!(wrong(&[(HASHES, &hashes)]).contains("a: missing"));
        assert!(wrong(&[("a", "1")]).contains(HASHES));
        assert!(wrong(&[("../a", "1"), (HASHES, &hashes)]).contains("leads out"));
        assert!(wrong(&[("a", "1"), ("a", "1"), (HASHES, &hashes)]).contains("twice"));
        assert!(wrong(&[("a", "1"), (HASHES, "[]")]).contains(HASHES));
        assert!(!read(&b"no archive at all, however long it may be"[..]).1.is_empty());
    }
}
