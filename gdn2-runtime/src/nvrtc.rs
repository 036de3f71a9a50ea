//! NVRTC by ten of its functions, opened at run time: CUDA text to PTX, cubin and the assembler's resource report.
//!
//! The builtins library is opened first, by absolute path: libnvrtc looks for it through the loader's path alone, which
//! does not hold the folder of a Python wheel.

use crate::elf;
use crate::toolchain::{self, Search};
use libloading::Library;
use serde::{Deserialize, Serialize};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

/// Oldest release that knows every architecture of the table (`sm_120`).
pub const OLDEST: Version = Version { major: 12, minor: 8 };

/// The name every text is compiled under. Absolute: NVRTC would put the working folder before any other into the PTX.
pub(crate) const NAME: &CStr = c"/kernel.cu";

/// A compiler release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// Major, the driver's major must not be older.
    pub major: u32,
    /// Minor.
    pub minor: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl std::str::FromStr for Version {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
        Ok(Version { major: major.parse()?, minor: minor.parse()? })
    }
}

/// Why there is no compiled kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NvrtcError {
    /// No usable NVRTC. Each line says where one was looked for and what was wrong.
    #[error("NVRTC {OLDEST} or newer was not found; run `gdn2 toolchain install`, or set GDN2_NVRTC. Tried:\n  {}", tried.join("\n  "))]
    Missing {
        /// Places, in order, each with its reason.
        tried: Vec<String>,
    },
    /// The compiler refused the text.
    #[error("NVRTC {version} for {target}: {reason}\n{log}")]
    Compile {
        /// The compiler.
        version: Version,
        /// Architecture asked for.
        target: String,
        /// NVRTC's name for what happened.
        reason: String,
        /// The program log, with source lines and carets.
        log: String,
    },
    /// A source, option or target with a NUL byte, which C strings cannot hold.
    #[error("{0} holds a NUL byte")]
    Nul(&'static str),
    /// A hand-edited text that does not fit the kernel it is to stand for.
    #[error(transparent)]
    Edited(#[from] gdn2_codegen::edited::EditedError),
}

/// How to compile.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Options {
    /// `-lineinfo`: `.loc` lines in the PTX, free at run time.
    pub line_info: bool,
    /// Further options, as NVRTC spells them.
    pub extra: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options { line_info: true, extra: Vec::new() }
    }
}

impl Options {
    /// The option list as given to the compiler, the resource report asked for.
    pub fn arguments(&self, target: &str) -> Vec<String> {
        let mut arguments =
            vec![format!("--gpu-architecture={target}"), "--std=c++17".to_owned(), "--ptxas-options=-v".to_owned()];
        if self.line_info {
            arguments.push("-lineinfo".to_owned());
        }
        arguments.extend(self.extra.iter().cloned());
        arguments
    }
}

/// What the assembler says one entry takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryResources {
    /// Entry name.
    pub entry: String,
    /// 32-bit registers per thread.
    pub registers: u32,
    /// Bytes of spill stores per thread.
    pub spill_stores: u32,
    /// Bytes of spill loads per thread.
    pub spill_loads: u32,
    /// Bytes of stack frame per thread.
    pub stack: u32,
    /// Static shared memory per block, bytes.
    pub static_shared: u32,
    /// Named barriers.
    pub barriers: u32,
}

/// One compilation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compiled {
    /// PTX text.
    pub ptx: String,
    /// Machine code (ELF).
    pub cubin: Vec<u8>,
    /// The program log, assembler report included.
    pub log: String,
    /// The assembler's report, entry by entry.
    pub resources: Vec<EntryResources>,
    /// The compiler that made it.
    pub version: Version,
}

type Program = *mut c_void;
type Status = c_int;

/// An open NVRTC. Compiles from several threads run side by side.
pub struct Nvrtc {
    path: PathBuf,
    version: Version,
    functions: Functions,
    // Dropped last: the functions above point into them.
    _libraries: Vec<Library>,
}

struct Functions {
    error: unsafe extern "C" fn(Status) -> *const c_char,
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> Status,
    destroy: unsafe extern "C" fn(*mut Program) -> Status,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Status,
    name: unsafe extern "C" fn(Program, *const c_char) -> Status,
    lowered: unsafe extern "C" fn(Program, *const c_char, *mut *const c_char) -> Status,
    log: Output,
    ptx: Output,
    cubin: Output,
}

/// Somebody's CUDA text.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// The text.
    pub source: &'a str,
    /// The name that it goes by in messages and lines.
    pub name: &'a str,
    /// Kernels by name expressions, such as `scale<float>`: what is asked for here is compiled.
    pub expressions: &'a [String],
}

/// A size query and the read that goes with it.
struct Output {
    size: unsafe extern "C" fn(Program, *mut usize) -> Status,
    get: unsafe extern "C" fn(Program, *mut c_char) -> Status,
}

impl std::fmt::Debug for Nvrtc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nvrtc").field("path", &self.path).field("version", &self.version).finish_non_exhaustive()
    }
}

impl Nvrtc {
    /// Opens the first usable NVRTC of the search: explicit path, `GDN2_NVRTC`, an installed CUDA toolkit, Python
    /// wheels, the project's cache.
    ///
    /// # Errors
    /// [`NvrtcError::Missing`] with every place that was tried.
    pub fn find(search: &Search) -> Result<Nvrtc, NvrtcError> {
        let mut tried = Vec::new();
        for step in search.steps() {
            for candidate in toolchain::candidates(search, step, &mut tried) {
                match Nvrtc::open(&candidate.library, candidate.builtins.as_deref()) {
                    Ok(found) => return Ok(found),
                    Err(reason) => tried.push(format!("{}: {reason}", candidate.library.display())),
                }
            }
        }
        Err(NvrtcError::Missing { tried })
    }

    /// Opens one library; the error is the reason it cannot serve.
    fn open(path: &Path, builtins: Option<&Path>) -> Result<Nvrtc, String> {
        // The loader maps files without looking at their ends: a truncated one would end the process with SIGBUS.
        for library in [Some(path), builtins].into_iter().flatten().filter(|library| library.is_absolute()) {
            elf::expect_whole(library).map_err(|reason| format!("{}: {reason}", library.display()))?;
        }
        let mut libraries = Vec::new();
        // SAFETY: loading runs the libraries' initialisers; these are NVIDIA's compiler libraries, which do nothing
        // there but register themselves. Each symbol below is read with the type nvrtc.h declares for it.
        let (functions, version) = unsafe {
            if let Some(builtins) = builtins {
                libraries.push(Library::new(builtins).map_err(|error| format!("{}: {error}", builtins.display()))?);
            }
            let library = Library::new(path).map_err(|error| error.to_string())?;
            let output = |size: &str, get: &str| -> Result<Output, String> {
                Ok(Output { size: symbol(&library, size)?, get: symbol(&library, get)? })
            };
            let functions = Functions {
                error: symbol(&library, "nvrtcGetErrorString")?,
                create: symbol(&library, "nvrtcCreateProgram")?,
                destroy: symbol(&library, "nvrtcDestroyProgram")?,
                compile: symbol(&library, "nvrtcCompileProgram")?,
                name: symbol(&library, "nvrtcAddNameExpression")?,
                lowered: symbol(&library, "nvrtcGetLoweredName")?,
                log: output("nvrtcGetProgramLogSize", "nvrtcGetProgramLog")?,
                ptx: output("nvrtcGetPTXSize", "nvrtcGetPTX")?,
                cubin: output("nvrtcGetCUBINSize", "nvrtcGetCUBIN")?,
            };
            let query: unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status = symbol(&library, "nvrtcVersion")?;
            let (mut major, mut minor) = (0, 0);
            if query(&raw mut major, &raw mut minor) != 0 {
                return Err("nvrtcVersion failed".to_owned());
            }
            let version =
                Version { major: u32::try_from(major).unwrap_or(0), minor: u32::try_from(minor).unwrap_or(0) };
            libraries.push(library);
            (functions, version)
        };
        if version < OLDEST {
            return Err(format!("release {version}, need {OLDEST} or newer"));
        }
        let nvrtc = Nvrtc { path: path.to_owned(), version, functions, _libraries: libraries };
        // A library without its builtins opens but compiles nothing: find out here, where the search can go on.
        match nvrtc.compile("extern \"C\" __global__ void probe() {}", "sm_80", &Options::default()) {
            Ok(_) => Ok(nvrtc),
            Err(error) => Err(error.to_string().replace('\n', " ")),
        }
    }

    /// Its release.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The library file, as it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Compiles CUDA text for a target such as `sm_90a`.
    ///
    /// # Errors
    /// [`NvrtcError::Compile`] with the compiler's log.
    pub fn compile(&self, source: &str, target: &str, options: &Options) -> Result<Compiled, NvrtcError> {
        let text = CString::new(source).map_err(|_| NvrtcError::Nul("the source"))?;
        self.program(&text, NAME, &[], target, options).map(|(compiled, _)| compiled)
    }

    /// Compiles somebody's text; with it come the names that its name expressions have in the PTX, in their order.
    ///
    /// # Errors
    /// [`NvrtcError::Compile`] with the compiler's log.
    pub fn compile_text(
        &self,
        text: &Text<'_>,
        target: &str,
        options: &Options,
    ) -> Result<(Compiled, Vec<String>), NvrtcError> {
        let c = |text: &str, what| CString::new(text).map_err(|_| NvrtcError::Nul(what));
        let (source, name) = (c(text.source, "the source")?, c(text.name, "the name of the source")?);
        let expressions: Vec<CString> =
            text.expressions.iter().map(|one| c(one, "the name of a kernel")).collect::<Result<_, _>>()?;
        self.program(&source, &name, &expressions, target, options)
    }

    fn program(
        &self,
        source: &CStr,
        name: &CStr,
        expressions: &[CString],
        target: &str,
        options: &Options,
    ) -> Result<(Compiled, Vec<String>), NvrtcError> {
        let arguments = options
            .arguments(target)
            .into_iter()
            .map(|option| CString::new(option).map_err(|_| NvrtcError::Nul("an option")))
            .collect::<Result<Vec<CString>, _>>()?;
        let pointers: Vec<*const c_char> = arguments.iter().map(|option| option.as_ptr()).collect();
        let count = c_int::try_from(pointers.len()).map_err(|_| NvrtcError::Nul("the option count"))?;
        let fail = |status: Status, log: String| NvrtcError::Compile {
            version: self.version,
            target: target.to_owned(),
            reason: self.reason(status),
            log,
        };
        let program =
            OwnedProgram::create(&self.functions, source, name).map_err(|status| fail(status, String::new()))?;
        for expression in expressions {
            // SAFETY: the program is live, the text NUL-terminated; NVRTC copies it.
            let status = unsafe { (self.functions.name)(program.handle, expression.as_ptr()) };
            if status != 0 {
                return Err(fail(status, format!("name expression {}", expression.to_string_lossy())));
            }
        }
        // SAFETY: the program is live, the pointers are of NUL-terminated strings that outlive the call.
        let status = unsafe { (self.functions.compile)(program.handle, count, pointers.as_ptr()) };
        let log = program.read(&self.functions.log).map(c_text).unwrap_or_default();
        if status != 0 {
            return Err(fail(status, log));
        }
        let lowered = expressions
            .iter()
            .map(|one| program.lowered(one))
            .collect::<Result<_, _>>()
            .map_err(|status| fail(status, log.clone()))?;
        let ptx = program.read(&self.functions.ptx).map(c_text).map_err(|status| fail(status, log.clone()))?;
        let cubin = program.read(&self.functions.cubin).map_err(|status| fail(status, log.clone()))?;
        let resources = parse_report(&log);
        Ok((Compiled { ptx, cubin, log, resources, version: self.version }, lowered))
    }

    fn reason(&self, status: Status) -> String {
        // SAFETY: NVRTC returns a static string for any status.
        unsafe {
            let text = (self.functions.error)(status);
            if text.is_null() {
                return format!("status {status}");
            }
            CStr::from_ptr(text).to_string_lossy().into_owned()
        }
    }
}

/// # Safety
/// `T` must be the function pointer type the library declares for `name`.
unsafe fn symbol<T: Copy>(library: &Library, name: &str) -> Result<T, String> {
    // SAFETY: the caller's promise.
    unsafe { library.get::<T>(name).map(|symbol| *symbol).map_err(|error| error.to_string()) }
}

/// A program that is destroyed with its owner.
struct OwnedProgram<'a> {
    functions: &'a Functions,
    handle: Program,
}

impl<'a> OwnedProgram<'a> {
    fn create(functions: &'a Functions, text: &CStr, name: &CStr) -> Result<Self, Status> {
        let mut handle: Program = std::ptr::null_mut();
        // SAFETY: both texts are NUL-terminated, no headers are given, NVRTC copies what it keeps.
        let status = unsafe {
            (functions.create)(&raw mut handle, text.as_ptr(), name.as_ptr(), 0, std::ptr::null(), std::ptr::null())
        };
        if status == 0 { Ok(OwnedProgram { functions, handle }) } else { Err(status) }
    }

    /// The name that a name expression has in the PTX.
    fn lowered(&self, expression: &CStr) -> Result<String, Status> {
        let mut name: *const c_char = std::ptr::null();
        // SAFETY: the program is live and compiled; the name is the program's own and is copied before it ends.
        unsafe {
            let status = (self.functions.lowered)(self.handle, expression.as_ptr(), &raw mut name);
            if status != 0 || name.is_null() {
                return Err(status);
            }
            Ok(CStr::from_ptr(name).to_string_lossy().into_owned())
        }
    }

    fn read(&self, output: &Output) -> Result<Vec<u8>, Status> {
        let mut size = 0usize;
        // SAFETY: the program is live; the second call writes exactly the bytes the first one announced.
        unsafe {
            let status = (output.size)(self.handle, &raw mut size);
            if status != 0 {
                return Err(status);
            }
            let mut bytes = vec![0u8; size];
            let status = (output.get)(self.handle, bytes.as_mut_ptr().cast());
            if status == 0 { Ok(bytes) } else { Err(status) }
        }
    }
}

impl Drop for OwnedProgram<'_> {
    fn drop(&mut self) {
        // SAFETY: created by `create`, destroyed once.
        unsafe { (self.functions.destroy)(&raw mut self.handle) };
    }
}

fn c_text(mut bytes: Vec<u8>) -> String {
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads `ptxas -v` lines: an entry's name, then its properties, then what it uses.
fn parse_report(log: &str) -> Vec<EntryResources> {
    let mut entries: Vec<EntryResources> = Vec::new();
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let entry = rest.split('\'').next().unwrap_or_default().to_owned();
            entries.push(EntryResources { entry, ..EntryResources::default() });
        }
        let Some(current) = entries.last_mut() else { continue };
        for part in line.split(',') {
            let mut words = part.split_whitespace().skip_while(|word| word.parse::<u32>().is_err());
            let Some(Ok(number)) = words.next().map(str::parse::<u32>) else { continue };
            match words.collect::<Vec<_>>().as_slice() {
                ["registers"] => current.registers = number,
                ["barriers"] => current.barriers = number,
                ["bytes", "smem"] => current.static_shared = number,
                ["bytes", "stack", "frame"] => current.stack = number,
                ["bytes", "spill", "stores"] => current.spill_stores = number,
                ["bytes", "spill", "loads"] => current.spill_loads = number,
                _ => {}
            }
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_is_read_entry_by_entry() {
        let log = "ptxas info    : 0 bytes gmem\n\
            ptxas info    : Compiling entry function 'a_forward' for 'sm_80'\n\
            ptxas info    : Function properties for a_forward\n\
            ptxas         .     16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads\n\
            ptxas info    : Used 72 registers, used 2 barriers, 1024 bytes smem, 400 bytes cmem[0]\n\
            ptxas info    : Compile time = 1.2 ms\n\
            ptxas info    : Compiling entry function 'b' for 'sm_80'\n\
            ptxas info    : Used 8 registers, used 0 barriers\n";
        let a = EntryResources {
            entry: "a_forward".into(),
            registers: 72,
            spill_stores: 8,
            spill_loads: 12,
            stack: 16,
            static_shared: 1024,
            barriers: 2,
        };
        let b = EntryResources { entry: "b".into(), registers: 8, ..EntryResources::default() };
        assert_eq!(parse_report(log), [a, b]);
    }
}
