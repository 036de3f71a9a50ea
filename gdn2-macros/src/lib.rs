//! The `delta_rule!` and `include_rule!` macros: a rule in Rust source becomes typed functions with the kernels
//! embedded. Depend on `gdn2`, which re-exports both and holds the code that the generated modules call.
//!
//! Expansion reads and prints, nothing else: no compiler, no network, no GPU.

mod calls;
mod edited;
mod embed;
mod expand;
mod fields;
mod file;
mod input;
mod training;

use proc_macro::TokenStream;

/// Typed kernels from a rule written in place. Documented where users meet it, at `gdn2::delta_rule!`.
#[proc_macro]
pub fn delta_rule(tokens: TokenStream) -> TokenStream {
    match syn::parse::<input::InPlace>(tokens) {
        Ok(input) => input.expand().into(),
        Err(error) => error.into_compile_error().into(),
    }
}

/// Typed kernels from a rule file. Documented where users meet it, at `gdn2::include_rule!`.
#[proc_macro]
pub fn include_rule(tokens: TokenStream) -> TokenStream {
    match syn::parse::<input::FromFile>(tokens) {
        Ok(input) => input.expand().into(),
        Err(error) => error.into_compile_error().into(),
    }
}
