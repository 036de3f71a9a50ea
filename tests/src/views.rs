//! Tensors as a caller may hold them: views with room between tokens and heads, heads before tokens, batch rows anywhere.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use gdn2_codegen::abi::Tensor;
use gdn2_dsl::{Dtype, Inputs, Rule};
use gdn2_runtime::problem::{self, has_channels};
use gdn2_runtime::raw::{Arguments, View};
use gdn2_runtime::storage;
use gdn2_vm::{Address, Memory};
use proptest::prelude::*;

/// How token tensors lie in memory. Gaps are elements, multiples of 8, so that rows start at multiples of 16 bytes in
/// every type.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// Between a head's last channel and what follows it.
    pub after_head: usize,
    /// After the last head of a token, or the last token of a head.
    pub after_token: usize,
    /// `[B, H, T, D]` in memory instead of `[B, T, H, D]`.
    pub heads_first: bool,
}

/// Any spread.
pub fn spreads() -> impl Strategy<Value = Spread> {
    (0usize..=3, 0usize..=5, any::<bool>()).prop_map(|(head, token, heads_first)| Spread {
        after_head: 8 * head,
        after_token: 8 * token,
        heads_first,
    })
}

impl Spread {
    /// Elements of a batch row, and its token and head strides.
    fn strides(self, tokens: usize, heads: usize, channels: usize) -> (usize, usize, usize) {
        let row = channels + self.after_head;
        let (outer, inner) = if self.heads_first { (heads, tokens) } else { (tokens, heads) };
        let step = row * inner + self.after_token;
        let (token, head) = if self.heads_first { (row, step) } else { (step, row) };
        (outer * step, token, head)
    }
}

/// A call's token tensors in memory: each batch row in a buffer of its own, so that the batch stride is far beyond 32
/// bits, and NaN between the rows.
pub struct Views<'a> {
    rule: &'a Rule,
    inputs: &'a Inputs,
    spread: Spread,
    /// The machine's memory.
    pub memory: Memory,
    /// The call so far.
    pub call: Arguments,
    /// Rows of o: an address per batch row.
    o: Vec<Address>,
}

impl<'a> Views<'a> {
    /// Lays out the inputs of a call of at most two batch rows, o poisoned.
    pub fn new(rule: &'a Rule, inputs: &'a Inputs, spread: Spread) -> Views<'a> {
        let dims = inputs.dims;
        let call = Arguments {
            sequences: inputs.states() as i32,
            tokens: dims.tokens as i32,
            key_heads: dims.heads as i32,
            value_heads: dims.value_heads as i32,
            scale: inputs.scale as f32,
            ..Arguments::default()
        };
        let mut views = Views { rule, inputs, spread, memory: Memory::new(), call, o: Vec::new() };
        let given = [
            (Tensor::Q, Some(&inputs.q)),
            (Tensor::K, Some(&inputs.k)),
            (Tensor::V, Some(&inputs.v)),
            (Tensor::G, inputs.g.as_ref()),
            (Tensor::B, inputs.b.as_ref()),
            (Tensor::W, inputs.w.as_ref()),
        ];
        for (tensor, values) in given {
            let Some(values) = values else { continue };
            let (heads, channels) = views.heads_and_channels(tensor);
            let (elements, token, head) = spread.strides(dims.tokens, heads, channels);
            let row_of = |batch: usize| {
                let mut row = vec![f32::NAN; elements];
                for t in 0..dims.tokens {
                    for h in 0..heads {
                        let from = ((batch * dims.tokens + t) * heads + h) * channels;
                        for (channel, value) in values[from..from + channels].iter().enumerate() {
                            row[t * token + h * head + channel] = *value as f32;
                        }
                    }
                }
                row
            };
            let dtype = problem::dtype(rule, tensor);
            let rows: Vec<Address> = (0..dims.batch)
                .map(|batch| views.memory.upload(tensor.name(), &storage::encode(row_of(batch).into_iter(), dtype)))
                .collect();
            views.point(tensor, &rows, token, head);
        }
        let (elements, token, head) = spread.strides(dims.tokens, dims.value_heads, dims.value_dim);
        let bytes = elements * rule.dtype.bytes() as usize;
        views.o = (0..dims.batch).map(|_| views.memory.poisoned("o", bytes)).collect();
        let rows = views.o.clone();
        views.point(Tensor::O, &rows, token, head);
        views
    }

    fn heads_and_channels(&self, tensor: Tensor) -> (usize, usize) {
        let dims = self.inputs.dims;
        let channels = |width: u32| if has_channels(self.rule, tensor) { width as usize } else { 1 };
        match tensor {
            Tensor::Q | Tensor::K => (dims.heads, dims.key_dim),
            Tensor::G | Tensor::B => (dims.value_heads, channels(self.rule.key_dim)),
            _ => (dims.value_heads, channels(self.rule.value_dim)),
        }
    }

    fn point(&mut self, tensor: Tensor, rows: &[Address], token: usize, head: usize) {
        let bytes = i64::from(problem::dtype(self.rule, tensor).bytes());
        // Two rows at most: buffers of this machine are not equally far apart.
        let batch = rows.get(1).map_or(0, |second| (second.0 as i64 - rows[0].0 as i64) / bytes);
        *self.call.view_mut(tensor).unwrap() =
            View { address: rows[0].0, batch, token: token as i64, head: head as i64 };
    }

    /// Uploads a slot table.
    pub fn ints(&mut self, name: &str, values: &[i32]) -> u64 {
        self.memory.upload(name, &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>()).0
    }

    /// Packs the call's sequences at these offsets.
    pub fn pack(&mut self, offsets: &[i64]) {
        let bytes: Vec<u8> = offsets.iter().flat_map(|offset| offset.to_le_bytes()).collect();
        self.call.cu_seqlens = self.memory.upload("cu_seqlens", &bytes).0;
        (self.call.cu_seqlens_is_64, self.call.sequences) = (1, offsets.len() as i32 - 1);
    }

    /// f32 states, written or read by the call.
    pub fn states(&self, address: u64) -> Vec<f64> {
        storage::decode(self.memory.read(Address(address)), Dtype::F32).into_iter().map(f64::from).collect()
    }

    /// o as `[B, T, HV, V]`.
    ///
    /// # Errors
    /// What lies between its rows was written.
    pub fn output(&self) -> Result<Vec<f64>, String> {
        let dims = self.inputs.dims;
        let (_, token, head) = self.spread.strides(dims.tokens, dims.value_heads, dims.value_dim);
        let mut o = Vec::new();
        for row in &self.o {
            let bytes = self.memory.read(*row);
            let numbers = storage::decode(bytes, self.rule.dtype);
            let mut ours = vec![false; numbers.len()];
            for t in 0..dims.tokens {
                for h in 0..dims.value_heads {
                    let from = t * token + h * head;
                    o.extend(numbers[from..from + dims.value_dim].iter().copied().map(f64::from));
                    ours[from..from + dims.value_dim].fill(true);
                }
            }
            let touched = bytes.chunks_exact(2).zip(&ours).position(|(pair, ours)| !ours && pair != [0xff, 0xff]);
            if let Some(index) = touched {
                return Err(format!("element {index}, between the rows of o, was written"));
            }
        }
        Ok(o)
    }
}
