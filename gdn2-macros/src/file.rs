//! `include_rule!`: the rules of a file, and the tracking that rebuilds the crate when the file changes.

use std::path::Path;

use gdn2_dsl::{LARGEST_SOURCE, Rule, parse_file};
use proc_macro2::{Ident, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;

use crate::expand::{Module, module};
use crate::input::{FromFile, compile_error, kernel_texts};

impl FromFile {
    /// One module per rule of the file, or the one after `#`. The path is relative to the crate's Cargo.toml.
    pub(crate) fn expand(self) -> TokenStream {
        let span = self.path.span();
        let written = self.path.value();
        let (file, wanted) = match written.split_once('#') {
            Some((file, rule)) => (file, Some(rule)),
            None => (written.as_str(), None),
        };
        let root = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
        let path = Path::new(&root).join(file);
        let source = match text_of(&path, LARGEST_SOURCE) {
            Ok(source) => source,
            Err(error) => {
                let message =
                    format!("cannot read `{file}`: {error}\nhelp: the path is relative to the crate's Cargo.toml");
                return compile_error(span, &message);
            }
        };
        let Some(tracked) = path.to_str() else {
            return compile_error(span, "the path of a rule file must be UTF-8");
        };
        let track = quote_spanned! { span=> const _: &[u8] = ::core::include_bytes!(#tracked); };
        let rules = match parse_file(&source) {
            Ok(rules) => rules,
            Err(diagnostics) => {
                let error = compile_error(span, &format!("\n{}", diagnostics.render(file, &source, false)));
                return quote! { #track #error };
            }
        };
        let names: Vec<_> = rules.iter().map(|rule| format!("`{}`", rule.name)).collect();
        let chosen: Vec<&Rule> = rules.iter().filter(|rule| wanted.is_none_or(|name| rule.name == name)).collect();
        if chosen.is_empty() {
            let message = format!("{file} has no rule `{}`: it has {}", wanted.unwrap_or(""), names.join(", "));
            return compile_error(span, &message);
        }
        let (texts, others, refused) = kernel_texts(&self.attributes);
        if let Some(other) = others.first() {
            let message =
                "expected `#[kernel(…)]`: rules of a file bring their own documentation, and no other attribute";
            return compile_error(other.span(), message);
        }
        if let (Some(text), [_, _, ..]) = (texts.first(), chosen.as_slice()) {
            let message =
                format!("which rule of {file} is meant?\nhelp: write `\"{file}#RULE\"`: it has {}", names.join(", "));
            return compile_error(text.file_span, &message);
        }
        let modules = chosen.into_iter().map(|rule| {
            let name = Ident::new(&rule.name, span);
            module(&Module {
                rule,
                name: &name,
                visibility: &self.visibility,
                krate: &self.krate,
                texts: &texts,
                embed: true,
                from_file: true,
            })
        });
        quote! { #track #refused #(#modules)* }
    }
}

/// The text of a regular file of at most so many bytes; a FIFO would stop the build without a word.
pub(crate) fn text_of(path: &Path, most: usize) -> std::io::Result<String> {
    if std::fs::metadata(path)?.len() > most as u64 || !path.is_file() {
        return Err(std::io::Error::other(format!("not a regular file of at most {most} bytes")));
    }
    std::fs::read_to_string(path)
}
