//! From gates' gradients to those of logits and parameters: a launch over chunks that pulls each gradient back through its
//! formula and adds up what parameters get, and a small one that adds the chunks' shares. Every order is fixed.

use crate::abi::{Arg, Axis as StrideAxis, Condition, Extent, Factor, Param, Tensor, Workspace};
use crate::gates::{cuda_name, function, gradient_call, gradient_functions, named_logits, value_call};
use crate::kernel::{Kernel, Launch};
use crate::params::Params;
use crate::plan::{Fold, Plan};
use crate::print::signature::{extend, named_rows, params, regions, rows, shared_name, type_name};
use crate::print::template::{View, fields};
use crate::schedule::{Backward, Matrix};
use crate::shared::{Region, shared_bytes};
use gdn2_dsl::formula::Leaf;
use gdn2_dsl::prologue::{Axis, GateOf};
use gdn2_dsl::{Dtype, Rule};

const GATES: &str = include_str!("../../templates/backward/gates.cu.hbs");
const PARAMS: &str = include_str!("../../templates/backward/params.cu.hbs");

/// Threads of both launches: a token of the longest chunk to each.
pub(super) const THREADS: u32 = 128;

/// The gates whose gradients are pulled back.
fn gates(plan: &Plan) -> Vec<GateOf> {
    GateOf::ALL.into_iter().filter(|gate| plan.computes(*gate).is_some()).collect()
}

fn tensor(gate: GateOf) -> Tensor {
    match gate {
        GateOf::Decay => Tensor::G,
        GateOf::Erase => Tensor::B,
        GateOf::Write => Tensor::W,
    }
}

/// Channels of a gate, 1 where it has one number per token.
fn channels(rule: &Rule, plan: &Plan, gate: GateOf) -> u32 {
    if plan.fold(gate) == Fold::Operand { gate.axis().channels(rule) } else { 1 }
}

/// The workspace of a gate's gradient, `[tokens, HV, channels]`, stored as [`value_storage`] says.
pub(crate) fn values_name(gate: GateOf) -> &'static str {
    match gate {
        GateOf::Decay => "dg_values",
        GateOf::Erase => "db_values",
        GateOf::Write => "dw_values",
    }
}

/// What a gate's gradient is stored as before it is pulled back: float32, but as dv leaves where it is made beside dv on
/// wgmma, in the rule's dtype.
pub(super) fn value_storage(rule: &Rule, plan: &Plan, gate: GateOf, gradients: Matrix) -> Dtype {
    let beside_dv = gate == GateOf::Write && plan.fold(gate) == Fold::Operand;
    if beside_dv && gradients == Matrix::Wgmma { rule.dtype } else { Dtype::F32 }
}

/// Where the rows of a computed gate's gradient begin, for a chunk whose first of all tokens is `token`; and how far apart
/// they are.
pub(crate) fn value_rows(plan: &Plan, gate: GateOf, storage: Dtype, token: &str) -> [String; 2] {
    let (name, values, ty) = (tensor(gate).gradient().name(), values_name(gate), type_name(storage));
    let width = match (plan.fold(gate), gate) {
        (Fold::Operand, GateOf::Write) => "VALUE",
        (Fold::Operand, _) => "KEY",
        _ => "1",
    };
    [
        format!(
            "{ty}* const {name}_rows = static_cast<{ty}*>({values}) + ({token} * value_heads + work.value_head) * {width};"
        ),
        format!("const i64 {name}_token_stride = static_cast<i64>(value_heads) * {width};"),
    ]
}

fn sums_name(param: usize) -> String {
    format!("param_sums_{param}")
}

/// Gates' gradients, and chunks' shares of parameters'.
pub(super) fn workspaces(rule: &Rule, plan: &Plan, chunk: u32, gradients: Matrix) -> Vec<Workspace> {
    let place = |name: String, factor: Factor, width: u32, storage: Dtype| Workspace {
        name,
        bytes: Extent { factors: vec![factor, Factor::ValueHeads], times: u64::from(width * storage.bytes()) },
        saved: false,
        when: Condition::Always,
    };
    let values = gates(plan).into_iter().map(|gate| {
        let storage = value_storage(rule, plan, gate, gradients);
        place(values_name(gate).to_owned(), Factor::TotalTokens, channels(rule, plan, gate), storage)
    });
    let sums = rule.prologue.params().iter().enumerate().map(|(at, param)| {
        let width = param.axis.map_or(1, |axis| axis.channels(rule));
        place(sums_name(at), Factor::Chunks { chunk }, width, Dtype::F32)
    });
    values.chain(sums).collect()
}

/// Parameters of the launch over chunks.
pub(super) fn gate_params(rule: &Rule, plan: &Plan) -> Vec<Param> {
    let logits: Vec<Tensor> = gates(plan).into_iter().filter(|gate| reads(plan, *gate)).map(tensor).collect();
    let tensors: Vec<Tensor> = logits.iter().copied().chain(logits.iter().copied().map(Tensor::gradient)).collect();
    let mut params = Params::default();
    params.pointers(&tensors);
    for gate in gates(plan) {
        params.workspaces(&[values_name(gate)]);
    }
    for at in 0..rule.prologue.params().len() {
        params.workspaces(&[&sums_name(at)]);
    }
    params.push("cu_seqlens", Arg::CuSeqlens);
    params.strides(&tensors);
    params.named(rule);
    for own in named_logits(rule) {
        let name = gradient_name(rule, own.name);
        params.push(&name, Arg::NamedGradient(own.name.to_owned()));
        let axes = [(StrideAxis::Batch, "batch"), (StrideAxis::Token, "token"), (StrideAxis::Head, "head")];
        for (axis, suffix) in axes {
            params.push(&format!("{name}_{suffix}_stride"), Arg::NamedGradientStride(own.name.to_owned(), axis));
        }
    }
    params.sizes();
    params.list
}

fn reads(plan: &Plan, gate: GateOf) -> bool {
    plan.computes(gate).is_some_and(|computed| computed.reads_logit)
}

/// Parameters of the launch that adds up.
pub(super) fn sum_params(rule: &Rule) -> Vec<Param> {
    let mut params = Params::default();
    for (at, own) in rule.prologue.params().iter().enumerate() {
        params.push(&gradient_name(rule, &own.name), Arg::NamedGradient(own.name.clone()));
        params.workspaces(&[&sums_name(at)]);
    }
    params.push("cu_seqlens", Arg::CuSeqlens);
    params.push("sequences", Arg::Sequences);
    params.push("tokens", Arg::Tokens);
    params.push("value_heads", Arg::ValueHeads);
    params.list
}

fn gradient_name(rule: &Rule, name: &str) -> String {
    format!("d_{}", cuda_name(rule, name))
}

/// Shared memory of the launch over chunks: sums of warps, and what channels give to `let`s with a number per token.
pub(super) fn gate_map(rule: &Rule, chunk: u32) -> Vec<Region> {
    let mut map = sum_map();
    for own in shared_scalars(rule) {
        let offset = shared_bytes(&map);
        map.push(Region { name: format!("shared_{own}"), offset, bytes: THREADS / 32 * chunk * 4 });
    }
    map
}

/// Of the launch that adds up.
pub(super) fn sum_map() -> Vec<Region> {
    vec![Region { name: "words".to_owned(), offset: 0, bytes: THREADS * 4 }]
}

/// `let`s with one number per token.
fn shared_scalars(rule: &Rule) -> Vec<usize> {
    let lets = rule.prologue.lets().iter().enumerate();
    lets.filter(|(_, own)| own.axis.is_none()).map(|(at, _)| at).collect()
}

fn meaning(region: &str) -> &'static str {
    match region {
        "words" => "partial sums",
        _ => "what channels give to a number per token, a row to a warp",
    }
}

fn common(kernel: &Kernel, chunk: u32, launch: &Launch) -> View {
    fields! {
        "entry": launch.entry, "rule": kernel.rule.name, "arch": kernel.arch.target(),
        "schedule": kernel.schedule.to_string(),
        "grid": format!("(total_tokens / {chunk} + sequences) * value_heads"),
        "key": kernel.rule.key_dim, "value": kernel.rule.value_dim, "chunk": chunk,
        "warps": THREADS / 32, "threads": THREADS,
        "shared_bytes": launch.shared_bytes, "shared_alignment": launch.shared_alignment,
        "regions": regions(launch, meaning), "params": params(kernel, launch),
    }
}

/// The template and the view of the launch over chunks.
pub(super) fn gate_view(kernel: &Kernel, numbers: Backward, launch: &Launch) -> (&'static str, View) {
    let chunk = numbers.scan.chunk;
    let pulls = Pulls { kernel, gradients: numbers.gradients };
    let more = fields! { "formulas": gradient_functions(&kernel.rule, &kernel.plan), "lines": pulls.lines() };
    (GATES, extend(common(kernel, chunk, launch), more))
}

/// The template and the view of the launch that adds up.
pub(super) fn sum_view(kernel: &Kernel, chunk: u32, launch: &Launch) -> (&'static str, View) {
    let rule = &kernel.rule;
    let params = rule.prologue.params().iter().enumerate();
    let lines: Vec<String> = params
        .map(|(at, own)| {
            let (name, width) = (gradient_name(rule, &own.name), own.axis.map_or(1, |axis| axis.channels(rule)));
            format!(
                "if ({name} != nullptr) sum_slots<{width}>({name}, static_cast<const float*>({}), slots, blockIdx.x, \
                 value_heads, SMEM_WORDS);",
                sums_name(at)
            )
        })
        .collect();
    (PARAMS, extend(common(kernel, chunk, launch), fields! { "lines": lines }))
}

/// The body of the launch over chunks.
struct Pulls<'k> {
    kernel: &'k Kernel,
    gradients: Matrix,
}

impl Pulls<'_> {
    fn value_storage(&self, gate: GateOf) -> Dtype {
        value_storage(&self.kernel.rule, &self.kernel.plan, gate, self.gradients)
    }

    fn lines(&self) -> Vec<String> {
        let (rule, plan) = (&self.kernel.rule, &self.kernel.plan);
        let mut lines = self.rows();
        let scalars = shared_scalars(rule);
        let wide = [Axis::Key, Axis::Value].map(|axis| (axis, self.along(axis)));
        let any_wide = wide.iter().any(|(_, gates)| !gates.is_empty());
        for own in scalars.iter().filter(|_| any_wide) {
            lines.push(format!("clear_tokens({});", shared_name(&format!("shared_{own}"))));
        }
        for (at, _) in rule.prologue.params().iter().enumerate().filter(|(_, own)| own.axis.is_none()) {
            let name = cuda_name(rule, &rule.prologue.params()[at].name);
            lines.push(format!("const float p{at} = {name}[head];"));
            lines.push(format!("float by_p{at} = 0.0f;"));
        }
        if any_wide && !scalars.is_empty() {
            lines.push("__syncthreads();".to_owned());
        }
        for (axis, gates) in wide.into_iter().filter(|(_, gates)| !gates.is_empty()) {
            lines.extend(self.channels(axis, &gates));
        }
        let tokens: Vec<GateOf> = gates(plan).into_iter().filter(|gate| plan.fold(*gate) != Fold::Operand).collect();
        if !tokens.is_empty() || !scalars.is_empty() {
            lines.extend(self.tokens(&tokens, any_wide));
        }
        for (at, _) in rule.prologue.params().iter().enumerate().filter(|(_, own)| own.axis.is_none()) {
            let sums = sums_name(at);
            lines.push(format!("const float sum_p{at} = sum_block(by_p{at}, SMEM_WORDS);"));
            lines.push(format!(
                "if (thread_index() == 0) static_cast<float*>({sums})[work.slot * value_heads + head] = sum_p{at};"
            ));
        }
        lines
    }

    /// The gates with channels along an axis.
    fn along(&self, axis: Axis) -> Vec<GateOf> {
        let plan = &self.kernel.plan;
        gates(plan).into_iter().filter(|gate| plan.fold(*gate) == Fold::Operand && gate.axis() == axis).collect()
    }

    /// Where everything begins.
    fn rows(&self) -> Vec<String> {
        let (rule, plan) = (&self.kernel.rule, &self.kernel.plan);
        let mut lines = Vec::new();
        for gate in gates(plan) {
            if reads(plan, gate) {
                lines.push(format!("{};", rows(tensor(gate))));
                lines.push(format!("{};", rows(tensor(gate).gradient())));
            }
            let (name, width) = (values_name(gate), channels(rule, plan, gate));
            let ty = type_name(self.value_storage(gate));
            lines.push(format!(
                "const {ty}* const {name}_rows = static_cast<const {ty}*>({name}) + (work.token * value_heads + head) * \
                 {width};"
            ));
            lines.push(format!("const i64 {name}_stride = static_cast<i64>(value_heads) * {width};"));
        }
        for own in named_logits(rule) {
            lines.push(format!("{};", named_rows(&cuda_name(rule, own.name))));
            lines.push(format!("{};", named_rows(&gradient_name(rule, own.name))));
        }
        lines
    }

    /// Values of `let`s at a token, those without channels and those of an axis; `channel` is where theirs are read.
    fn shared_values(&self, axis: Option<Axis>, channel: &str) -> Vec<String> {
        let rule = &self.kernel.rule;
        let mut lines = Vec::new();
        for (at, own) in rule.prologue.lets().iter().enumerate() {
            if own.axis.is_some() && own.axis != axis {
                continue;
            }
            if own.formula.reads(Leaf::Logit) {
                let name = cuda_name(rule, &own.name);
                let shift = if own.axis.is_some() { format!(" + {channel}") } else { String::new() };
                lines.push(format!("const float y{at} = load_number({name}_rows + t * {name}_token_stride{shift});"));
            }
            let call = value_call(&format!("shared_value_{at}"), &own.formula, &format!("y{at}"));
            lines.push(format!("const float l{at} = {call};"));
        }
        lines
    }

    /// A gate's gradient at a token, and at channel d.
    fn pull_gate(&self, gate: GateOf) -> Vec<String> {
        let (rule, plan) = (&self.kernel.rule, &self.kernel.plan);
        let Some(formula) = rule.prologue.gate(gate) else { return Vec::new() };
        let (name, values) = (gate.tensor(), values_name(gate));
        let shift = if plan.fold(gate) == Fold::Operand { " + d" } else { "" };
        let up = match self.value_storage(gate) {
            Dtype::F32 => format!("{values}_rows[t * {values}_stride{shift}]"),
            _ => format!("load_number({values}_rows + t * {values}_stride{shift})"),
        };
        let mut lines = vec!["{".to_owned()];
        if reads(plan, gate) {
            lines.push(format!("  const float x = load_number({name}_rows + t * {name}_token_stride{shift});"));
            lines.push("  float by_x = 0.0f;".to_owned());
        }
        lines.push(format!("  {};", gradient_call(&format!("{}_gradient", function(gate)), formula, &up, "x")));
        if reads(plan, gate) {
            lines.push(format!("  store_number(d{name}_rows + t * d{name}_token_stride{shift}, by_x);"));
        }
        lines.push("}".to_owned());
        lines
    }

    /// The same of a `let`, whose gradient is complete.
    fn pull_shared(&self, at: usize) -> Vec<String> {
        let rule = &self.kernel.rule;
        let own = &rule.prologue.lets()[at];
        let mut lines = vec!["{".to_owned()];
        let reads = own.formula.reads(Leaf::Logit);
        if reads {
            lines.push("  float by_x = 0.0f;".to_owned());
        }
        let call =
            gradient_call(&format!("shared_gradient_{at}"), &own.formula, &format!("by_l{at}"), &format!("y{at}"));
        lines.push(format!("  {call};"));
        if reads {
            let name = gradient_name(rule, &own.name);
            let shift = if own.axis.is_some() { " + d" } else { "" };
            let store = format!("store_number({name}_rows + t * {name}_token_stride{shift}, by_x);");
            lines.push(format!("  if ({name} != nullptr) {store}"));
        }
        lines.push("}".to_owned());
        lines
    }

    /// Every channel of an axis: a channel to a thread, token after token.
    fn channels(&self, axis: Axis, gates: &[GateOf]) -> Vec<String> {
        let rule = &self.kernel.rule;
        let (width, lets) = (if axis == Axis::Key { "KEY" } else { "VALUE" }, rule.prologue.lets());
        let params = || rule.prologue.params().iter().enumerate().filter(|(_, own)| own.axis == Some(axis));
        let mut lines = vec![
            format!("for (int first = 0; first < {width}; first += THREADS) {{"),
            "  const int d = first + thread_index();".to_owned(),
            format!("  const bool there = d < {width};"),
            "  const int own = there ? d : 0;".to_owned(),
        ];
        for (at, own) in params() {
            let name = cuda_name(rule, &own.name);
            lines.push(format!("  const float p{at} = {name}[head * {width} + own];"));
            lines.push(format!("  float by_p{at} = 0.0f;"));
        }
        lines.push("  for (int t = 0; t < exist; ++t) {".to_owned());
        lines.extend(self.shared_values(Some(axis), "own").into_iter().map(|line| format!("    {line}")));
        let seen = lets.iter().enumerate().filter(|(_, own)| own.axis.is_none() || own.axis == Some(axis));
        lines.extend(seen.map(|(at, _)| format!("    float by_l{at} = 0.0f;")));
        lines.push("    if (there) {".to_owned());
        let indented = |lines: Vec<String>| lines.into_iter().map(|line| format!("      {line}"));
        for gate in gates {
            lines.extend(indented(self.pull_gate(*gate)));
        }
        for (at, _) in lets.iter().enumerate().rev().filter(|(_, own)| own.axis == Some(axis)) {
            lines.extend(indented(self.pull_shared(at)));
        }
        lines.push("    }".to_owned());
        for at in shared_scalars(rule) {
            lines.push(format!("    add_token({}, t, by_l{at});", shared_name(&format!("shared_{at}"))));
        }
        lines.push("  }".to_owned());
        for (at, _) in params() {
            let sums = sums_name(at);
            lines.push(format!(
                "  if (there) static_cast<float*>({sums})[(work.slot * value_heads + head) * {width} + d] = by_p{at};"
            ));
        }
        lines.push("}".to_owned());
        lines
    }

    /// Gates and `let`s with one number per token: a token to a thread.
    fn tokens(&self, gates: &[GateOf], any_wide: bool) -> Vec<String> {
        let rule = &self.kernel.rule;
        let scalars = shared_scalars(rule);
        let mut lines = Vec::new();
        if any_wide && !scalars.is_empty() {
            lines.push("__syncthreads();".to_owned());
        }
        lines.push("if (thread_index() < exist) {".to_owned());
        lines.push("  const int t = thread_index();".to_owned());
        lines.extend(self.shared_values(None, "0").into_iter().map(|line| format!("  {line}")));
        for at in &scalars {
            let from = format!("sum_token({}, t)", shared_name(&format!("shared_{at}")));
            lines.push(format!("  float by_l{at} = {};", if any_wide { &from } else { "0.0f" }));
        }
        for gate in gates {
            lines.extend(self.pull_gate(*gate).into_iter().map(|line| format!("  {line}")));
        }
        for at in scalars.into_iter().rev() {
            lines.extend(self.pull_shared(at).into_iter().map(|line| format!("  {line}")));
        }
        lines.push("}".to_owned());
        lines
    }
}
