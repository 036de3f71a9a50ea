//! Kernel → Artifact: the compiled code with the launch description it belongs to. Compiles with NVRTC through the
//! cache; without NVRTC, takes PTX that was compiled before from the same text.

use crate::cache::{Cache, Key};
use crate::edited::Edited;
use crate::nvrtc::{EntryResources, Nvrtc, NvrtcError, Options, Version};
use crate::toolchain::Search;
use gdn2_codegen::arch::Arch;
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
        let source = edited.flatten().unwrap_or(generated);
        self.compile_source(kernel, source)
    }

    /// Compiles a kernel whose text was rendered earlier.
    ///
    /// # Errors
    /// As [`Compiler::compile`].
    pub fn compile_source(&self, kernel: Kernel, source: CudaSource) -> Result<Artifact, NvrtcError> {
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
