//! What `decode/decode.cu.hbs` prints: every number, name, type and call of a decode kernel as a ready string.

use super::computed::Computing;
use super::{Division, Lanes, resident_blocks};
use crate::abi::Tensor;
use crate::kernel::{Kernel, Launch};
use crate::plan::{Fold, Plan, Stage};
use crate::print::signature::{describe, describe_write, params, regions, rows, storage, type_name};
use crate::print::template::{View, fields};
use crate::schedule::Decode;
use gdn2_dsl::StateLayout;

const TEMPLATE: &str = include_str!("../../templates/decode/decode.cu.hbs");

/// The template and its view.
pub(crate) fn view(kernel: &Kernel, numbers: Decode, launch: &Launch) -> (&'static str, View) {
    let (rule, plan) = (&kernel.rule, &kernel.plan);
    let division = Division::new(rule, numbers);
    let Lanes { key_lanes, value_lanes, tile_keys, tile_values } = division.lanes;
    let (key_lane_stride, value_lane_stride) = match rule.state {
        StateLayout::Kv => (value_lanes, 1),
        StateLayout::Vk => (1, key_lanes),
    };
    let tensors = inputs(plan);
    let computing = Computing { kernel };
    let view = fields! {
        "entry": launch.entry, "rule": rule.name, "arch": kernel.arch.target(),
        "schedule": kernel.schedule.to_string(),
        "decay": describe(plan.decay), "erase": describe(plan.erase), "write": describe_write(plan),
        "grid": format!("sequences * value_heads * {}", numbers.value_split),
        "key": rule.key_dim, "value": rule.value_dim, "warps": numbers.warps, "threads": launch.block,
        "resident_blocks": resident_blocks(rule, plan, numbers, kernel.arch),
        "value_split": numbers.value_split, "block_values": division.block_values(),
        "key_warps": division.key_warps, "key_steps": division.key_steps,
        "key_lanes": key_lanes, "key_lane_stride": key_lane_stride,
        "value_lanes": value_lanes, "value_lane_stride": value_lane_stride,
        "tile_keys": tile_keys, "tile_values": tile_values,
        "shared_bytes": launch.shared_bytes, "shared_alignment": launch.shared_alignment, "regions": regions(launch, region_meaning),
        "state": match rule.state {
            StateLayout::Kv => "state_kv",
            StateLayout::Vk => "state_vk",
        },
        "token_update": if plan.stages.contains(&Stage::TokenDelta) { "delta" } else { "write" },
        "element": type_name(rule.dtype), "advance": advance(plan),
        "token": tensors.iter().map(|&tensor| token_field(kernel, tensor)).chain(computing.token_fields()).collect::<Vec<_>>(),
        "loads": tensors.iter().map(|&tensor| load(plan, tensor)).chain(computing.loads()).collect::<Vec<_>>(),
        "formulas": computing.declarations(), "fixed": computing.fixed(), "compute": computing.lines(),
        "inputs": computing.inputs(),
        "params": params(kernel, launch),
        "rows": tensors.iter().chain([&Tensor::O]).map(|&tensor| format!("{};", rows(tensor))).chain(computing.rows()).collect::<Vec<_>>(),
    };
    (TEMPLATE, view)
}

fn region_meaning(region: &str) -> &'static str {
    match region {
        name if name.starts_with("fixed_") => "a part of a formula that is the same for all tokens",
        "read" => "each warp's sums of the state read by q, two buffers",
        "erased" => "each warp's sums of the state read by e, two buffers",
        _ => "each warp's share of k . q, two buffers",
    }
}

fn inputs(plan: &Plan) -> Vec<Tensor> {
    [Tensor::Q, Tensor::K, Tensor::V].into_iter().chain(plan.gate_tensors()).collect()
}

/// How a tensor's factor is folded; q, k and v come whole.
fn fold(plan: &Plan, tensor: Tensor) -> Fold {
    match tensor {
        Tensor::G => plan.decay,
        Tensor::B => plan.erase,
        Tensor::W => plan.write,
        _ => Fold::Operand,
    }
}

fn token_field(kernel: &Kernel, tensor: Tensor) -> String {
    let name = tensor.name();
    let along = if matches!(tensor, Tensor::V | Tensor::W) { "ValueNumbers" } else { "KeyNumbers" };
    match fold(&kernel.plan, tensor) {
        Fold::Operand => format!("{along}<{}> {name}", storage(kernel, tensor)),
        Fold::Absent | Fold::Pair | Fold::Row => format!("float {name}"),
    }
}

fn load(plan: &Plan, tensor: Tensor) -> String {
    let name = tensor.name();
    let row = format!("{name}_rows + t * {name}_token_stride");
    match fold(plan, tensor) {
        Fold::Operand => format!("token.{name}.load({row}, place);"),
        Fold::Absent | Fold::Pair | Fold::Row => format!("token.{name} = load_number({row});"),
    }
}

/// What each gate does to a token, as the arguments of `advance`.
fn advance(plan: &Plan) -> String {
    let decay = match plan.decay {
        Fold::Absent => "NoDecay",
        Fold::Pair | Fold::Row => "TokenDecay",
        Fold::Operand => "ChannelDecay",
    };
    let write = match (plan.write, plan.tied) {
        (_, true) => "TiedWrite",
        (Fold::Absent, _) => "NoWrite",
        (Fold::Pair | Fold::Row, _) => "TokenWrite",
        (Fold::Operand, _) => "ChannelWrite",
    };
    match plan.erase {
        Fold::Absent => format!("{decay}, {write}"),
        Fold::Pair | Fold::Row => format!("{decay}, TokenErase, {write}"),
        Fold::Operand => format!("{decay}, ChannelErase, {write}"),
    }
}
