//! What is written goes through links, FIFOs and devices, keeps modes, and is whole; what is read has a largest size.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use gdn2_runtime::files::{self, Limit};
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_regular_file_keeps_its_mode_and_is_replaced_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    for bits in [0o600, 0o640, 0o755] {
        fs::write(&path, "before, and longer than what comes").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
        let before = fs::File::open(&path).unwrap();
        files::write(&path, b"after").unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"after".to_vec(), bits));
        assert_eq!(
            std::io::read_to_string(before).unwrap(),
            "before, and longer than what comes",
            "who read it reads on"
        );
    }
    assert_eq!(names(folder.path()), ["out"]);
}

#[test]
fn links_are_followed_and_stay() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("deep")).unwrap();
    symlink("deep/second", at("first")).unwrap();
    symlink("../target", at("deep/second")).unwrap();
    symlink("loop", at("loop")).unwrap();
    // Where there is nothing yet, and where there is something.
    for text in ["new", "again"] {
        files::write(&at("first"), text.as_bytes()).unwrap();
        assert_eq!(fs::read_to_string(at("target")).unwrap(), text);
        assert_eq!(fs::read_link(at("first")).unwrap(), Path::new("deep/second"));
        assert_eq!(fs::read_link(at("deep/second")).unwrap(), Path::new("../target"));
    }
    assert!(files::write(&at("loop"), b"x").is_err());
    assert_eq!(names(folder.path()), ["deep", "first", "loop", "target"]);
}

#[test]
fn a_fifo_is_written_to_where_somebody_reads_and_refused_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let (pipe, link) = (folder.path().join("pipe"), folder.path().join("link"));
    fifo(&pipe);
    symlink("pipe", &link).unwrap();
    let error = files::write(&pipe, b"lost").unwrap_err().to_string();
    assert!(error.contains("FIFO") && error.contains("reader"), "{error}");
    for path in [&pipe, &link] {
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        let bytes = vec![7u8; 300_000];
        files::write(path, &bytes).unwrap();
        assert_eq!(reader.join().unwrap(), bytes);
    }
    assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
}

#[test]
fn a_device_stays_a_device() {
    // Only root may make one; what nobody may make cannot be replaced either.
    let folder = tempfile::tempdir().unwrap();
    let null = folder.path().join("null");
    let made = Command::new("mknod").arg(&null).args(["c", "1", "3"]).output().unwrap();
    if !made.status.success() {
        return;
    }
    // Some systems let devices be made and not be opened.
    if files::write(&null, b"gone").is_ok() {
        assert_eq!(fs::metadata(&null).unwrap().len(), 0);
    }
    assert!(fs::metadata(&null).unwrap().file_type().is_char_device());
    assert_eq!(names(folder.path()), ["null"]);
}

#[test]
fn folders_and_sockets_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for path in [folder.path(), &socket] {
        assert!(files::write(path, b"x").is_err());
    }
    assert!(fs::symlink_metadata(&socket).unwrap().file_type().is_socket());
}

#[test]
fn reading_ends_at_the_limit_and_takes_no_fifo_that_was_only_found() {
    let limit = Limit { kind: "a test file", bytes: 1000 };
    let error = files::read(Path::new("/dev/zero"), limit).unwrap_err().to_string();
    assert!(error.contains("1000 bytes") && error.contains("a test file"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, vec![1u8; 1000]).unwrap();
    assert_eq!(files::read(&path, limit).unwrap().len(), 1000);
    fs::write(&path, vec![1u8; 1001]).unwrap();
    assert!(files::read(&path, limit).is_err());
    let pipe = folder.path().join("pipe");
    fifo(&pipe);
    for found in [&pipe, Path::new("/dev/zero"), folder.path()] {
        let error = files::read_regular(found, limit).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }
}

#[test]
fn who_holds_a_folder_is_alone_with_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("count");
    fs::write(&path, "0").unwrap();
    let (threads, times) = (4, 25);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                for _ in 0..times {
                    let _held = files::hold(folder.path()).unwrap();
                    let count: u32 = fs::read_to_string(&path).unwrap().parse().unwrap();
                    files::write(&path, (count + 1).to_string().as_bytes()).unwrap();
                }
            });
        }
    });
    assert_eq!(fs::read_to_string(&path).unwrap(), (threads * times).to_string());
    assert_eq!(names(folder.path()), ["count"], "holding leaves nothing behind");
}
