//! Compiled kernels kept between runs, named after everything that decides their content. Safe under any number of
//! writers: an entry is written to a temporary file and renamed; a damaged one counts as absent and is written anew.

use crate::files::{self, Limit};
use crate::nvrtc::{self, Compiled, Options, Version};
use etcetera::BaseStrategy;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Why there is no cache folder.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// Neither a flag, nor `GDN2_CACHE`, nor a home folder.
    #[error("no cache folder: there is no home folder, set GDN2_CACHE")]
    NoHome,
}

/// The project's cache folder: the one given, else `GDN2_CACHE`, else `gdn2` in the user's cache folder (XDG).
///
/// # Errors
/// There is no home folder either.
pub fn directory(explicit: Option<PathBuf>) -> Result<PathBuf, CacheError> {
    let environment = || std::env::var_os("GDN2_CACHE").filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || etcetera::choose_base_strategy().map(|base| base.cache_dir().join("gdn2"));
    match explicit.or_else(environment) {
        Some(folder) => Ok(folder),
        None => home().map_err(|_| CacheError::NoHome),
    }
}

/// A part of the project's cache folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Compiled kernels.
    Kernels,
    /// Counts of the virtual machine.
    Counts,
    /// The compiler that was fetched.
    Toolchain,
}

impl Part {
    /// Every part.
    pub const ALL: [Part; 3] = [Part::Kernels, Part::Counts, Part::Toolchain];
    /// What was made here rather than fetched: entries of one file each.
    pub const MADE: [Part; 2] = [Part::Kernels, Part::Counts];

    /// The name of its folder.
    pub const fn name(self) -> &'static str {
        match self {
            Part::Kernels => "kernels",
            Part::Counts => "counts",
            Part::Toolchain => "toolchain",
        }
    }
}

/// How much something is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Files.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What a part of a project cache folder holds; nothing where it is not there.
pub fn size(directory: &Path, part: Part) -> Size {
    let mut size = Size::default();
    let mut folders = vec![directory.join(part.name())];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            // What the entry itself is: links out of the cache are not followed.
            let Ok(about) = entry.metadata() else { continue };
            if about.is_dir() {
                folders.push(entry.path());
            } else {
                size.files += 1;
                size.bytes += about.len();
            }
        }
    }
    size
}

/// Removes a part of a project cache folder.
///
/// # Errors
/// Something of it cannot be removed.
pub fn clean(directory: &Path, part: Part) -> std::io::Result<()> {
    match std::fs::remove_dir_all(directory.join(part.name())) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes the entries of [`Part::MADE`] that were used longest ago, until they hold no more than `bytes`; how many
/// bytes went.
///
/// # Errors
/// An entry cannot be removed.
pub fn trim(directory: &Path, bytes: u64) -> std::io::Result<u64> {
    let folders = Part::MADE.map(|part| std::fs::read_dir(directory.join(part.name())));
    let mut entries: Vec<(SystemTime, u64, PathBuf)> = folders
        .into_iter()
        .flatten()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let about = entry.metadata().ok().filter(|about| !about.is_dir())?;
            Some((about.modified().unwrap_or(SystemTime::UNIX_EPOCH), about.len(), entry.path()))
        })
        .collect();
    entries.sort();
    let mut left: u64 = entries.iter().map(|(_, bytes, _)| bytes).sum();
    let before = left;
    for (_, size, path) in entries {
        if left <= bytes {
            break;
        }
        match std::fs::remove_file(&path) {
            // Another process was faster.
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => left -= size,
        }
    }
    Ok(before - left)
}

/// Compiled kernels on disk.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

/// An entry's name: a hash of the source, the target, the options and the compiler's release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(blake3::Hash);

impl Key {
    /// The key of one compilation.
    pub fn new(source: &str, target: &str, options: &Options, version: Version) -> Key {
        let mut hasher = blake3::Hasher::new();
        let mut part = |bytes: &[u8]| {
            // Lengths keep neighbouring parts apart.
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        part(source.as_bytes());
        part(nvrtc::NAME.to_bytes());
        part(version.to_string().as_bytes());
        for argument in options.arguments(target) {
            part(argument.as_bytes());
        }
        Key(hasher.finalize())
    }
}

impl Cache {
    /// A cache in `kernels` of a project cache folder. Nothing is touched before the first entry.
    pub fn new(directory: &Path) -> Cache {
        Cache { folder: directory.join(Part::Kernels.name()) }
    }

    fn path(&self, key: Key) -> PathBuf {
        self.folder.join(format!("{}.bin", key.0.to_hex()))
    }

    /// The entry, if it is there and whole.
    pub fn get(&self, key: Key) -> Option<Compiled> {
        let path = self.path(key);
        let bytes = files::read_regular(&path, Limit::KERNEL).ok()?;
        let (hash, body) = bytes.split_first_chunk::<32>()?;
        let found = (blake3::hash(body) == *hash).then(|| decode(body)).flatten();
        if found.is_some() {
            used(&path);
        }
        found
    }

    /// Keeps an entry. A cache that cannot be written only costs the next compile, so failure is no error.
    pub fn put(&self, key: Key, compiled: &Compiled) {
        let body = encode(compiled);
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(&self.folder)?;
            files::replace(&self.path(key), &[blake3::hash(&body).as_bytes(), body.as_slice()].concat())
        };
        let _ = write();
    }
}

/// Notes that an entry was used, by its time of change and at most once a day: what [`trim`] goes by.
fn used(path: &Path) {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let now = SystemTime::now();
    let changed = std::fs::metadata(path).and_then(|about| about.modified());
    if changed.is_ok_and(|changed| now.duration_since(changed).is_ok_and(|age| age > DAY)) {
        // An entry that cannot be written is only removed sooner.
        let _ = std::fs::File::options().write(true).open(path).and_then(|file| file.set_modified(now));
    }
}

/// The JSON of everything but the machine code, its length before it, the machine code after it.
fn encode(compiled: &Compiled) -> Vec<u8> {
    let text = Compiled { cubin: Vec::new(), ..compiled.clone() };
    let json = serde_json::to_vec(&text).unwrap_or_default();
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json);
    bytes.extend(&compiled.cubin);
    bytes
}

fn decode(body: &[u8]) -> Option<Compiled> {
    let (length, rest) = body.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (json, cubin) = rest.split_at_checked(length)?;
    let compiled: Compiled = serde_json::from_slice(json).ok()?;
    Some(Compiled { cubin: cubin.to_vec(), ..compiled })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    fn sample(tag: u8) -> Compiled {
        Compiled {
            ptx: format!("ptx {tag}"),
            cubin: vec![tag; 1000],
            log: "log".into(),
            resources: Vec::new(),
            version: Version { major: 13, minor: 0 },
        }
    }

    #[test]
    fn every_part_of_the_key_counts() {
        let (version, options) = (Version { major: 13, minor: 0 }, Options::default());
        let base = Key::new("a", "sm_80", &options, version);
        assert_eq!(base, Key::new("a", "sm_80", &options, version));
        let bare = Options { line_info: false, extra: Vec::new() };
        for other in [
            Key::new("b", "sm_80", &options, version),
            Key::new("a", "sm_90a", &options, version),
            Key::new("a", "sm_80", &bare, version),
            Key::new("a", "sm_80", &options, Version { major: 12, minor: 8 }),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn a_damaged_entry_is_a_miss_and_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path());
        let key = Key::new("a", "sm_80", &Options::default(), Version { major: 13, minor: 0 });
        assert_eq!(cache.get(key), None);
        cache.put(key, &sample(1));
        assert_eq!(cache.get(key), Some(sample(1)));
        let whole = std::fs::read(cache.path(key)).unwrap();
        for cut in [0, 10, 33, whole.len() / 2, whole.len() - 1] {
            std::fs::write(cache.path(key), &whole[..cut]).unwrap();
            assert_eq!(cache.get(key), None, "cut at {cut}");
        }
        let mut flipped = whole.clone();
        let last = flipped.len() - 1;
        flipped[last] ^= 1;
        std::fs::write(cache.path(key), &flipped).unwrap();
        assert_eq!(cache.get(key), None);
        cache.put(key, &sample(1));
        assert_eq!(cache.get(key), Some(sample(1)));
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_a_miss_at_once_and_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path());
        let key = Key::new("a", "sm_80", &Options::default(), Version { major: 13, minor: 0 });
        std::fs::create_dir(&cache.folder).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(cache.path(key)).status().unwrap().success());
        assert_eq!(cache.get(key), None);
        cache.put(key, &sample(2));
        assert_eq!(cache.get(key), Some(sample(2)));
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path());
        let keys = ["a", "b", "c", "d"]
            .map(|text| Key::new(text, "sm_80", &Options::default(), Version { major: 13, minor: 0 }));
        let days = |days: u64| SystemTime::now() - Duration::from_secs(days * 24 * 3600);
        for (key, age) in keys.into_iter().zip([40, 30, 20, 10]) {
            cache.put(key, &sample(3));
            let file = std::fs::File::options().write(true).open(cache.path(key)).unwrap();
            file.set_modified(days(age)).unwrap();
        }
        let all = size(folder.path(), Part::Kernels);
        let one = all.bytes / 4;
        assert_eq!((all.files, all.bytes % 4), (4, 0));
        // The oldest is used again: now the second oldest is the first to go.
        assert!(cache.get(keys[0]).is_some());
        assert_eq!(trim(folder.path(), all.bytes).unwrap(), 0);
        assert_eq!(trim(folder.path(), 2 * one).unwrap(), 2 * one);
        assert_eq!(keys.map(|key| cache.get(key).is_some()), [true, false, false, true]);
        assert_eq!(trim(folder.path(), 2 * one - 1).unwrap(), one);
        // The last line asked for the first key before it asked for the last one.
        assert_eq!(keys.map(|key| cache.get(key).is_some()), [false, false, false, true]);
        clean(folder.path(), Part::Kernels).unwrap();
        clean(folder.path(), Part::Kernels).unwrap();
        assert_eq!(Part::ALL.map(|part| size(folder.path(), part)), [Size::default(); 3]);
        assert_eq!(trim(folder.path(), 0).unwrap(), 0);
    }

    #[test]
    fn many_writers_leave_one_whole_entry() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path());
        let key = Key::new("a", "sm_80", &Options::default(), Version { major: 13, minor: 0 });
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        cache.put(key, &sample(7));
                        assert_eq!(cache.get(key), Some(sample(7)));
                    }
                });
            }
        });
        assert_eq!(std::fs::read_dir(&cache.folder).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_no_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let cache = Cache::new(file.path());
        let key = Key::new("a", "sm_80", &Options::default(), Version { major: 13, minor: 0 });
        cache.put(key, &sample(1));
        assert_eq!(cache.get(key), None);
    }
}
