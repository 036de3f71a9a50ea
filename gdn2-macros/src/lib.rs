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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use std::time::{Duration, Instant};

    /// Also where nothing is optimised, as macros are built for a program in development. The quickest of ten: others may be
    /// at work on the machine.
    #[test]
    fn a_rule_expands_in_under_50_milliseconds() {
        for rule in ["gdn", "kda", "gdn2_layer"] {
            let call = format!("\"../rules/{rule}.gdn2\"");
            let expand = || {
                let started = Instant::now();
                let module = syn::parse_str::<crate::input::FromFile>(&call).unwrap().expand().to_string();
                assert!(module.contains("include_str"), "{rule} has no kernels");
                started.elapsed()
            };
            let quickest = (0..10).map(|_| expand()).min().unwrap();
            println!("{rule}: {quickest:?}");
            assert!(quickest < Duration::from_millis(50), "{rule}: {quickest:?}");
        }
    }
}
