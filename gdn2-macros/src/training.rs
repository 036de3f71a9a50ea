//! The structs and calls of training: forward that saves, backward, gradients.

use gdn2_codegen::kernel::MOST_NAMED;
use gdn2_dsl::Rule;
use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote_spanned};

use crate::fields::{Field, state_shape};

/// What training adds: forward that saves, backward, gradients.
pub(crate) fn training(rule: &Rule, tensors: &[Field], span: Span) -> TokenStream {
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
