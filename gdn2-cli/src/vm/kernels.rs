//! Where kernels come from: a PTX text, CUDA that the NVRTC at hand compiles, or what Triton keeps.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gdn2_codegen::arch::Arch;
use gdn2_runtime::nvrtc::{Options, Text};
use gdn2_vm::{Module, SharedAlignment};
use serde::Deserialize;

use super::{read, usage};
use crate::compiler;
use crate::error::CliError;
use crate::read::DASH;

/// Bytes of a PTX or CUDA text, and of what Triton says of a kernel.
const MOST_TEXT: u64 = 1 << 28;
const MOST_METADATA: u64 = 1 << 20;
/// Files of Triton's that are looked at.
const MOST_FILES: usize = 10_000;

/// How CUDA is compiled.
#[derive(Default, clap::Args)]
pub struct Flags {
    /// CUDA: a folder of headers
    #[arg(short = 'I', value_name = "DIR")]
    include: Vec<String>,
    /// CUDA: a macro
    #[arg(short = 'D', value_name = "NAME[=VALUE]")]
    define: Vec<String>,
    #[command(flatten)]
    compiler: compiler::Flags,
    /// Where shared memory starts: aligned as the text declares it and no better, or to 1024 bytes, as drivers do today
    /// though no manual promises it; kernels of Triton's rely on that and always get it
    #[arg(long, value_enum, default_value_t)]
    shared_alignment: Start,
}

impl Flags {
    /// For PTX that somebody else's compiler made, which counts on what drivers do.
    pub fn as_drivers_do() -> Flags {
        Flags { shared_alignment: Start::Driver, ..Flags::default() }
    }
}

/// What the start of shared memory is aligned to.
#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum Start {
    /// What the text declares
    #[default]
    Declared,
    /// 1024 bytes
    Driver,
}

impl From<Start> for SharedAlignment {
    fn from(start: Start) -> Self {
        match start {
            Start::Declared => Self::DECLARED,
            Start::Driver => Self::DRIVER,
        }
    }
}

/// A loaded text.
pub struct Loaded {
    /// The PTX.
    pub ptx: String,
    /// The same, understood.
    pub module: Module,
    /// The file it is from.
    pub path: PathBuf,
    /// The CUDA it was compiled from here, and the name it was compiled under.
    pub source: Option<(String, String)>,
    /// Names in the PTX of kernels that were asked for by name expressions.
    lowered: BTreeMap<String, String>,
    /// What Triton says of its one kernel.
    pub triton: Option<Triton>,
}

/// What Triton writes beside a kernel.
#[derive(Clone, Debug, Deserialize)]
pub struct Triton {
    name: String,
    num_warps: u32,
    /// Dynamic shared memory, bytes.
    pub shared: u32,
}

impl Triton {
    /// Threads of a block.
    pub fn threads(&self) -> u32 {
        self.num_warps.saturating_mul(32)
    }
}

impl Loaded {
    fn of(ptx: String, path: &Path, shared: SharedAlignment) -> Result<Loaded, CliError> {
        let module =
            Module::parse_aligned(&ptx, shared).map_err(|error| usage(format!("{}: {error}", path.display())))?;
        Ok(Loaded { ptx, module, path: path.to_owned(), source: None, lowered: BTreeMap::new(), triton: None })
    }

    /// A PTX text, or a CUDA text (`.cu`) compiled for an architecture with these kernels by name.
    pub fn read(path: &Path, asked: &[&str], arch: Arch, flags: &Flags) -> Result<Loaded, CliError> {
        let bytes =
            if path == Path::new(DASH) { read(Path::new("/dev/stdin"), MOST_TEXT) } else { read(path, MOST_TEXT) };
        let cuda = path.extension().is_some_and(|extension| extension == "cu");
        let what = if cuda { "CUDA" } else { "PTX" };
        let text = String::from_utf8(bytes?).map_err(|_| usage(format!("{}: not a {what} text", path.display())))?;
        if !cuda {
            return Loaded::of(text, path, flags.shared_alignment.into());
        }
        // NVRTC puts the working folder before a name that is not absolute.
        let full = std::path::absolute(path).map_err(|source| CliError::Read { path: path.to_owned(), source })?;
        let name = full.to_string_lossy().into_owned();
        let beside = full.parent().map(|folder| format!("-I{}", folder.display()));
        let include = flags.include.iter().map(|folder| format!("-I{folder}"));
        let define = flags.define.iter().map(|define| format!("-D{define}"));
        let options =
            Options { extra: beside.into_iter().chain(include).chain(define).collect(), ..Options::default() };
        // What is mangled already names a kernel of the PTX.
        let mut expressions: Vec<String> =
            asked.iter().filter(|name| !name.starts_with("_Z")).map(|name| (*name).to_owned()).collect();
        expressions.sort();
        expressions.dedup();
        let compiler = flags.compiler.bare();
        let text = Text { source: &text, name: &name, expressions: &expressions };
        let (compiled, lowered) = compiler.nvrtc()?.compile_text(&text, arch.target(), &options)?;
        let source = Some((name.clone(), text.source.to_owned()));
        let lowered = expressions.iter().cloned().zip(lowered).collect();
        Ok(Loaded { source, lowered, ..Loaded::of(compiled.ptx, path, flags.shared_alignment.into())? })
    }

    /// The kernel of this name, or the only one, in a folder of Triton's cache.
    pub fn triton(folder: &Path, asked: Option<&str>) -> Result<Loaded, CliError> {
        let mut found = Vec::new();
        let mut seen = 0;
        below(folder, &mut found, &mut seen, 3)?;
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let wrong = |why: String| usage(format!("{}: {why}", folder.display()));
        let names = || {
            let mut names: Vec<&str> = found.iter().map(|(_, triton)| triton.name.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            names.join(", ")
        };
        let wanted: Vec<_> = found.iter().filter(|(_, triton)| asked.is_none_or(|name| triton.name == name)).collect();
        match wanted[..] {
            [(path, triton)] => {
                let text = String::from_utf8(read(path, MOST_TEXT)?);
                let text = text.map_err(|_| usage(format!("{}: not a PTX text", path.display())))?;
                Ok(Loaded { triton: Some(triton.clone()), ..Loaded::of(text, path, SharedAlignment::DRIVER)? })
            }
            [] if found.is_empty() => {
                Err(wrong("no kernel that Triton compiled: NAME.json beside NAME.ptx".to_owned()))
            }
            [] => Err(wrong(format!("no such kernel; it has {}", names()))),
            ref several if asked.is_none() && names().contains(',') => {
                Err(wrong(format!("{} kernels; choose --entry: {}", several.len(), names())))
            }
            ref several => {
                let folders = several.iter().filter_map(|(path, _)| path.parent());
                let folders: Vec<String> = folders.map(|folder| folder.display().to_string()).collect();
                Err(wrong(format!("compiled {} times; choose one of {}", folders.len(), folders.join(", "))))
            }
        }
    }

    /// The name in the PTX of the kernel that is asked for, or of the only one.
    pub fn entry(&self, asked: Option<&str>) -> Result<String, CliError> {
        if let Some(asked) = asked {
            return Ok(self.lowered.get(asked).cloned().unwrap_or_else(|| asked.to_owned()));
        }
        let path = self.path.display();
        match self.module.entries().collect::<Vec<_>>()[..] {
            [only] => Ok(only.to_owned()),
            [] if self.source.is_some() => Err(usage(format!(
                "{path}: no kernel (`__global__`) in it; a template is compiled where --entry names it, as in 'scale<float>'"
            ))),
            [] => Err(usage(format!("{path}: no kernel (`.entry`) in it"))),
            ref several => Err(usage(format!("choose --entry: {}", several.join(", ")))),
        }
    }

    /// The architecture the text is for, rounded up to one whose limits are known.
    pub fn target(&self) -> Arch {
        let words = self.ptx.split_whitespace();
        let named = words.skip_while(|word| *word != ".target").nth(1).unwrap_or_default();
        let digits = named.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit);
        let sm: u32 = digits.collect::<String>().parse().unwrap_or(80);
        Arch::ALL.into_iter().find(|arch| arch.limits().sm >= sm).unwrap_or(Arch::Sm120)
    }
}

/// Kernels of Triton's below a folder: the PTX and what is said of it.
fn below(folder: &Path, found: &mut Vec<(PathBuf, Triton)>, seen: &mut usize, depth: u32) -> Result<(), CliError> {
    let entries = std::fs::read_dir(folder).map_err(|source| CliError::Read { path: folder.to_owned(), source })?;
    for path in entries.flatten().map(|entry| entry.path()) {
        *seen += 1;
        if *seen > MOST_FILES {
            return Err(usage(format!("{}: more than {MOST_FILES} files; name a folder in it", folder.display())));
        }
        let ptx = path.with_extension("ptx");
        if path.is_dir() {
            if depth > 0 {
                below(&path, found, seen, depth - 1)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "json") && ptx.is_file() {
            // A list of a kernel's files has the same ending; it says nothing of threads.
            let bytes = read(&path, MOST_METADATA)?;
            if let Ok(triton) = serde_json::from_slice::<Triton>(&bytes) {
                found.push((ptx, triton));
            }
        }
    }
    Ok(())
}
