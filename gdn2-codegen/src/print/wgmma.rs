//! What kernels on wgmma print alike: the products, how gates are stored and what they have, rows that are copied to tiles.

use crate::abi::Tensor;
use crate::kernel::Kernel;
use crate::plan::{Fold, Plan};
use crate::print::signature::storage;
use gdn2_dsl::Dtype;
use gdn2_dsl::prologue::GateOf;

/// Gates by the names that device code knows them by.
pub(crate) const GATES: [(GateOf, &str, Tensor); 3] =
    [(GateOf::Decay, "Decay", Tensor::G), (GateOf::Erase, "Erase", Tensor::B), (GateOf::Write, "Write", Tensor::W)];

/// What gates are stored as; a gate that is absent is looked at nowhere.
pub(crate) fn gate_types(kernel: &Kernel) -> Vec<String> {
    GATES.map(|(_, name, tensor)| format!("using {name} = {};", storage(kernel, tensor))).to_vec()
}

/// What gates there are, as constants that device code is compiled by.
pub(crate) fn gate_choices(plan: &Plan) -> Vec<String> {
    let Plan { decay, erase, write, tied, .. } = *plan;
    vec![
        format!("DECAY = {},", numbers_of(decay)),
        format!("ERASE = {},", numbers_of(erase)),
        format!("WRITE = {},", numbers_of(write)),
        format!("TIED = {},  // write is erase", u32::from(tied && write != Fold::Absent)),
    ]
}

/// The rows of a tensor under its name: those of `given`, from `shift` on; or that there are none.
pub(crate) fn copied_rows(kernel: &Kernel, tensor: Tensor, given: Option<Tensor>, shift: &str) -> String {
    let rows = tensor.name();
    let Some(given) = given else { return format!("const NoRows {rows}_rows{{}};") };
    let head = if matches!(tensor, Tensor::Q | Tensor::K) { "key_head" } else { "value_head" };
    format!("const Rows<{}> {rows}_rows{};", storage(kernel, tensor), rows_of(given.cuda_name(), head, shift))
}

/// The rows of the tensor `name` of a head, as they are initialised.
pub(crate) fn rows_of(name: &str, head: &str, shift: &str) -> String {
    format!(
        "{{work.rows({name}, {name}_batch_stride, {name}_token_stride, {name}_head_stride, work.{head}){shift}, \
         {name}_token_stride}}"
    )
}

/// How many numbers a gate has, as device code says it.
fn numbers_of(fold: Fold) -> &'static str {
    match fold {
        Fold::Absent => "ABSENT",
        Fold::Pair | Fold::Row => "TOKEN",
        Fold::Operand => "CHANNEL",
    }
}

/// Where the left operand of a product is.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Left {
    Registers,
    /// Its depth runs along its rows.
    Tile,
    /// Depths run along rows or across them.
    AnyTile,
}

/// Operands to a line of a product's lists.
const TO_A_LINE: usize = 8;

/// One wgmma of `n` columns as a function.
pub(crate) fn product(n: u32, dtype: Dtype, left: Left) -> String {
    // Rules have 16-bit operands.
    let ty = if dtype == Dtype::Bf16 { "bf16" } else { "f16" };
    let sums = (n / 2) as usize;
    let list = |texts: Vec<String>, separator: &str, open: &str, close: &str| {
        let lines: Vec<String> = texts.chunks(TO_A_LINE).map(|line| format!("{open}{}", line.join(","))).collect();
        lines.join(&format!("{separator}{close}\n      "))
    };
    let numbers = list((0..sums).map(|i| format!("%{i}")).collect(), ",", "\"", "\"");
    let held = list((0..sums).map(|i| format!(" \"+f\"(d[{}][{}])", i / 4, i % 4)).collect(), ",", "", "");
    let name = match left {
        Left::Registers => "multiply",
        Left::Tile => "multiply_tiles",
        Left::AnyTile => "multiply_turned",
    };
    let (what, head, a, inputs, majors) = match left {
        Left::Registers => (
            format!(
                "// d[64][{n}] = a[64][16] b[16][{n}], added to d where it is kept. MAJOR 1: the depth of b runs across its \
                 rows.\ntemplate <int MAJOR>\n"
            ),
            "const u32 (&a)[4], u64 b",
            format!("{{%{}, %{}, %{}, %{}}}, %{}", sums, sums + 1, sums + 2, sums + 3, sums + 4),
            "\"r\"(a[0]), \"r\"(a[1]), \"r\"(a[2]), \"r\"(a[3]), \"l\"(b)",
            (format!(", %{}", sums + 6), ", \"n\"(MAJOR)"),
        ),
        Left::Tile => (
            "// The same with a in a tile as well; depths run along rows.\n".to_owned(),
            "u64 a, u64 b",
            format!("%{}, %{}", sums, sums + 1),
            "\"l\"(a), \"l\"(b)",
            (", 0, 0".to_owned(), ""),
        ),
        Left::AnyTile => (
            "// The same, LEFT and RIGHT 1: the depth of a, of b runs across rows.\ntemplate <int LEFT, int RIGHT>\n"
                .to_owned(),
            "u64 a, u64 b",
            format!("%{}, %{}", sums, sums + 1),
            "\"l\"(a), \"l\"(b)",
            (format!(", %{}, %{}", sums + 3, sums + 4), ", \"n\"(LEFT), \"n\"(RIGHT)"),
        ),
    };
    let keep = sums + if left == Left::Registers { 5 } else { 2 };
    format!(
        "{what}DEVICE void {name}(float (&d)[{}][4], {head}, bool keep) {{\n  \
         asm volatile(\n      \
         \"{{ .reg .pred keep; setp.ne.b32 keep, %{keep}, 0;\\n\"\n      \
         \"wgmma.mma_async.sync.aligned.m64n{n}k16.f32.{ty}.{ty} {{\"\n      \
         {numbers}\"\n      \
         \"}}, {a}, keep, 1, 1{}; }}\"\n      \
         :{held}\n      \
         : {inputs}, \"r\"(static_cast<int>(keep)){});\n\
         }}\n",
        n / 8,
        majors.0,
        majors.1,
    )
}
