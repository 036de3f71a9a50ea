//! What a module carries of its kernels: for each pass the CUDA source in its fallback schedule, the PTX that was
//! committed for the very text that is generated now, and machine code in the schedules of tuning records.

use std::path::{Path, PathBuf};

use gdn2_codegen::arch::Arch;
use gdn2_codegen::committed::{ARCHES, Committed, StampedPtx, stem, tuned_stem};
use gdn2_codegen::gpu::GPUS;
use gdn2_codegen::kernel::{Kernel, Pass};
use gdn2_codegen::record::{Record, Records, gpu_of_file, rule_fingerprint, shipped};
use gdn2_codegen::schedule::Schedule;
use gdn2_codegen::{bind, render};
use gdn2_dsl::Rule;
use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote_spanned};

use crate::edited::Edited;
use crate::input::compile_error;

/// Limits the fallback schedule is chosen within, most demanding first: what fits 99 KB of shared memory runs on every
/// architecture; head dims that cannot get what the next larger GPU has.
const FALLBACK: [Arch; 3] = [Arch::Sm86, Arch::Sm80, Arch::Sm90a];

/// The kernels of a rule in their fallback schedules: inference, and training where a backward kernel fits any GPU.
/// The error is the compile error that says why inference has none.
pub(crate) fn kernels(rule: &Rule, name: &Ident) -> Result<Vec<Kernel>, TokenStream> {
    let needed = |pass: Pass| {
        fallback(rule, pass).map_err(|reason| {
            let message = format!("no {pass} kernel can be generated for rule `{}`: {reason}", rule.name);
            compile_error(name.span(), &message)
        })
    };
    let mut kernels = [Pass::Forward, Pass::Decode].into_iter().map(needed).collect::<Result<Vec<_>, _>>()?;
    if let Ok(backward) = fallback(rule, Pass::Backward) {
        let keeping = backward.keeping_forward().map(|schedule| {
            let pass = Pass::ForwardForBackward;
            let schedule = Schedule::from_overrides(rule, pass, backward.arch, &schedule).ok()?;
            bind(rule, pass, schedule, backward.arch).ok()
        });
        match keeping {
            None => kernels.push(backward),
            Some(Some(forward)) => kernels.extend([forward, backward]),
            Some(None) => {}
        }
    }
    Ok(kernels)
}

/// The entry of a kernel in the module's table.
pub(crate) fn entry(kernel: &Kernel, tuned: &[Record], edited: &[Edited], span: Span) -> TokenStream {
    let pass = format_ident!("{}", format!("{:?}", kernel.pass));
    let (schedule, text) = (kernel.schedule.to_string(), render(kernel).text);
    let ptx = ARCHES.into_iter().filter_map(|arch| {
        let path = committed_ptx(&kernel.rule, kernel.pass, arch)?;
        let arch = format_ident!("{}", format!("{arch:?}"));
        Some(quote_spanned! { span=> (__gdn2::Arch::#arch, ::core::include_str!(#path)) })
    });
    let mut winners: Vec<(Arch, Schedule)> = Vec::new();
    for record in tuned.iter().filter(|record| record.pass == kernel.pass) {
        let winner = (record.provenance.arch, record.winner.schedule);
        if !winners.contains(&winner) {
            winners.push(winner);
        }
    }
    let cubins = winners.into_iter().filter_map(|(arch, schedule)| {
        let name = format!("{}.cubin", tuned_stem(&kernel.rule, kernel.pass, arch, schedule));
        let path = committed_files(&name).next()?.into_os_string().into_string().ok()?;
        let (arch, schedule) = (format_ident!("{}", format!("{arch:?}")), schedule.to_string());
        Some(quote_spanned! { span=> (__gdn2::Arch::#arch, #schedule, ::core::include_bytes!(#path)) })
    });
    let edited = edited.iter().filter(|edited| edited.pass() == kernel.pass).map(|edited| edited.entry(span));
    quote_spanned! { span=>
        __gdn2::Embedded {
            pass: __gdn2::Pass::#pass,
            schedule: #schedule,
            cuda: #text,
            ptx: &[#(#ptx),*],
            cubins: &[#(#cubins),*],
            edited: &[#(#edited),*],
        }
    }
}

/// The user's tuning records, file by file: `tuning/GPU.json` beside the crate's Cargo.toml, of whatever GPU.
fn users_records() -> Vec<(String, String, Vec<u8>)> {
    let Ok(folder) = std::env::var("CARGO_MANIFEST_DIR") else { return Vec::new() };
    let entries = std::fs::read_dir(Path::new(&folder).join("tuning")).into_iter().flatten().flatten();
    let file = |path: PathBuf| {
        let gpu = gpu_of_file(path.file_name()?.to_str()?)?.to_owned();
        let file = std::fs::read(path.is_file().then_some(&path)?).ok()?;
        Some((gpu, path.into_os_string().into_string().ok()?, file))
    };
    let mut files: Vec<_> = entries.filter_map(|entry| file(entry.path())).collect();
    // A folder lists its files in any order; the expansion is the same every time.
    files.sort();
    files
}

/// The records of a rule, the project's and the user's, and the entries of the user's files in the module's table.
pub(crate) fn records(rule: &Rule, span: Span) -> (Vec<Record>, TokenStream) {
    let own = users_records();
    let users = own.iter().map(|(_, _, file)| Records::parse(file).0);
    let fingerprint = rule_fingerprint(rule);
    let all: Vec<Record> = users
        .chain(GPUS.iter().map(|(gpu, _)| shipped(gpu)))
        .flat_map(|records| {
            let of_rule = records.iter().filter(|record| record.provenance.rule == fingerprint);
            of_rule.cloned().collect::<Vec<Record>>()
        })
        .collect();
    let files = own.iter().map(|(gpu, path, _)| {
        quote_spanned! { span=> __gdn2::Tuning { gpu: #gpu, records: ::core::include_bytes!(#path) } }
    });
    (all, quote_spanned! { span=> &[#(#files),*] })
}

/// Files of a name among the committed kernels, the user's own before the project's.
pub(crate) fn committed_files(name: &str) -> impl Iterator<Item = PathBuf> {
    let users = std::env::var("CARGO_MANIFEST_DIR").ok();
    let folders = users.into_iter().chain([env!("CARGO_MANIFEST_DIR").to_owned()]);
    folders.map(move |folder| Path::new(&folder).join("kernels").join(name)).filter(|path| path.is_file())
}

/// The path of the committed PTX of a pass. What was compiled from another text than is generated now is left alone:
/// `gdn2 prepare --check` tells of it.
fn committed_ptx(rule: &Rule, pass: Pass, arch: Arch) -> Option<String> {
    let name = format!("{}.ptx", stem(rule, pass, arch));
    let mut current = None;
    let path = committed_files(&name).find(|path| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let current = current.get_or_insert_with(|| Committed::new(rule, pass, arch).ok());
        StampedPtx::read(&text).zip(current.as_ref()).is_some_and(|(stamped, now)| stamped.source == now.source.hash)
    })?;
    path.into_os_string().into_string().ok()
}

/// The pass in its default schedule on the most demanding architecture that can hold it.
fn fallback(rule: &Rule, pass: Pass) -> Result<Kernel, String> {
    let mut refusal = String::new();
    for arch in FALLBACK {
        let schedule = Schedule::default_for(rule, pass, arch).map_err(|error| error.to_string())?;
        match bind(rule, pass, schedule, arch) {
            Ok(kernel) => return Ok(kernel),
            Err(illegal) => refusal = illegal.to_string(),
        }
    }
    Err(refusal)
}
