//! Kernel → Artifact: the compiled code with the launch description it belongs to. Compiles with NVRTC through the
//! cache; without NVRTC, takes PTX that was compiled before from the same text.

use crate::cache::{Cache, Key};
use crate::nvrtc::{EntryResources, Nvrtc, NvrtcError, Options, Version};
use crate::toolchain::Search;
use gdn2_codegen::arch::Arch;
use gdn2_codegen::edited::Edited;
use gdn2_codegen::kernel::{CudaSource, Kernel};
use std::collections::HashMap;
use std::sync::OnceLock;

/// A compiled kernel.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// What was compiled: launches, parameters, schedule.
    pub kernel: Kernel,
    /// Its text.
    pub source: CudaSource,
    /// PTX.
    pub ptx: String,
    /// Machine code; absent where only prebuilt PTX was at hand.
    pub cubin: Option<Vec<u8>>,
    /// The assembler's report; empty with prebuilt PTX.
    pub resources: Vec<EntryResources>,
    /// The compiler's log; empty with prebuilt PTX.
    pub log: String,
    /// The compiler; `None` with prebuilt PTX.
    pub compiler: Option<Version>,
}

impl Artifact {
    /// A kernel with the PTX that was compiled earlier from its text.
    pub fn from_ptx(kernel: Kernel, ptx: String) -> Artifact {
        let source = gdn2_codegen::render(&kernel);
        Artifact::from_ptx_of(kernel, source, ptx)
    }

    /// A kernel with the PTX that was compiled earlier from a text that stands for its own.
    pub fn from_ptx_of(kernel: Kernel, source: CudaSource, ptx: String) -> Artifact {
        Artifact { kernel, source, ptx, cubin: None, resources: Vec::new(), log: String::new(), compiler: None }
    }

    /// A kernel with the machine code that was compiled earlier from its text.
    pub fn from_cubin(kernel: Kernel, cubin: Vec<u8>, compiler: Option<Version>) -> Artifact {
        Artifact { cubin: Some(cubin), compiler, ..Artifact::from_ptx(kernel, String::new()) }
    }
}

/// Turns kernels into artifacts. NVRTC is opened on first need, once.
#[derive(Debug)]
pub struct Compiler {
    search: Search,
    options: Options,
    cache: Option<Cache>,
    prebuilt: HashMap<(String, Arch), String>,
    edited: Option<Edited>,
    nvrtc: OnceLock<Result<Nvrtc, NvrtcError>>,
}

impl Compiler {
    /// A compiler that searches NVRTC as told and keeps results in the search's cache folder.
    pub fn new(search: Search) -> Compiler {
        let cache = search.cache.as_deref().map(Cache::new);
        Compiler {
            search,
            options: Options::default(),
            cache,
            prebuilt: HashMap::new(),
            edited: None,
            nvrtc: OnceLock::new(),
        }
    }

    /// The same compiler, leaving out what ties machine code to lines of its source: the code is the same, the file a
    /// quarter of the size.
    pub fn without_lines(mut self) -> Compiler {
        self.options.line_info = false;
        self
    }

    /// The same compiler, with a hand-edited text in the place of what is generated for its kernel.
    pub fn with_edited(mut self, edited: Edited) -> Compiler {
        self.edited = Some(edited);
        self
    }

    /// Adds PTX compiled earlier from the text with this hash, for use where NVRTC is missing.
    pub fn add_prebuilt(&mut self, source_hash: &str, arch: Arch, ptx: String) {
        self.prebuilt.insert((source_hash.to_owned(), arch), ptx);
    }

    /// NVRTC, opened on the first call.
    ///
    /// # Errors
    /// [`NvrtcError::Missing`], with what was tried.
    pub fn nvrtc(&self) -> Result<&Nvrtc, NvrtcError> {
        self.nvrtc.get_or_init(|| Nvrtc::find(&self.search)).as_ref().map_err(NvrtcError::clone)
    }

    /// Renders and compiles a kernel, or the hand-edited text that stands for it.
    ///
    /// # Errors
    /// No NVRTC and no prebuilt PTX of this text, a text NVRTC refuses, or a hand-edited one that is no such kernel's.
    pub fn compile(&self, kernel: Kernel) -> Result<Artifact, NvrtcError> {
        let generated = gdn2_codegen::render(&kernel);
        let edited = self.edited.as_ref().map(|edited| edited.source(&kernel, &generated)).transpose()?;
        match edited.flatten() {
            Some(source) => self.compile_text(kernel, source),
            None => self.compile_source(kernel, generated),
        }
    }

    /// Compiles a kernel whose text was rendered earlier.
    ///
    /// # Errors
    /// As [`Compiler::compile`].
    pub fn compile_source(&self, kernel: Kernel, source: CudaSource) -> Result<Artifact, NvrtcError> {
        let mut artifact = self.compile_text(kernel, source)?;
        artifact.ptx = for_oldest_driver(artifact.ptx, artifact.kernel.arch);
        Ok(artifact)
    }

    /// Compiles somebody's own text for a kernel, which may need the version of PTX that its compiler writes.
    ///
    /// # Errors
    /// As [`Compiler::compile`].
    pub fn compile_text(&self, kernel: Kernel, source: CudaSource) -> Result<Artifact, NvrtcError> {
        let target = kernel.arch.target();
        let nvrtc = match self.nvrtc() {
            Ok(nvrtc) => nvrtc,
            Err(missing) => {
                let ptx = self.prebuilt.get(&(source.hash.clone(), kernel.arch)).cloned().ok_or(missing)?;
                let (resources, log) = (Vec::new(), String::new());
                return Ok(Artifact { kernel, source, ptx, cubin: None, resources, log, compiler: None });
            }
        };
        let key = Key::new(&source.text, target, &self.options, nvrtc.version());
        let compiled = match self.cache.as_ref().and_then(|cache| cache.get(key)) {
            Some(compiled) => compiled,
            None => {
                let compiled = nvrtc.compile(&source.text, target, &self.options)?;
                if let Some(cache) = &self.cache {
                    cache.put(key, &compiled);
                }
                compiled
            }
        };
        Ok(Artifact {
            kernel,
            source,
            ptx: compiled.ptx,
            cubin: Some(compiled.cubin),
            resources: compiled.resources,
            log: compiled.log,
            compiler: Some(compiled.version),
        })
    }
}

/// PTX under the version that it needs, where a compiler newer than that wrote its own: what the text says stays, and an
/// older driver reads it. That this holds is checked with the assembler of the oldest toolkit, `.ci/old-drivers`.
fn for_oldest_driver(ptx: String, arch: Arch) -> String {
    let Some((head, rest)) = ptx.split_once("\n.version ") else { return ptx };
    let Some((version, body)) = rest.split_once('\n') else { return ptx };
    let number = |version: &str| {
        let (major, minor) = version.trim().split_once('.')?;
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
    };
    let need = arch.ptx_isa();
    match number(version) > number(need) {
        true => format!("{head}\n.version {need}\n{body}"),
        false => ptx,
    }
}

#[cfg(test)]
mod tests {
    use super::for_oldest_driver;
    use gdn2_codegen::arch::Arch;

    #[test]
    fn a_newer_version_than_is_needed_goes_and_no_other() {
        let ptx = |version: &str| format!("//\n// a .version 9.9 in words\n\n.version {version}\n.target sm_80\n");
        let of = |version: &str, arch| for_oldest_driver(ptx(version), arch);
        assert_eq!(of("9.0", Arch::Sm90a), ptx("8.0"));
        assert_eq!(of("10.1", Arch::Sm120), ptx("8.7"));
        assert_eq!(of("7.8", Arch::Sm80), ptx("7.8"));
        assert_eq!(for_oldest_driver("no version".to_owned(), Arch::Sm80), "no version");
    }
}
