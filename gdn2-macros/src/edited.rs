//! Hand-edited kernels that a macro call names: read, held against what is generated now, embedded.

use std::path::Path;

use gdn2_codegen::committed::StampedPtx;
use gdn2_codegen::kernel::Pass;
use gdn2_codegen::named::{LARGEST_TEXT, NamedKernel, Word};
use gdn2_dsl::{KernelText, Rule};
use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote_spanned};

use crate::embed::committed_files;
use crate::file::text_of;
use crate::input::compile_error;

/// A text that stands for a kernel.
pub(crate) struct Edited {
    named: NamedKernel,
    /// As the macro call has it.
    file: String,
    /// Where it is.
    path: String,
}

impl Edited {
    /// The texts that fit the rule, and compile errors for the others, on the words that they are about.
    pub(crate) fn of(rule: &Rule, texts: &[KernelText], passes: &[Pass]) -> (Vec<Edited>, TokenStream) {
        let (mut all, mut refused) = (Vec::<Edited>::new(), TokenStream::new());
        for text in texts {
            match Edited::new(rule, text) {
                Ok(edited) if !passes.contains(&edited.pass()) => {
                    let message = format!("rule `{}` has no {} pass here: none fits any GPU", rule.name, edited.pass());
                    refused.extend(compile_error(text.pass_span, &message));
                }
                Ok(edited) if all.iter().any(|other| other.named.stem == edited.named.stem) => {
                    let kernel = &edited.named.kernel;
                    let message = format!(
                        "a second text for the {} pass on {} in {}: one of them would never run",
                        kernel.pass, kernel.arch, kernel.schedule
                    );
                    refused.extend(compile_error(text.file_span, &message));
                }
                Ok(edited) => all.push(edited),
                Err(error) => refused.extend(error),
            }
        }
        (all, refused)
    }

    fn new(rule: &Rule, text: &KernelText) -> Result<Edited, TokenStream> {
        let root = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
        let (file, path) = (text.file.clone(), Path::new(&root).join(&text.file));
        let unread = |why: String| {
            let message = format!("cannot read `{file}`: {why}\nhelp: the path is relative to the crate's Cargo.toml");
            compile_error(text.file_span, &message)
        };
        let cuda = text_of(&path, LARGEST_TEXT).map_err(|error| unread(error.to_string()))?;
        let path = path.into_os_string().into_string().map_err(|_| unread("its path is not UTF-8".to_owned()))?;
        let from = text.from.as_ref().map(|(hash, _)| hash.as_str());
        let named = NamedKernel::new(rule, &text.pass, (&file, cuda), from).map_err(|error| {
            let span = match (error.word(), &text.from) {
                (Word::Pass, _) => text.pass_span,
                (Word::From, Some((_, span))) => *span,
                (Word::From | Word::File, _) => text.file_span,
            };
            compile_error(span, &error.to_string())
        })?;
        Ok(Edited { named, file, path })
    }

    /// The pass it is for.
    pub(crate) fn pass(&self) -> Pass {
        self.named.kernel.pass
    }

    /// Its entry in the module's table, with the PTX that was compiled ahead from this very text, if there is any.
    pub(crate) fn entry(&self, span: Span) -> TokenStream {
        let Edited { named, file, path } = self;
        let compiled = committed_files(&format!("{}.ptx", named.stem)).find(|path| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            StampedPtx::read(&text).is_some_and(|stamped| stamped.source == named.source.hash)
        });
        let compiled = compiled.and_then(|path| path.into_os_string().into_string().ok());
        let ptx = match compiled {
            Some(path) => quote_spanned! { span=> ::core::option::Option::Some(::core::include_str!(#path)) },
            None => quote_spanned! { span=> ::core::option::Option::None },
        };
        let arch = format_ident!("{}", format!("{:?}", named.kernel.arch));
        let schedule = named.kernel.schedule.to_string();
        quote_spanned! { span=>
            __gdn2::EditedKernel {
                arch: __gdn2::Arch::#arch,
                schedule: #schedule,
                file: #file,
                cuda: ::core::include_str!(#path),
                ptx: #ptx,
            }
        }
    }
}
