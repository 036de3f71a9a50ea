//! Builds parameter lists, every parameter under the name that all passes use.

use crate::abi::{Arg, Axis, Param, Tensor};
use crate::gates::{cuda_name, named_logits};
use crate::pass::Pass;
use crate::plan::Plan;
use gdn2_dsl::Rule;

/// Builds a parameter list: pointers, strides and sizes under the names every pass uses.
#[derive(Debug, Default)]
pub(crate) struct Params {
    /// The list so far.
    pub(crate) list: Vec<Param>,
}

impl Params {
    pub(crate) fn push(&mut self, name: &str, arg: Arg) {
        self.list.push(Param { name: name.to_owned(), arg });
    }

    pub(crate) fn pointers(&mut self, tensors: &[Tensor]) {
        for &tensor in tensors {
            self.push(tensor.cuda_name(), Arg::Pointer(tensor));
        }
    }

    pub(crate) fn strides(&mut self, tensors: &[Tensor]) {
        for &tensor in tensors {
            for (axis, suffix) in [(Axis::Batch, "batch"), (Axis::Token, "token"), (Axis::Head, "head")] {
                self.push(&format!("{}_{suffix}_stride", tensor.cuda_name()), Arg::Stride(tensor, axis));
            }
        }
    }

    /// Parameters, and logits of `let`s with their strides.
    pub(crate) fn named(&mut self, rule: &Rule) {
        for own in rule.prologue.named() {
            self.push(&cuda_name(rule, own.name), Arg::Named(own.name.to_owned()));
        }
        for own in named_logits(rule) {
            for (axis, suffix) in [(Axis::Batch, "batch"), (Axis::Token, "token"), (Axis::Head, "head")] {
                let name = format!("{}_{suffix}_stride", cuda_name(rule, own.name));
                self.push(&name, Arg::NamedStride(own.name.to_owned(), axis));
            }
        }
    }

    pub(crate) fn workspaces(&mut self, names: &[&str]) {
        for name in names {
            self.push(name, Arg::Workspace((*name).to_owned()));
        }
    }

    pub(crate) fn sizes(&mut self) {
        self.push("cu_seqlens_is_64", Arg::CuSeqlensIs64);
        self.push("sequences", Arg::Sequences);
        self.push("tokens", Arg::Tokens);
        self.push("key_heads", Arg::KeyHeads);
        self.push("value_heads", Arg::ValueHeads);
    }
}

/// The parameters of a kernel that reads every input and writes `o`. Where it does not start from the caller's states, it
/// finds those it starts from in the workspace `starts`.
pub(crate) fn inference(rule: &Rule, plan: &Plan, starts: Option<&str>) -> Vec<Param> {
    let inputs = [Tensor::Q, Tensor::K, Tensor::V].into_iter().chain(plan.gate_tensors());
    let streams: Vec<Tensor> = inputs.chain([Tensor::O]).collect();
    let mut params = Params::default();
    params.pointers(&streams);
    if starts.is_none() {
        params.pointers(&[Tensor::InitialState, Tensor::FinalState]);
        params.push("initial_slots", Arg::InitialSlots);
    } else {
        params.pointers(&[Tensor::FinalState]);
    }
    params.push("final_slots", Arg::FinalSlots);
    if let Some(starts) = starts {
        params.workspaces(&[starts]);
    }
    if plan.pass == Pass::ForwardForBackward {
        params.workspaces(&["states"]);
    }
    params.push("cu_seqlens", Arg::CuSeqlens);
    params.strides(&streams);
    params.named(rule);
    params.sizes();
    params.push("scale", Arg::Scale);
    params.list
}
