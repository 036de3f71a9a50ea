//! A rule to its module: typed inputs with documentation, and thin calls into the façade's untyped code.

use gdn2_codegen::kernel::{MOST_NAMED, Pass};
use gdn2_dsl::{Bound, Gate, Grain, Rule, StateLayout, Write};
use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote_spanned};
use syn::{Path, Visibility};

use crate::embed::{entry, kernels, records};
use crate::fields::{Field, ident, named, state_shape, token_tensors, variant};

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
    /// Whether to embed kernels: not where the rule has mistakes and only its signatures matter.
    pub embed: bool,
    /// Whether the rule stands in a file, whose documentation is not the words of this crate's author.
    pub from_file: bool,
}

/// The module.
pub(crate) fn module(from: &Module<'_>) -> TokenStream {
    let Module { rule, name, visibility, krate, embed: wants_kernels, from_file } = *from;
    let span = Span::mixed_site().located_at(name.span());
    let tensors = token_tensors(rule);
    let doc = module_doc(rule, from_file);
    let description = describe(rule, span);
    let (kernels, refusal) = match kernels(rule, name) {
        Ok(kernels) => (kernels, None),
        // Where the rule itself has mistakes, what does not fit it is not news.
        Err(refusal) => (Vec::new(), wants_kernels.then_some(refusal)),
    };
    let (tuned, tuning) = records(rule, span);
    let embedded = kernels.iter().filter(|_| wants_kernels).map(|kernel| entry(kernel, &tuned, span));
    let trainable = kernels.iter().any(|kernel| kernel.pass == Pass::Backward);
    let training = trainable.then(|| training(rule, &tensors, span));
    let forward = forward(rule, &tensors, span);
    let decode = decode(rule, &tensors, span);
    // Candle's operations have no place for what a rule names itself.
    let candle = rule.prologue.named().is_empty().then(|| candle(rule, &tensors, span));
    let (key_dim, value_dim) = (rule.key_dim as usize, rule.value_dim as usize);
    quote_spanned! { span=>
        #refusal
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

            /// Loads the kernels on a device; what is not embedded in compiled form is compiled now, once, and cached.
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

/// The calls on candle's tensors, there where the façade's feature is on.
fn candle(rule: &Rule, tensors: &[Field], span: Span) -> TokenStream {
    let member = |field: &Field| {
        let (name, doc) = (ident(&field.name, span), &field.doc);
        quote_spanned! { span=> #[doc = #doc] pub #name: &'a __gdn2::CandleTensor, }
    };
    let members: Vec<_> = tensors.iter().map(member).collect();
    let values = values(tensors, "inputs", span);
    let state = state_shape(rule);
    let (state_doc, decode_doc) = (
        format!("State before the first token, `{state}`; none is zeros."),
        format!(
            "Runs one token, or a short run of tokens, per sequence on states `{state}`; gives o and the new states."
        ),
    );
    quote_spanned! { span=>
        __gdn2::with_candle! {
            /// Inputs of [`Kernels::forward_candle`], of any float dtype, on candle's CPU device.
            #[derive(Clone, Copy, Debug)]
            pub struct CandleForward<'a> {
                #(#members)*
                #[doc = #state_doc]
                pub initial_state: ::core::option::Option<&'a __gdn2::CandleTensor>,
                /// Where each packed sequence starts, and the end of the last, `[N + 1]`; B is 1 then.
                pub cu_seqlens: ::core::option::Option<&'a [i64]>,
                /// Factor on q; none is 1/√K.
                pub scale: ::core::option::Option<f32>,
            }

            /// Inputs of [`Kernels::decode_candle`].
            #[derive(Clone, Copy, Debug)]
            pub struct CandleDecode<'a> {
                #(#members)*
                /// Factor on q; none is 1/√K.
                pub scale: ::core::option::Option<f32>,
            }

            impl Kernels {
                /// The chunked forward pass; gradients flow through candle's autograd.
                ///
                /// # Errors
                /// A tensor whose shape does not fit, or that is on a GPU.
                pub fn forward_candle(
                    &self,
                    inputs: CandleForward<'_>,
                ) -> __gdn2::CandleResult<__gdn2::CandleOutput> {
                    self.loaded.forward_candle(__gdn2::CandleInputs {
                        #(#values)*
                        initial_state: inputs.initial_state,
                        cu_seqlens: inputs.cu_seqlens,
                        scale: inputs.scale,
                    })
                }

                #[doc = #decode_doc]
                ///
                /// # Errors
                /// As [`Kernels::forward_candle`].
                pub fn decode_candle(
                    &self,
                    state: &__gdn2::CandleTensor,
                    inputs: CandleDecode<'_>,
                ) -> __gdn2::CandleResult<(__gdn2::CandleTensor, __gdn2::CandleTensor)> {
                    self.loaded.decode_candle(state, __gdn2::CandleInputs {
                        #(#values)*
                        initial_state: ::core::option::Option::None,
                        cu_seqlens: ::core::option::Option::None,
                        scale: inputs.scale,
                    })
                }
            }
        }
    }
}

/// Inputs and calls of the chunked forward pass.
fn forward(rule: &Rule, tensors: &[Field], span: Span) -> TokenStream {
    let members = members(tensors, span);
    let (values, named) = (values(tensors, "self", span), named(tensors, "self", span));
    let state = state_shape(rule);
    let state_doc = format!(
        "State before the first token, `{state}`, f32; none is zeros. N is B, or the number of packed sequences."
    );
    let out_doc = format!(
        "Runs the chunked forward pass; allocates `o`, `[B, T, HV, {}]`, and the final state, `{state}`.",
        rule.value_dim
    );
    quote_spanned! { span=>
        /// Inputs of the forward pass. B sequences of T tokens, H query and key heads, HV value heads.
        #[derive(Clone, Copy, Debug)]
        pub struct Forward<'a> {
            #(#members)*
            #[doc = #state_doc]
            pub initial_state: ::core::option::Option<__gdn2::View<'a>>,
            /// Where each packed sequence starts, and the end of the last, `[N + 1]`; B is 1 then. None: B dense rows.
            pub cu_seqlens: ::core::option::Option<__gdn2::Offsets<'a>>,
            /// Factor on q; none is 1/√K.
            pub scale: ::core::option::Option<f32>,
        }

        impl<'a> Forward<'a> {
            fn call(self) -> __gdn2::Call<'a> {
                __gdn2::Call {
                    #(#values)*
                    #named
                    initial_state: self.initial_state,
                    cu_seqlens: self.cu_seqlens,
                    scale: self.scale,
                }
            }
        }

        impl Kernels {
            #[doc = #out_doc]
            ///
            /// # Errors
            /// A tensor whose shape, dtype or strides do not fit, named with what would.
            pub fn forward(&self, inputs: Forward<'_>) -> ::core::result::Result<__gdn2::Output, __gdn2::Error> {
                self.loaded.forward(inputs.call())
            }

            /// [`Kernels::forward`], written where the caller says.
            ///
            /// # Errors
            /// As there, and an output that does not fit.
            pub fn forward_into(
                &self,
                inputs: Forward<'_>,
                outputs: __gdn2::Outputs<'_>,
            ) -> ::core::result::Result<(), __gdn2::Error> {
                self.loaded.forward_into(inputs.call(), outputs)
            }

            /// The chunked forward pass on device memory: checks everything, puts the kernel on the stream and returns.
            /// After `warmup` it allocates nothing, takes no lock, waits for nothing and can be captured in a graph.
            ///
            /// # Errors
            /// A tensor whose shape, dtype, strides, alignment, GPU or context do not fit; a failing driver call.
            pub fn forward_on<'s>(
                &self,
                stream: impl ::core::convert::Into<__gdn2::Stream<'s>>,
                inputs: Forward<'_>,
                outputs: __gdn2::Outputs<'_>,
            ) -> ::core::result::Result<(), __gdn2::Error> {
                self.loaded.forward_on(stream.into(), inputs.call(), outputs)
            }

            /// [`Kernels::forward_on`] with the kernel of the call's record even where that needs scratch memory, as
            /// segments of a sequence do that run side by side: `forward_scratch` says how many bytes that takes.
            /// Without scratch memory such a call gets the built-in kernel.
            ///
            /// # Errors
            /// As there, and scratch memory that is too small.
            pub fn forward_with_scratch_on<'s>(
                &self,
                stream: impl ::core::convert::Into<__gdn2::Stream<'s>>,
                inputs: Forward<'_>,
                outputs: __gdn2::Outputs<'_>,
                scratch: &mut dyn __gdn2::DeviceMemoryMut,
            ) -> ::core::result::Result<(), __gdn2::Error> {
                self.loaded.forward_with_scratch_on(stream.into(), inputs.call(), outputs, scratch)
            }

            /// [`Kernels::forward_on`] that allocates its outputs on the stream.
            ///
            /// # Errors
            /// As there.
            pub fn forward_new_on(
                &self,
                stream: &::std::sync::Arc<__gdn2::CudaStream>,
                inputs: Forward<'_>,
            ) -> ::core::result::Result<__gdn2::DeviceOutput, __gdn2::Error> {
                self.loaded.forward_new_on(stream, inputs.call())
            }
        }
    }
}

/// What training adds: forward that saves, backward, gradients.
fn training(rule: &Rule, tensors: &[Field], span: Span) -> TokenStream {
    let (own, tensors): (Vec<&Field>, Vec<&Field>) = tensors.iter().partition(|field| field.own);
    let all: Vec<&Field> = tensors.iter().chain(&own).copied().collect();
    let names_of = |fields: &[&Field]| -> Vec<Ident> {
        fields.iter().map(|field| format_ident!("d{}", field.name, span = span)).collect()
    };
    let (grads, own_grads, every) = (names_of(&tensors), names_of(&own), names_of(&all));
    let own_names: Vec<&str> = own.iter().map(|field| field.name.as_str()).collect();
    let no_more = (own.len()..MOST_NAMED).map(|_| quote_spanned! { span=> ::core::option::Option::None, });
    let docs = all.iter().map(|field| format!("Gradient of `{}`, shaped and stored as it.", field.name));
    let members =
        every.iter().zip(docs).map(|(name, doc)| quote_spanned! { span=> #[doc = #doc] pub #name: __gdn2::Tensor, });
    let names: Vec<_> =
        tensors.iter().map(|field| format_ident!("D{}", field.tensor.to_uppercase(), span = span)).collect();
    let view_docs = all.iter().map(|field| format!("Where the gradient of `{}` is written.", field.name));
    let views = every
        .iter()
        .zip(view_docs)
        .map(|(name, doc)| quote_spanned! { span=> #[doc = #doc] pub #name: __gdn2::ViewMut<'a>, });
    let missing =
        (0..6 - tensors.len()).map(|_| quote_spanned! { span=> (__gdn2::Name::DW, ::core::option::Option::None), });
    let (out, state) = (format!("Gradient of `o`, `[B,T,HV,{}]`.", rule.value_dim), state_shape(rule));
    let state = format!("Gradient of the final state, `{state}`, f32; none is zeros.");
    quote_spanned! { span=>
        /// Inputs of the backward pass.
        #[derive(Clone, Copy, Debug)]
        pub struct Backward<'a> {
            #[doc = #out]
            pub d_out: __gdn2::View<'a>,
            #[doc = #state]
            pub d_final_state: ::core::option::Option<__gdn2::View<'a>>,
        }

        /// What the backward pass gives: the gradient of each input.
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub struct Gradients {
            #(#members)*
            /// Gradient of the initial state, f32, where the forward pass was given one.
            pub d_initial_state: ::core::option::Option<__gdn2::Tensor>,
        }

        /// Where a backward call on a stream writes: each gradient shaped and stored as what it is the gradient of.
        pub struct GradientsMut<'a> {
            #(#views)*
            /// Where the gradient of the initial state is written, f32; none is not asked for.
            pub d_initial_state: ::core::option::Option<__gdn2::ViewMut<'a>>,
        }

        impl Kernels {
            /// Runs the chunked forward pass and saves what [`Kernels::backward`] needs of it.
            ///
            /// # Errors
            /// As [`Kernels::forward`].
            pub fn forward_for_backward(
                &self,
                inputs: Forward<'_>,
            ) -> ::core::result::Result<(__gdn2::Output, __gdn2::Saved), __gdn2::Error> {
                self.loaded.forward_for_backward(inputs.call())
            }

            /// Runs the backward pass: the gradient of `sum(o · d_out) + sum(final_state · d_final_state)`.
            ///
            /// # Errors
            /// A gradient that does not fit what was saved, a compiler that is needed and missing.
            pub fn backward(
                &self,
                saved: &__gdn2::Saved,
                outputs: Backward<'_>,
            ) -> ::core::result::Result<Gradients, __gdn2::Error> {
                let mut grads = self.loaded.backward(saved, outputs.d_out, outputs.d_final_state)?;
                ::core::result::Result::Ok(Gradients {
                    #(#grads: grads.take(__gdn2::Name::#names),)*
                    #(#own_grads: grads.take_named(#own_names),)*
                    d_initial_state: grads.take_initial_state(),
                })
            }

            /// [`Kernels::forward_on`] that also leaves in the scratch memory what [`Kernels::backward_on`] reads:
            /// `training_scratch` says how many bytes that takes.
            ///
            /// # Errors
            /// As there, and scratch memory that is too small.
            pub fn forward_for_backward_on<'s>(
                &self,
                stream: impl ::core::convert::Into<__gdn2::Stream<'s>>,
                inputs: Forward<'_>,
                outputs: __gdn2::Outputs<'_>,
                scratch: &mut dyn __gdn2::DeviceMemoryMut,
            ) -> ::core::result::Result<(), __gdn2::Error> {
                self.loaded.forward_for_backward_on(stream.into(), inputs.call(), outputs, scratch)
            }

            /// The backward pass on device memory, after [`Kernels::forward_for_backward_on`] with the same inputs and
            /// scratch memory.
            ///
            /// # Errors
            /// As there.
            pub fn backward_on<'s>(
                &self,
                stream: impl ::core::convert::Into<__gdn2::Stream<'s>>,
                inputs: Forward<'_>,
                outputs: Backward<'_>,
                gradients: GradientsMut<'_>,
                scratch: &mut dyn __gdn2::DeviceMemoryMut,
            ) -> ::core::result::Result<(), __gdn2::Error> {
                let gradients = __gdn2::GradientViews {
                    tokens: [
                        #((__gdn2::Name::#names, ::core::option::Option::Some(gradients.#grads)),)*
                        #(#missing)*
                    ],
                    named: [
                        #(::core::option::Option::Some(gradients.#own_grads),)*
                        #(#no_more)*
                    ],
                    d_initial_state: gradients.d_initial_state,
                };
                self.loaded.backward_on(
                    stream.into(),
                    inputs.call(),
                    outputs.d_out,
                    outputs.d_final_state,
                    gradients,
                    scratch,
                )
            }
        }
    }
}

/// Inputs and calls of the decode pass.
fn decode(rule: &Rule, tensors: &[Field], span: Span) -> TokenStream {
    let members = members(tensors, span);
    let (values, named) = (values(tensors, "self", span), named(tensors, "self", span));
    let doc = format!(
        "Runs one token, or a short run of tokens, per sequence; `state`, `{}`, f32, is read and written in place.",
        state_shape(rule)
    );
    quote_spanned! { span=>
        /// Inputs of the decode pass: T is 1, or the length of a short run of tokens.
        #[derive(Clone, Copy, Debug)]
        pub struct Decode<'a> {
            #(#members)*
            /// Which state of the pool each sequence uses, `[B]`; negative skips the sequence. None: its own index.
            pub slots: ::core::option::Option<__gdn2::Slots<'a>>,
            /// Factor on q; none is 1/√K.
            pub scale: ::core::option::Option<f32>,
        }

        impl<'a> Decode<'a> {
            fn call(self) -> __gdn2::Call<'a> {
                __gdn2::Call {
                    #(#values)*
                    #named
                    initial_state: ::core::option::Option::None,
                    cu_seqlens: ::core::option::Option::None,
                    scale: self.scale,
                }
            }
        }

        impl Kernels {
            #[doc = #doc]
            /// Returns `o`, shaped as `v`.
            ///
            /// # Errors
            /// A tensor whose shape, dtype or strides do not fit, named with what would.
            pub fn decode(
                &self,
                state: &mut __gdn2::Tensor,
                inputs: Decode<'_>,
            ) -> ::core::result::Result<__gdn2::Tensor, __gdn2::Error> {
                self.loaded.decode(state, inputs.slots, inputs.call())
            }

            /// [`Kernels::decode`] on device memory, put on a stream as [`Kernels::forward_on`] is.
            ///
            /// # Errors
            /// As there.
            pub fn decode_on<'s>(
                &self,
                stream: impl ::core::convert::Into<__gdn2::Stream<'s>>,
                state: __gdn2::ViewMut<'_>,
                inputs: Decode<'_>,
                o: __gdn2::ViewMut<'_>,
            ) -> ::core::result::Result<(), __gdn2::Error> {
                self.loaded.decode_on(stream.into(), state, inputs.slots, inputs.call(), o)
            }
        }
    }
}

/// The tensors as struct fields.
fn members(tensors: &[Field], span: Span) -> Vec<TokenStream> {
    let member = |field: &Field| {
        let (name, doc) = (ident(&field.name, span), &field.doc);
        quote_spanned! { span=> #[doc = #doc] pub #name: __gdn2::View<'a>, }
    };
    tensors.iter().map(member).collect()
}

/// The tensors of `holder` as fields of the façade's call, gates that the rule lacks left empty.
fn values(tensors: &[Field], holder: &str, span: Span) -> Vec<TokenStream> {
    let holder = Ident::new(holder, span);
    let given = |field: &Field| {
        let (name, tensor) = (ident(&field.name, span), format_ident!("{}", field.tensor, span = span));
        if field.gate {
            quote_spanned! { span=> #tensor: ::core::option::Option::Some(#holder.#name), }
        } else {
            quote_spanned! { span=> #tensor: #holder.#name, }
        }
    };
    let absent = ["g", "b", "w"].into_iter().filter(|gate| tensors.iter().all(|field| field.tensor != *gate));
    let empty = absent.map(|gate| {
        let gate = Ident::new(gate, span);
        quote_spanned! { span=> #gate: ::core::option::Option::None, }
    });
    tensors.iter().filter(|field| !field.own).map(given).chain(empty).collect()
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
