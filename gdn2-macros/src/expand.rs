//! A rule to its module: typed inputs with documentation, and thin calls into the façade's untyped code.

use gdn2_codegen::kernel::Pass;
use gdn2_dsl::{Bound, Gate, Grain, KernelText, Rule, StateLayout, Write};
use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote_spanned};
use syn::{Path, Visibility};

use crate::calls::{candle, decode, forward};
use crate::edited::Edited;
use crate::embed::{entry, passes, records};
use crate::fields::{token_tensors, variant};
use crate::training::training;

/// What one module is made from.
pub(crate) struct Module<'m> {
    /// The rule.
    pub rule: &'m Rule,
    /// The module's name, with the span that errors about the module as a whole stand on.
    pub name: &'m Ident,
    /// Its visibility.
    pub visibility: &'m Visibility,
    /// The path to `gdn2`.
    pub krate: &'m Path,
    /// Texts that stand for its kernels.
    pub texts: &'m [KernelText],
    /// Whether to embed kernels: not where the rule has mistakes and only its signatures matter.
    pub embed: bool,
    /// Whether the rule stands in a file, whose documentation is not the words of this crate's author.
    pub from_file: bool,
}

/// The module.
pub(crate) fn module(from: &Module<'_>) -> TokenStream {
    let Module { rule, name, visibility, krate, texts, embed: wants_kernels, from_file } = *from;
    let span = Span::mixed_site().located_at(name.span());
    let tensors = token_tensors(rule);
    let doc = module_doc(rule, from_file);
    let description = describe(rule, span);
    let (passes, refusal) = match passes(rule, name) {
        Ok(passes) => (passes, None),
        // Where the rule itself has mistakes, what does not fit it is not news.
        Err(refusal) => (Vec::new(), wants_kernels.then_some(refusal)),
    };
    let tuning = records(span);
    let (edited, refused) = match wants_kernels {
        true => Edited::of(rule, texts, &passes),
        false => Default::default(),
    };
    let embedded = passes.iter().filter(|_| wants_kernels).map(|pass| entry(rule, *pass, &edited, span));
    let trainable = passes.contains(&Pass::Backward);
    let training = trainable.then(|| training(rule, &tensors, span));
    let forward = forward(rule, &tensors, span);
    let decode = decode(rule, &tensors, span);
    // Candle's operations have no place for what a rule names itself.
    let candle = rule.prologue.named().is_empty().then(|| candle(rule, &tensors, span));
    let (key_dim, value_dim) = (rule.key_dim as usize, rule.value_dim as usize);
    quote_spanned! { span=>
        #refusal
        #refused
        #[doc = #doc]
        #visibility mod #name {
            use #krate::__private as __gdn2;

            /// K, the head dim of q and k.
            pub const KEY_DIM: usize = #key_dim;
            /// V, the head dim of v and o.
            pub const VALUE_DIM: usize = #value_dim;

            const EMBEDDED: &[__gdn2::Embedded] = &[#(#embedded),*];
            const TUNING: &[__gdn2::Tuning] = #tuning;

            /// The rule that the kernels of this module carry out.
            pub fn rule() -> __gdn2::Rule {
                #description
            }

            /// Loads the kernels on a device; what is not embedded in compiled form is generated and compiled now, once, and
            /// cached.
            ///
            /// # Errors
            /// A device that the kernels do not fit, a compiler that is needed and missing.
            pub fn load(device: &__gdn2::Device) -> ::core::result::Result<Kernels, __gdn2::Error> {
                ::core::result::Result::Ok(Kernels { loaded: __gdn2::Loaded::new(rule(), EMBEDDED, TUNING, device)? })
            }

            /// Loads the kernels on what stands in for a GPU.
            #[doc(hidden)]
            pub fn load_through(
                gpu: ::std::sync::Arc<dyn __gdn2::Gpu>,
            ) -> ::core::result::Result<Kernels, __gdn2::Error> {
                ::core::result::Result::Ok(Kernels { loaded: __gdn2::Loaded::through(rule(), EMBEDDED, TUNING, gpu)? })
            }

            /// The rule's kernels on one device: a handle that is cheap to clone and can be shared between threads. What
            /// is the same for every rule, such as raw calls, is found on the type that it derefs to.
            #[derive(Clone, Debug)]
            pub struct Kernels {
                loaded: __gdn2::Loaded,
            }

            impl ::core::ops::Deref for Kernels {
                type Target = __gdn2::Loaded;

                fn deref(&self) -> &__gdn2::Loaded {
                    &self.loaded
                }
            }

            #forward
            #training
            #decode
            #candle
        }
    }
}

/// The user's words, then the recurrence and the rule.
fn module_doc(rule: &Rule, from_file: bool) -> String {
    let text = Rule { doc: String::new(), ..rule.clone() }.to_string();
    let words = if from_file { as_text(&rule.doc) } else { rule.doc.clone() };
    format!("{words}\n\n```text\n{}\n```\n\n```text\n{text}```", rule.recurrence())
}

/// Documentation that somebody else may have written: what rustdoc would take for an example and run, or for markup and
/// pass on, is shown as it stands.
fn as_text(doc: &str) -> String {
    // Examples are marked by fences, or by at least four spaces or a tab; markup by an angle bracket.
    if !["```", "~~~", "    ", "\t", "<"].iter().any(|mark| doc.contains(mark)) {
        return doc.to_owned();
    }
    let longest = doc.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}text\n{doc}\n{fence}")
}

/// The rule as an expression.
fn describe(rule: &Rule, span: Span) -> TokenStream {
    let gate = |gate: Gate| {
        let grain = format_ident!(
            "{}",
            match gate.grain {
                Grain::None => "None",
                Grain::Scalar => "Scalar",
                Grain::Channel => "Channel",
            }
        );
        let storage = format_ident!("{}", variant(gate.storage));
        quote_spanned! { span=> __gdn2::Gate { grain: __gdn2::Grain::#grain, storage: __gdn2::Dtype::#storage } }
    };
    let (decay, erase) = (gate(rule.decay), gate(rule.erase));
    let write = match rule.write {
        Write::Tied => quote_spanned! { span=> __gdn2::Write::Tied },
        Write::Own(own) => {
            let own = gate(own);
            quote_spanned! { span=> __gdn2::Write::Own(#own) }
        }
    };
    let bound = match rule.bound {
        None => quote_spanned! { span=> ::core::option::Option::None },
        Some(Bound { lower, upper }) => quote_spanned! { span=>
            ::core::option::Option::Some(__gdn2::Bound { lower: #lower, upper: #upper })
        },
    };
    let dtype = format_ident!("{}", variant(rule.dtype));
    let state = match rule.state {
        StateLayout::Kv => "Kv",
        StateLayout::Vk => "Vk",
    };
    let state = format_ident!("{state}");
    let (name, doc, key_dim, value_dim) = (&rule.name, &rule.doc, rule.key_dim, rule.value_dim);
    let rule_of_recurrence = quote_spanned! { span=>
        __gdn2::Rule {
            name: ::std::string::String::from(#name),
            doc: ::std::string::String::from(#doc),
            decay: #decay,
            bound: #bound,
            erase: #erase,
            write: #write,
            key_dim: #key_dim,
            value_dim: #value_dim,
            dtype: __gdn2::Dtype::#dtype,
            state: __gdn2::StateLayout::#state,
            prologue: ::core::default::Default::default(),
        }
    };
    if rule.prologue.is_empty() {
        return rule_of_recurrence;
    }
    let text = rule.to_string();
    quote_spanned! { span=> __gdn2::with_formulas(#rule_of_recurrence, #text) }
}

#[cfg(test)]
mod tests {
    use super::as_text;

    #[test]
    fn documentation_of_a_file_is_no_example_and_no_markup() {
        assert_eq!(as_text("Decay `g`, per channel.\n\nTwo paragraphs."), "Decay `g`, per channel.\n\nTwo paragraphs.");
        for doc in ["```\nrun();\n```", "~~~\nrun();\n~~~", "a\n\n    run();", "-\trun();", "<script>run()</script>"] {
            let text = as_text(doc);
            assert_eq!(text.lines().next().map(|line| line.trim_start_matches('`')), Some("text"), "{text}");
            let fence = text.lines().next_back().unwrap_or_default();
            assert!(fence.len() >= 3 && !doc.contains(fence), "{text}");
        }
    }
}
