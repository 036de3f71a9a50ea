//! How every pass prints what it shares with the others: the parameter list in CUDA's types, where each tensor's rows
//! begin, gates and dtypes in words.

use crate::abi::{Arg, Param, Tensor};
use crate::kernel::{Kernel, Launch};
use crate::plan::{Fold, Plan};
use crate::print::template::{View, fields};
use crate::shared::Region;
use gdn2_dsl::{Dtype, Write};

/// A dtype's name in the device code.
pub(crate) fn type_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::Bf16 => "Bf16",
        Dtype::F16 => "F16",
        Dtype::F32 => "float",
    }
}

/// A gate in words, for the head of a file.
pub(crate) fn describe(fold: Fold) -> &'static str {
    match fold {
        Fold::Absent => "absent",
        Fold::Pair | Fold::Row => "one number per token",
        Fold::Operand => "one number per token and channel",
    }
}

/// The write gate in words.
pub(crate) fn describe_write(plan: &Plan) -> &'static str {
    if plan.tied { "tied to erase" } else { describe(plan.write) }
}

/// A view with more fields.
pub(crate) fn extend(mut view: View, more: View) -> View {
    if let (View::Fields(view), View::Fields(more)) = (&mut view, more) {
        view.extend(more);
    }
    view
}

/// The name of a shared-memory region's offset.
pub(crate) fn shared_name(region: &str) -> String {
    format!("SMEM_{}", region.to_uppercase())
}

/// A launch's shared memory as offsets with their meaning.
pub(crate) fn regions(launch: &Launch, meaning: impl Fn(&str) -> &'static str) -> Vec<View> {
    let region = |region: &Region| {
        fields! {
            "name": shared_name(&region.name), "offset": region.offset,
            "what": format!("{}, {} bytes", meaning(&region.name), region.bytes),
        }
    };
    launch.shared.iter().map(region).collect()
}

/// The device type a tensor is stored in.
pub(crate) fn storage(kernel: &Kernel, tensor: Tensor) -> &'static str {
    let rule = &kernel.rule;
    type_name(match tensor {
        Tensor::G | Tensor::DG => rule.decay.storage,
        Tensor::B | Tensor::DB => rule.erase.storage,
        Tensor::W | Tensor::DW => match rule.write {
            Write::Own(gate) => gate.storage,
            Write::Tied => rule.erase.storage,
        },
        Tensor::InitialState | Tensor::FinalState | Tensor::DInitialState | Tensor::DFinalState => Dtype::F32,
        _ => kernel.rule.dtype,
    })
}

/// The device type of a tensor that the rule names itself.
pub(crate) fn named_storage(kernel: &Kernel, name: &str) -> &'static str {
    let named = kernel.rule.prologue.named();
    type_name(named.into_iter().find(|own| own.name == name).map_or(Dtype::F32, |own| own.storage))
}

/// The parameter list, a line each.
pub(crate) fn params(kernel: &Kernel, launch: &Launch) -> Vec<String> {
    let last = launch.params.len().saturating_sub(1);
    let print = |(index, param): (usize, &Param)| {
        let ty = match &param.arg {
            // A final state may be the initial state's memory.
            Arg::Pointer(Tensor::InitialState) => "const float* ".to_owned(),
            Arg::Pointer(Tensor::FinalState) => "float* ".to_owned(),
            Arg::Pointer(tensor) if tensor.is_output() => format!("{}* __restrict__ ", storage(kernel, *tensor)),
            Arg::Pointer(tensor) => format!("const {}* __restrict__ ", storage(kernel, *tensor)),
            Arg::Named(name) => format!("const {}* __restrict__ ", named_storage(kernel, name)),
            Arg::NamedGradient(name) => format!("{}* __restrict__ ", named_storage(kernel, name)),
            Arg::InitialSlots | Arg::FinalSlots => "const int* __restrict__ ".to_owned(),
            Arg::CuSeqlens => "const void* __restrict__ ".to_owned(),
            Arg::Workspace(_) => "void* ".to_owned(),
            Arg::Stride(..) | Arg::NamedStride(..) | Arg::NamedGradientStride(..) => "i64 ".to_owned(),
            Arg::CuSeqlensIs64 | Arg::Sequences | Arg::Tokens | Arg::KeyHeads | Arg::ValueHeads => "int ".to_owned(),
            Arg::Scale => "float ".to_owned(),
        };
        format!("{ty}{}{}", param.name, if index == last { "" } else { "," })
    };
    launch.params.iter().enumerate().map(print).collect()
}

/// Where a sequence's and head's rows of a token tensor begin.
pub(crate) fn rows(tensor: Tensor) -> String {
    let name = tensor.cuda_name();
    let head = match tensor {
        Tensor::Q | Tensor::K | Tensor::DQ | Tensor::DK => "key_head",
        _ => "value_head",
    };
    format!(
        "auto* const {name}_rows = work.rows({name}, {name}_batch_stride, {name}_token_stride, {name}_head_stride, \
         work.{head})"
    )
}

/// The same of a `let`'s logit.
pub(crate) fn named_rows(name: &str) -> String {
    format!(
        "auto* const {name}_rows = work.rows({name}, {name}_batch_stride, {name}_token_stride, {name}_head_stride, \
         work.value_head)"
    )
}
