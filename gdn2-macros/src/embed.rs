//! What a module carries of its kernels: which passes there are, PTX and machine code that was compiled ahead for them, and
//! the texts that the program names itself. Whether a file belongs to the text that is generated now is seen when it is
//! loaded: expansion generates nothing.

use std::path::{Path, PathBuf};

use gdn2_codegen::arch::Arch;
use gdn2_codegen::bind;
use gdn2_codegen::committed::{ARCHES, StampedPtx, stem};
use gdn2_codegen::gpu::gpu_of_file;
use gdn2_codegen::kernel::{Kernel, Pass};
use gdn2_codegen::schedule::Schedule;
use gdn2_dsl::Rule;
use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote_spanned};

use crate::edited::Edited;
use crate::input::compile_error;

/// Architectures that a rule's passes are held against, most demanding first: what fits 99 KB of shared memory runs on every
/// one; head dims that do not fit there may fit what the next larger GPU has.
const LIMITS: [Arch; 3] = [Arch::Sm86, Arch::Sm80, Arch::Sm90a];

/// The passes of a rule: inference, and training where a backward kernel fits any GPU. The error is the compile error that
/// says why inference has none.
pub(crate) fn passes(rule: &Rule, name: &Ident) -> Result<Vec<Pass>, TokenStream> {
    for pass in [Pass::Forward, Pass::Decode] {
        fitting(rule, pass).map_err(|reason| {
            let message = format!("no {pass} kernel can be generated for rule `{}`: {reason}", rule.name);
            compile_error(name.span(), &message)
        })?;
    }
    let mut passes = vec![Pass::Forward, Pass::Decode];
    if let Ok(backward) = fitting(rule, Pass::Backward) {
        let keeping = backward.keeping_forward().map(|schedule| {
            let pass = Pass::ForwardForBackward;
            let schedule = Schedule::from_overrides(rule, pass, backward.arch, &schedule).ok()?;
            bind(rule, pass, schedule, backward.arch).ok()
        });
        match keeping {
            None => passes.push(Pass::Backward),
            Some(Some(_)) => passes.extend([Pass::ForwardForBackward, Pass::Backward]),
            Some(None) => {}
        }
    }
    Ok(passes)
}

/// The entry of a pass in the module's table.
pub(crate) fn entry(rule: &Rule, pass: Pass, edited: &[Edited], span: Span) -> TokenStream {
    let variant = |name: String| format_ident!("{name}");
    let ptx = ARCHES.into_iter().flat_map(|arch| {
        let name = variant(format!("{arch:?}"));
        let files = committed_ptx(rule, pass, arch).into_iter();
        files.map(move |path| quote_spanned! { span=> (__gdn2::Arch::#name, ::core::include_str!(#path)) })
    });
    let cubins = Arch::ALL.into_iter().flat_map(|arch| {
        let name = variant(format!("{arch:?}"));
        let files = committed_cubins(rule, pass, arch).into_iter();
        files.map(move |(stem, path)| {
            quote_spanned! { span=> (__gdn2::Arch::#name, #stem, ::core::include_bytes!(#path)) }
        })
    });
    let edited = edited.iter().filter(|edited| edited.pass() == pass).map(|edited| edited.entry(span));
    let pass = variant(format!("{pass:?}"));
    quote_spanned! { span=>
        __gdn2::Embedded {
            pass: __gdn2::Pass::#pass,
            ptx: &[#(#ptx),*],
            cubins: &[#(#cubins),*],
            edited: &[#(#edited),*],
        }
    }
}

/// The user's tuning records, file by file: `tuning/GPU.json` beside the crate's Cargo.toml, of whatever GPU.
fn users_records() -> Vec<(String, String)> {
    let Ok(folder) = std::env::var("CARGO_MANIFEST_DIR") else { return Vec::new() };
    let entries = std::fs::read_dir(Path::new(&folder).join("tuning")).into_iter().flatten().flatten();
    let file = |path: PathBuf| {
        let gpu = gpu_of_file(path.file_name()?.to_str()?)?.to_owned();
        let path = path.is_file().then_some(path)?;
        Some((gpu, path.into_os_string().into_string().ok()?))
    };
    let mut files: Vec<_> = entries.filter_map(|entry| file(entry.path())).collect();
    // A folder lists its files in any order; the expansion is the same every time.
    files.sort();
    files
}

/// The entries of the user's record files in the module's table.
pub(crate) fn records(span: Span) -> TokenStream {
    let files = users_records().into_iter().map(|(gpu, path)| {
        quote_spanned! { span=> __gdn2::Tuning { gpu: #gpu, records: ::core::include_bytes!(#path) } }
    });
    quote_spanned! { span=> &[#(#files),*] }
}

/// Folders of committed kernels, the user's own before the project's.
fn folders() -> impl Iterator<Item = PathBuf> {
    let users = std::env::var("CARGO_MANIFEST_DIR").ok();
    let folders = users.into_iter().chain([env!("CARGO_MANIFEST_DIR").to_owned()]);
    folders.map(|folder| Path::new(&folder).join("kernels"))
}

/// Files of a name among the committed kernels, the user's own first.
pub(crate) fn committed_files(name: &str) -> impl Iterator<Item = PathBuf> {
    folders().map(move |folder| folder.join(name)).filter(|path| path.is_file())
}

/// The paths of the committed PTX of a pass: files that are as they were stamped, one for each text that they are of.
fn committed_ptx(rule: &Rule, pass: Pass, arch: Arch) -> Vec<String> {
    let mut found: Vec<(String, String)> = Vec::new();
    for path in committed_files(&format!("{}.ptx", stem(rule, pass, arch))) {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let source = StampedPtx::read(&text).map(|stamped| stamped.source.to_owned());
        if let (Some(source), Ok(path)) = (source, path.into_os_string().into_string())
            && found.iter().all(|(other, _)| *other != source)
        {
            found.push((source, path));
        }
    }
    found.into_iter().map(|(_, path)| path).collect()
}

/// Machine code of a pass in tuned schedules: file names without extension, with their paths.
fn committed_cubins(rule: &Rule, pass: Pass, arch: Arch) -> Vec<(String, String)> {
    let first = format!("{}_", stem(rule, pass, arch));
    let mut found: Vec<(String, String)> = Vec::new();
    for entry in folders().flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten()) {
        let name = entry.file_name();
        let stem = name.to_str().and_then(|name| name.strip_suffix(".cubin"));
        let Some(stem) = stem.filter(|stem| stem.starts_with(&first) && found.iter().all(|(other, _)| other != stem))
        else {
            continue;
        };
        found.extend(entry.path().into_os_string().into_string().ok().map(|path| (stem.to_owned(), path)));
    }
    // A folder lists its files in any order; the expansion is the same every time.
    found.sort();
    found
}

/// The pass in its default schedule on the most demanding architecture that can hold it.
fn fitting(rule: &Rule, pass: Pass) -> Result<Kernel, String> {
    let mut refusal = String::new();
    for arch in LIMITS {
        let schedule = Schedule::default_for(rule, pass, arch).map_err(|error| error.to_string())?;
        match bind(rule, pass, schedule, arch) {
            Ok(kernel) => return Ok(kernel),
            Err(illegal) => refusal = illegal.to_string(),
        }
    }
    Err(refusal)
}
