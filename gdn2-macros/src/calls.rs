//! The structs and calls of inference, on memory of the host, on a stream and on candle's tensors.

use gdn2_dsl::Rule;
use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote_spanned};

use crate::fields::{Field, ident, named, state_shape};

/// Inputs and calls of the chunked forward pass.
pub(crate) fn forward(rule: &Rule, tensors: &[Field], span: Span) -> TokenStream {
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

/// Inputs and calls of the decode pass.
pub(crate) fn decode(rule: &Rule, tensors: &[Field], span: Span) -> TokenStream {
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

/// The calls on candle's tensors, there where the façade's feature is on.
pub(crate) fn candle(rule: &Rule, tensors: &[Field], span: Span) -> TokenStream {
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
