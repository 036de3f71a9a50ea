//! How the project reads and writes files. What is read has a largest size and, where nobody named it on a command line,
//! must be a regular file, so that a device or a FIFO left in a folder neither fills the memory nor waits for ever. What
//! is written is there whole or not at all, through links, with the mode it had; a FIFO or a device is written to, not
//! replaced.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The most that a file of one kind may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The kind, with its article.
    pub kind: &'static str,
    /// Bytes.
    pub bytes: u64,
}

impl Limit {
    /// Rule files.
    pub const RULE: Limit = Limit { kind: "a rule file", bytes: gdn2_dsl::LARGEST_SOURCE as u64 };
    /// Rust source that names rules.
    pub const SOURCE: Limit = Limit { kind: "a source file", bytes: 16 << 20 };
    /// A kernel's text that a macro names.
    pub const TEXT: Limit = Limit { kind: "a kernel's text", bytes: gdn2_codegen::named::LARGEST_TEXT as u64 };
    /// Calls that a program wrote down.
    pub const SEEN: Limit = Limit { kind: "a file of calls", bytes: 16 << 20 };
    /// Tuning records and constants.
    pub const RECORDS: Limit = Limit { kind: "a file of tuning records", bytes: 64 << 20 };
    /// Logs of sweeps.
    pub const LOG: Limit = Limit { kind: "a log of sweeps", bytes: 1 << 30 };
    /// Compiled kernels, in a cache or committed.
    pub const KERNEL: Limit = Limit { kind: "a compiled kernel", bytes: 256 << 20 };
    /// Case files.
    pub const CASE: Limit = Limit { kind: "a case file", bytes: 64 << 30 };
}

/// Reads a file that somebody named: of any kind, `/dev/stdin` and FIFOs included, up to its limit.
///
/// # Errors
/// It cannot be read, or holds more.
pub fn read(path: &Path, limit: Limit) -> io::Result<Vec<u8>> {
    from(File::open(path)?, limit)
}

/// Reads a file that was found: a regular one, up to its limit.
///
/// # Errors
/// It is not there, is of another kind, cannot be read, or holds more.
pub fn read_regular(path: &Path, limit: Limit) -> io::Result<Vec<u8>> {
    expect_regular(&fs::metadata(path)?)?;
    read(path, limit)
}

/// Reads all of a stream, up to its limit.
///
/// # Errors
/// It cannot be read, or holds more.
pub fn from(stream: impl io::Read, limit: Limit) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.take(limit.bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit.bytes {
        let reason = format!("it holds more than {} bytes, the most that {} may hold", limit.bytes, limit.kind);
        return Err(io::Error::new(ErrorKind::FileTooLarge, reason));
    }
    Ok(bytes)
}

/// Refuses what is no regular file: opening a FIFO would wait for somebody to write to it.
///
/// # Errors
/// It is a folder, a FIFO, a socket or a device.
pub fn expect_regular(of: &Metadata) -> io::Result<()> {
    if of.is_file() { Ok(()) } else { Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file")) }
}

/// How long a FIFO without a reader is waited for.
const READER: Duration = Duration::from_secs(3);

/// Writes a file. A regular file is replaced in one step, links to it are followed, its mode and owner stay. What is no
/// regular file is written to.
///
/// # Errors
/// It cannot be written: then what was there before is there still. A block device, a read-only file, and a FIFO that
/// nobody reads are refused.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let there = match fs::metadata(path) {
        Ok(there) => there,
        // A new file, or a link to where one shall be.
        Err(error) if error.kind() == ErrorKind::NotFound => return put(&followed(path)?.0, bytes, None),
        Err(error) => return Err(error),
    };
    if there.is_dir() {
        return Err(io::Error::new(ErrorKind::IsADirectory, "it is a folder"));
    }
    let (target, open_elsewhere) = followed(path)?;
    if there.is_file() && !open_elsewhere {
        // Its folder may be writable where the file is not meant to be.
        OpenOptions::new().write(true).open(&target)?;
        return put(&target, bytes, Some(&there));
    }
    let mut stream = stream(path, &there)?;
    stream.write_all(bytes)?;
    stream.flush()
}

/// Puts a regular file in the place of whatever lies there, in one step: for folders that are the project's own.
///
/// # Errors
/// The folder cannot be written.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    put(path, bytes, None)
}

/// A folder that nobody else holds: dropped, it is anybody's again.
#[derive(Debug)]
pub struct Held {
    _folder: File,
}

/// Waits until nobody else holds a folder, and holds it: for files that are read, changed and written anew. It leaves no
/// file behind and ends with the process.
///
/// # Errors
/// The folder is not there, or lies where nothing can be locked.
pub fn hold(folder: &Path) -> io::Result<Held> {
    let folder = File::open(folder)?;
    folder.lock()?;
    Ok(Held { _folder: folder })
}

/// Where a path leads when the links at its end are followed, and whether one of them stands for a file that a process
/// has open, such as `/dev/stdout`: that one must be written to, for who opened it looks at no name.
fn followed(path: &Path) -> io::Result<(PathBuf, bool)> {
    /// What Linux follows.
    const MOST_LINKS: usize = 40;
    let (mut target, mut open_elsewhere) = (path.to_owned(), false);
    for _ in 0..MOST_LINKS {
        if !fs::symlink_metadata(&target).is_ok_and(|there| there.is_symlink()) {
            return Ok((target, open_elsewhere));
        }
        let folder = target.parent().map(Path::to_owned).unwrap_or_default();
        open_elsewhere |= fs::canonicalize(&folder).is_ok_and(|folder| folder.starts_with("/proc"));
        target = folder.join(fs::read_link(&target)?);
    }
    Err(io::Error::other(format!("more than {MOST_LINKS} links lead on from it")))
}

/// A temporary file beside the target, renamed into its place when it is whole.
fn put(target: &Path, bytes: &[u8], before: Option<&Metadata>) -> io::Result<()> {
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    // Readable by whom the umask allows, as any new file; temporary ones are private otherwise.
    #[cfg(unix)]
    if before.is_none() {
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    }
    let mut file = builder.prefix(".gdn2-").tempfile_in(folder)?;
    file.write_all(bytes)?;
    if let Some(before) = before {
        #[cfg(unix)]
        {
            use std::os::unix::fs::{MetadataExt as _, fchown};
            // Only root can give files away; for others the new file is theirs.
            let _ = fchown(file.as_file(), Some(before.uid()), Some(before.gid()));
        }
        file.as_file().set_permissions(before.permissions())?;
    }
    file.as_file().sync_all()?;
    file.persist(target).map_err(|error| error.error)?;
    Ok(())
}

/// What is no regular file, opened to be written to.
#[cfg(unix)]
fn stream(path: &Path, there: &Metadata) -> io::Result<File> {
    use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
    let refused = |reason: &str| io::Error::new(ErrorKind::InvalidInput, reason.to_owned());
    let kind = there.file_type();
    if kind.is_block_device() {
        return Err(refused("it is a block device: name a file"));
    }
    if kind.is_socket() {
        return Err(refused("it is a socket: name a file, a FIFO or a character device"));
    }
    if !kind.is_fifo() {
        return OpenOptions::new().append(true).open(path);
    }
    let began = Instant::now();
    loop {
        // Opened without waiting, a FIFO that nobody reads is an error. Once one is open, the next open does not wait.
        match OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path) {
            Ok(_reader_is_there) => return OpenOptions::new().write(true).open(path),
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {}
            Err(error) => return Err(error),
        }
        if began.elapsed() > READER {
            return Err(refused("it is a FIFO that nobody reads: start its reader first"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(not(unix))]
fn stream(path: &Path, _there: &Metadata) -> io::Result<File> {
    OpenOptions::new().append(true).open(path)
}
