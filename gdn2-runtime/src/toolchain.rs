//! Where NVIDIA's compiler pieces are: the search for NVRTC and nvdisasm, and `gdn2 toolchain install`, which fetches
//! the pinned wheels with pip into the project's cache.

use crate::cache;
use crate::pinned::{NVDISASM, NVRTC, Wheel};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The wheel that carries NVRTC, as pip spells it.
pub const NVRTC_WHEEL: &str = NVRTC.requirement;
/// The wheel that carries nvdisasm: the oldest there is, it reads 13.0 cubins.
pub const NVDISASM_WHEEL: &str = NVDISASM.requirement;

/// Why a tool could not be fetched or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ToolchainError {
    /// pip could not be started or failed.
    #[error("`{command}` failed: {reason}; install python3 with pip, or set GDN2_NVRTC to an existing NVRTC")]
    Pip {
        /// The command line.
        command: String,
        /// Exit status and last lines of its output.
        reason: String,
    },
    /// A wheel without the file it is fetched for.
    #[error("{wheel} holds no {file}")]
    Wheel {
        /// The wheel.
        wheel: &'static str,
        /// The file looked for.
        file: &'static str,
    },
    /// What pip unpacked is not what the wheel is known to hold.
    #[error("{0}; what pip unpacked was altered on its way to the disk")]
    Damaged(String),
    /// The cache could not be written.
    #[error("{path}: {source}")]
    Io {
        /// What was being written.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// No usable cache folder.
    #[error(transparent)]
    Cache(#[from] cache::CacheError),
    /// nvdisasm is nowhere.
    #[error("nvdisasm was not found; run `gdn2 toolchain install`. Tried:\n  {}", tried.join("\n  "))]
    NoDisassembler {
        /// Places, in order.
        tried: Vec<String>,
    },
    /// nvdisasm refused the cubin.
    #[error("nvdisasm: {0}")]
    Disassemble(String),
}

/// Where to look. Holds the environment it was made from, so that a search is repeatable.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// A library file or its folder, given on the command line: nothing else is looked at.
    pub explicit: Option<PathBuf>,
    /// `GDN2_NVRTC`: likewise.
    pub environment: Option<PathBuf>,
    /// Roots of installed CUDA toolkits.
    pub toolkits: Vec<PathBuf>,
    /// Whether the system loader and `python3`'s site-packages are asked.
    pub system: bool,
    /// The project's cache folder.
    pub cache: Option<PathBuf>,
}

/// One step of the search, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Explicit,
    Environment,
    Toolkit,
    Loader,
    Wheels,
    Cache,
}

/// An NVRTC to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) library: PathBuf,
    pub(crate) builtins: Option<PathBuf>,
}

impl Search {
    /// The search of this process's environment. `explicit` and `cache` come from flags.
    pub fn from_environment(explicit: Option<PathBuf>, cache: Option<PathBuf>) -> Search {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let mut toolkits: Vec<PathBuf> = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(set).collect();
        // /usr/local/cuda is the system's choice among the versions beside it; the rest newest first.
        let mut versions = children(Path::new("/usr/local"), |name| name == "cuda" || name.starts_with("cuda-"));
        versions.sort_by_key(|path| (path.ends_with("cuda"), version_key(path)));
        toolkits.extend(versions.into_iter().rev());
        Search { explicit, environment: set("GDN2_NVRTC"), toolkits, system: true, cache: cache::directory(cache).ok() }
    }

    pub(crate) fn steps(&self) -> Vec<Step> {
        if self.explicit.is_some() {
            return vec![Step::Explicit];
        }
        if self.environment.is_some() {
            return vec![Step::Environment];
        }
        vec![Step::Toolkit, Step::Loader, Step::Wheels, Step::Cache]
    }
}

/// The candidates of one step; where there is none, a line in `tried` says so.
pub(crate) fn candidates(search: &Search, step: Step, tried: &mut Vec<String>) -> Vec<Candidate> {
    let place = |what: &str, path: &Option<PathBuf>, tried: &mut Vec<String>| match path {
        Some(path) if path.is_file() => {
            vec![Candidate { library: absolute(path), builtins: path.parent().and_then(|dir| builtins(dir, path)) }]
        }
        Some(path) => {
            let found = in_folder(path);
            if found.is_empty() {
                tried.push(format!("{what} {}: no libnvrtc.so there", path.display()));
            }
            found
        }
        None => {
            tried.push(format!("{what}: none"));
            Vec::new()
        }
    };
    let folders = |what: &str, folders: Vec<PathBuf>, tried: &mut Vec<String>| {
        let found: Vec<Candidate> = folders.iter().flat_map(|folder| in_folder(folder)).collect();
        if found.is_empty() {
            let list: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
            let list =
                if list.is_empty() { "none".to_owned() } else { format!("no libnvrtc.so in {}", list.join(", ")) };
            tried.push(format!("{what}: {list}"));
        }
        found
    };
    match step {
        Step::Explicit => place("given path", &search.explicit, tried),
        Step::Environment => place("GDN2_NVRTC", &search.environment, tried),
        Step::Toolkit => {
            let libraries = ["lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"];
            let roots = search.toolkits.iter();
            folders("CUDA toolkits", roots.flat_map(|root| libraries.map(|sub| root.join(sub))).collect(), tried)
        }
        Step::Loader if search.system => ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"]
            .map(|name| Candidate { library: name.into(), builtins: None })
            .to_vec(),
        Step::Wheels if search.system => folders("Python wheels", wheel_folders("lib"), tried),
        Step::Loader | Step::Wheels => Vec::new(),
        Step::Cache => {
            let folder = search.cache.as_ref().map(|cache| installed(cache, &NVRTC));
            match folder.as_deref().filter(|folder| folder.exists()).and_then(|folder| NVRTC.damage(folder)) {
                Some(damage) => {
                    tried.push(format!("project cache: {damage}; `gdn2 toolchain install` fetches it again"));
                    Vec::new()
                }
                None => place("project cache", &folder, tried),
            }
        }
    }
}

/// NVRTC libraries of a folder, newest name first, each with the builtins of its own major.
fn in_folder(folder: &Path) -> Vec<Candidate> {
    let mut libraries = children(folder, |name| name.starts_with("libnvrtc.so") && !name.contains(".alt"));
    libraries.sort_by_key(|path| version_key(path));
    // The unversioned name and the full version are links to, or from, the same file: one try each is enough.
    let mut seen = BTreeSet::new();
    libraries
        .into_iter()
        .rev()
        .map(|library| absolute(&library))
        .filter(|library| seen.insert(library.clone()))
        .map(|library| Candidate { builtins: builtins(folder, &library), library })
        .collect()
}

fn builtins(folder: &Path, library: &Path) -> Option<PathBuf> {
    let major = version_key(library).first().copied();
    let mut found = children(folder, |name| name.starts_with("libnvrtc-builtins.so") && !name.contains(".alt"));
    found.sort_by_key(|path| version_key(path));
    let matching = found.iter().rev().find(|path| major.is_none() || version_key(path).first().copied() == major);
    matching.map(|path| absolute(path))
}

/// The numbers of a file name: `libnvrtc.so.13` → `[13]`.
fn version_key(path: &Path) -> Vec<u32> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let tail = name.split_once(".so").map_or(name.as_str(), |(_, tail)| tail);
    tail.split(['.', '-']).filter_map(|part| part.parse().ok()).collect()
}

fn children(folder: &Path, keep: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| keep(&entry.file_name().to_string_lossy())).map(|entry| entry.path()).collect()
}

fn absolute(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// `python3` that runs nothing of the current folder: isolated, it looks for modules in its own folders alone.
fn python() -> Command {
    let mut python = Command::new("python3");
    python.arg("-I").stdin(Stdio::null());
    python
}

/// `nvidia/*/SUB` of every site-packages folder `python3` has.
fn wheel_folders(sub: &str) -> Vec<PathBuf> {
    let script = "import site, sysconfig\n\
        paths = [sysconfig.get_path('purelib'), sysconfig.get_path('platlib')]\n\
        paths += getattr(site, 'getsitepackages', list)() + [site.getusersitepackages()]\n\
        print('\\n'.join(dict.fromkeys(paths)))";
    let Ok(output) = python().args(["-c", script]).output() else { return Vec::new() };
    if !output.status.success() {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let folders = text.lines().map(Path::new).filter(|folder| folder.is_absolute());
    let packages = folders.flat_map(|folder| children(&folder.join("nvidia"), |_| true));
    packages.map(|package| package.join(sub)).filter(|folder| folder.is_dir()).collect()
}

/// The folder a wheel's files are kept in.
fn installed(cache: &Path, wheel: &Wheel) -> PathBuf {
    cache.join("toolchain").join(wheel.requirement.replace("==", "-"))
}

/// Fetches NVRTC and nvdisasm into the cache. What is there already and holds the pinned bytes is left alone, what was
/// truncated or altered is fetched again; each tool appears whole or not at all, so several installs may run at once.
/// `progress` is told what is being done, one line at a time.
///
/// # Errors
/// pip is missing, failed or was served a wheel with another hash, a wheel lacks its file, or the cache cannot be written.
pub fn install(cache: Option<PathBuf>, progress: &mut dyn FnMut(&str)) -> Result<Installed, ToolchainError> {
    let cache = cache::directory(cache)?;
    let nvrtc = install_wheel(&cache, &NVRTC, progress)?;
    let nvdisasm = install_wheel(&cache, &NVDISASM, progress)?;
    Ok(Installed { nvrtc, nvdisasm: nvdisasm.join("nvdisasm") })
}

/// Where `install` put things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Folder of libnvrtc and its builtins.
    pub nvrtc: PathBuf,
    /// The nvdisasm program.
    pub nvdisasm: PathBuf,
}

fn install_wheel(
    cache: &Path,
    wheel: &'static Wheel,
    progress: &mut dyn FnMut(&str),
) -> Result<PathBuf, ToolchainError> {
    let target = installed(cache, wheel);
    let name = wheel.requirement;
    if target.exists() {
        match wheel.damage(&target) {
            None => {
                progress(&format!("{name} is in {}", target.display()));
                return Ok(target);
            }
            Some(damage) => progress(&damage),
        }
    }
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| ToolchainError::Io { path, source }
    };
    let parent = cache.join("toolchain");
    std::fs::create_dir_all(&parent).map_err(io(&parent))?;
    let work = tempfile::Builder::new().prefix(".fetch-").tempdir_in(&parent).map_err(io(&parent))?;
    progress(&format!("fetching {name}"));
    let unpacked = work.path().join("unpacked");
    let requirements = work.path().join("requirements.txt");
    std::fs::write(&requirements, wheel.requirements()).map_err(io(&requirements))?;
    pip(&unpacked, &requirements, name)?;
    let kept = work.path().join("kept");
    std::fs::create_dir(&kept).map_err(io(&kept))?;
    for file in wheel.files.iter().map(|file| file.name) {
        let found = find_file(&unpacked, file).ok_or(ToolchainError::Wheel { wheel: name, file })?;
        std::fs::rename(&found, kept.join(file)).map_err(io(&found))?;
    }
    if let Some(damage) = wheel.damage(&kept) {
        return Err(ToolchainError::Damaged(damage));
    }
    if let Err(source) = std::fs::rename(&kept, &target) {
        // Someone else finished first, or what lies there is broken and makes room.
        if wheel.damage(&target).is_some() {
            let aside = work.path().join("broken");
            let moved = std::fs::rename(&target, aside).and_then(|()| std::fs::rename(&kept, &target));
            moved.map_err(|_| ToolchainError::Io { path: target.clone(), source })?;
        }
    }
    progress(&format!("{name} is in {}", target.display()));
    Ok(target)
}

fn pip(target: &Path, requirements: &Path, wheel: &str) -> Result<(), ToolchainError> {
    let options = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-input", "--disable-pip-version-check"];
    // No other bytes than the pinned ones, and nothing that would have to be built.
    let pinned = ["--require-hashes", "--only-binary=:all:"];
    let failed = |reason: String| ToolchainError::Pip { command: format!("python3 -I -m pip install {wheel}"), reason };
    let mut command = python();
    command.args(options).args(pinned).arg("--target").arg(target).arg("--requirement").arg(requirements);
    let output = command.output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let last: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).rev().take(5).collect();
    Err(failed(format!("{}: {}", output.status, last.into_iter().rev().collect::<Vec<_>>().join(" | "))))
}

fn find_file(folder: &Path, name: &str) -> Option<PathBuf> {
    let entries = children(folder, |_| true);
    if let Some(found) = entries.iter().find(|path| path.is_file() && path.file_name().is_some_and(|file| file == name))
    {
        return Some(found.clone());
    }
    entries.iter().filter(|path| path.is_dir()).find_map(|sub| find_file(sub, name))
}

/// A disassembler: cubin to SASS text.
#[derive(Clone, Debug)]
pub struct Nvdisasm(PathBuf);

impl Nvdisasm {
    /// Looks where NVRTC is looked for, each time in the `bin` folder beside it, and on the `PATH`.
    ///
    /// # Errors
    /// [`ToolchainError::NoDisassembler`] with every place tried.
    pub fn find(search: &Search) -> Result<Nvdisasm, ToolchainError> {
        let beside = |path: &PathBuf| path.ancestors().take(4).map(|up| up.join("bin")).collect::<Vec<_>>();
        let mut folders: Vec<PathBuf> = search.explicit.iter().chain(&search.environment).flat_map(beside).collect();
        folders.extend(search.toolkits.iter().map(|root| root.join("bin")));
        if search.system {
            // An empty or relative entry would mean a program of the current folder.
            let path = std::env::var_os("PATH");
            folders.extend(path.iter().flat_map(std::env::split_paths).filter(|folder| folder.is_absolute()));
            folders.extend(wheel_folders("bin"));
        }
        let mut tried = Vec::new();
        for folder in folders {
            let program = folder.join("nvdisasm");
            if program.is_file() {
                return Ok(Nvdisasm(program));
            }
            tried.push(program.display().to_string());
        }
        if let Some(folder) = search.cache.as_ref().map(|cache| installed(cache, &NVDISASM)) {
            match NVDISASM.damage(&folder) {
                None => return Ok(Nvdisasm(folder.join("nvdisasm"))),
                Some(damage) => tried.push(damage),
            }
        }
        Err(ToolchainError::NoDisassembler { tried })
    }

    /// The SASS text of a cubin.
    ///
    /// # Errors
    /// The cubin could not be handed over or was refused.
    pub fn sass(&self, cubin: &[u8]) -> Result<String, ToolchainError> {
        self.run(cubin, &["-c"])
    }

    /// The SASS text of a cubin with each instruction's 128 bits, control word included, in two comments after it.
    ///
    /// # Errors
    /// As [`Nvdisasm::sass`].
    pub fn encoded_sass(&self, cubin: &[u8]) -> Result<String, ToolchainError> {
        self.run(cubin, &["-c", "-hex"])
    }

    fn run(&self, cubin: &[u8], arguments: &[&str]) -> Result<String, ToolchainError> {
        let io = |source| ToolchainError::Io { path: self.0.clone(), source };
        let mut file = tempfile::Builder::new().suffix(".cubin").tempfile().map_err(io)?;
        std::io::Write::write_all(&mut file, cubin).map_err(io)?;
        let output = Command::new(&self.0).args(arguments).arg(file.path()).output().map_err(io)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(ToolchainError::Disassemble(if said.is_empty() { output.status.to_string() } else { said }))
    }
}
