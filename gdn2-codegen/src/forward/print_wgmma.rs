//! What `forward_wgmma.cu.hbs` prints. The factors are the portable kernel's stages, made by one warpgroup; the state's
//! products are wgmma.

use super::numbers::composes;
use super::print_segments::{self, Role};
use super::wgmma::{Registers, factors_over_decay, part_steps, parts, registers, staged_vectors};
use crate::abi::Tensor;
use crate::chunk::numbers::own_erase_operand;
use crate::chunk::text::Text;
use crate::kernel::{Kernel, Launch};
use crate::pass::Pass;
use crate::plan::Fold;
use crate::print::device::device;
use crate::print::regions::region_meaning;
use crate::print::signature::{describe, describe_write, extend, params, regions, shared_name, storage};
use crate::schedule::Forward;
use gdn2_dsl::{Dtype, StateLayout};
use serde_json::{Value, json};

const TEMPLATE: &str = include_str!("../../templates/forward_wgmma.cu.hbs");

/// The template and its view.
pub(crate) fn view(kernel: &Kernel, numbers: Forward, launch: &Launch) -> (&'static str, Value) {
    if launch.entry.ends_with("_join") {
        return print_segments::join(kernel, numbers, launch);
    }
    let role = Role::of(numbers, launch);
    let own = Kernel { plan: role.plan(&kernel.plan), ..kernel.clone() };
    let kernel = &own;
    let group = Group { text: Text { kernel, numbers }, role };
    let text = &group.text;
    let (key, value) = (kernel.rule.key_dim, kernel.rule.value_dim);
    let (state_key_stride, state_value_stride) = match kernel.rule.state {
        StateLayout::Kv => (value, 1),
        StateLayout::Vk => (1, key),
    };
    // A bound kernel has them.
    let dealt = registers(&kernel.plan, numbers, kernel.arch);
    let dealt = |of: fn(&Registers) -> u32| dealt.as_ref().map_or(0, of);
    let factor_change = if dealt(|r| r.factors) < dealt(|r| r.launch) { "dec" } else { "inc" };
    let load_tensors = [text.tile_tensors(), group.loaded_tokens(), text.slice_tensors()].concat();
    let factor_tensors = if text.scans() { Vec::new() } else { text.token_tensors() };
    let aliases = text.factor_aliases().into_iter().map(|(name, ty)| json!({ "name": name, "type": ty }));
    let view = json!({
        "entry": launch.entry, "rule": kernel.rule.name, "arch": kernel.arch.target(),
        "schedule": kernel.schedule.to_string(),
        "decay": describe(kernel.plan.decay), "erase": describe(kernel.plan.erase),
        "write": describe_write(&kernel.plan),
        "key": key, "value": value, "chunk": numbers.chunk, "warps": numbers.warps, "threads": launch.block,
        "stages": numbers.stages,
        "state_key_stride": state_key_stride, "state_value_stride": state_value_stride,
        "shared_bytes": launch.shared_bytes, "regions": regions(launch, region_meaning),
        "device": group.device(), "aliases": aliases.collect::<Vec<_>>(), "params": params(kernel, launch),
        "load_registers": dealt(|r| r.load), "factor_change": factor_change,
        "factor_registers": dealt(|r| r.factors), "state_registers": dealt(|r| r.state),
        "load_rows": text.rows_of(&load_tensors), "copy_tiles": text.copies(&text.tile_tensors()),
        "load_tokens": group.load_tokens(), "factor_rows": text.rows_of(&factor_tensors),
        "token_gates": group.token_gates(),
        "factor_tiles": group.factor_tiles(),
        "calls": text.in_place(
            "barrier_wait(SMEM_FULL + stage * 8, chunk / STAGES % 2);".to_owned(),
            Vec::new(),
            text.fetches(Some("(chunk + 1) * CHUNK"), "work.length - (chunk + 1) * CHUNK"),
        ),
        "meets_last": text.meets_last(),
        "state_rows": group.state_rows(), "copy_values": group.copy_values(), "state_chunk": group.state_chunk(),
        "state_tiles": group.state_tiles(), "keep": group.keep(), "steps": group.steps(),
    });
    (TEMPLATE, extend(view, role.view(kernel, numbers, launch)))
}

struct Group<'a> {
    text: Text<'a>,
    role: Role,
}

impl Group<'_> {
    fn erases(&self) -> bool {
        !matches!(self.text.kernel.plan.erase, Fold::Absent | Fold::Pair)
    }

    fn device(&self) -> Vec<String> {
        let mut files = vec![
            concat!(device!("base"), device!("warp_uniform"), device!("elements")).to_owned(),
            concat!(device!("tile_columns"), device!("tile")).to_owned(),
            device!("copy").to_owned(),
            device!("wgmma").to_owned(),
            self.products(),
            device!("offsets").to_owned(),
            device!("sequence").to_owned(),
            device!("factors").to_owned(),
        ];
        files.extend(self.text.stage_device().into_iter().map(str::to_owned));
        files.push(device!("wgmma_state").to_owned());
        files.extend(self.role.device().into_iter().map(str::to_owned));
        if self.text.kernel.pass == Pass::ForwardForBackward && self.outputs() {
            files.push(device!("kept").to_owned());
        }
        files
    }

    /// The products themselves, by their number of columns: over a chunk's tokens, over the key's channels.
    fn products(&self) -> String {
        let mut widths = vec![self.text.numbers.chunk, self.text.kernel.rule.key_dim];
        widths.dedup();
        widths.into_iter().map(|n| product(n, self.text.kernel.rule.dtype)).collect::<Vec<_>>().join("\n")
    }

    /// Gates with one number per token that come with the tiles: where channels decay, factors need them last and have no
    /// register to hold them till then.
    fn loaded_tokens(&self) -> Vec<Tensor> {
        if self.text.scans() { self.text.token_tensors() } else { Vec::new() }
    }

    /// Their loads, and the arrival that tells of them; copies alone do not tell that the stage was empty.
    fn load_tokens(&self) -> Vec<String> {
        let load = |tensor: Tensor| {
            let name = tensor.name();
            let vector = shared_name(if tensor == Tensor::B { "beta" } else { "write" });
            let bytes = self.text.numbers.chunk * 4;
            let rows = format!("{name}_rows + first * {name}_token_stride, {name}_token_stride");
            format!("load_tokens({vector} + stage * {bytes}, {rows}, exist);")
        };
        let mut lines: Vec<String> = self.loaded_tokens().into_iter().map(load).collect();
        let arrive = if lines.is_empty() { "barrier_arrive_alone" } else { "barrier_arrive" };
        lines.push(format!("{arrive}(SMEM_FULL + stage * 8);"));
        lines
    }

    fn token_gates(&self) -> Vec<String> {
        if self.text.scans() {
            return Vec::new();
        }
        let mut lines = self.text.token_gates();
        lines.extend(self.text.first_fetches());
        lines
    }

    /// This chunk's tiles and vectors as the factor warpgroup names them.
    fn factor_tiles(&self) -> Vec<String> {
        let (plan, numbers) = (&self.text.kernel.plan, self.text.numbers);
        let mut lines = self.text.chunk_tiles();
        lines.extend(self.own_tiles(plan.scores_queries()));
        let written = |vector: &&str| !self.text.scans() || *vector == "beta";
        for vector in staged_vectors(plan).into_iter().filter(written) {
            lines.push(format!("const int {vector} = {} + stage * {};", shared_name(vector), numbers.chunk * 4));
        }
        if plan.decay == Fold::Operand {
            let bytes = self.text.kernel.rule.key_dim * 4;
            lines.push(format!("const int state_decay = SMEM_STATE_DECAY + stage * {bytes};"));
        }
        lines
    }

    /// Ê, P where it is `read`, and M of this chunk.
    fn own_tiles(&self, read: bool) -> Vec<String> {
        let (kernel, numbers) = (self.text.kernel, self.text.numbers);
        let operand = kernel.rule.dtype.bytes();
        let (square, tile) = (numbers.chunk * numbers.chunk * operand, numbers.chunk * kernel.rule.key_dim * operand);
        let mut lines = Vec::new();
        if own_erase_operand(&kernel.plan) {
            lines.push(format!("const int e_tile = SMEM_E + stage * {tile};"));
        }
        let over = factors_over_decay(&kernel.rule, &kernel.plan, numbers);
        let place = |name: &str, after: u32| {
            if over {
                let bytes = self.text.stage_bytes(Tensor::G);
                format!("const int {name}_tile = SMEM_G + stage * {bytes} + {after};  // where g was")
            } else {
                format!("const int {name}_tile = {} + stage * {square};", shared_name(name))
            }
        };
        if read {
            lines.push(place("p", 0));
        }
        if self.erases() {
            lines.push(place("m", square));
        }
        lines
    }

    /// Whether the state is read for outputs, or only advanced.
    fn outputs(&self) -> bool {
        self.role != Role::Maps
    }

    fn keep(&self) -> Vec<String> {
        if self.outputs() { self.text.keep() } else { Vec::new() }
    }

    fn state_rows(&self) -> Vec<String> {
        if self.outputs() { self.text.rows_of(&[Tensor::O]) } else { Vec::new() }
    }

    /// Copies of a chunk's values; none are written where a segment's A is made.
    fn copy_values(&self) -> Vec<String> {
        let composes = self.role == Role::Maps && composes(self.text.numbers);
        self.text.copy_values(if composes { "work.composes ? 0 : exist" } else { "exist" })
    }

    /// Where in the sequence and in the ring a chunk is.
    fn state_chunk(&self) -> Vec<String> {
        let line = "const int first = chunk * CHUNK, exist = work.length - first, stage = chunk % STAGES;";
        vec![if self.outputs() { line } else { "const int stage = chunk % STAGES;" }.to_owned()]
    }

    /// What the state reads of a chunk.
    fn state_tiles(&self) -> Vec<String> {
        let mut tensors = if self.outputs() { vec![Tensor::Q, Tensor::K] } else { vec![Tensor::K] };
        if self.text.left_tile() == "b_tile" {
            tensors.push(Tensor::B);
        }
        let tile = |tensor: &Tensor| {
            let (name, bytes) = (tensor.name(), self.text.stage_bytes(*tensor));
            format!("const int {name}_tile = {} + stage * {bytes};", shared_name(name))
        };
        let mut lines: Vec<String> = tensors.iter().map(tile).collect();
        lines.extend(self.own_tiles(self.outputs()));
        lines
    }

    /// A factor per token, or one.
    fn staged(&self, vector: Option<&str>) -> String {
        vector.map_or_else(|| "One{}".to_owned(), |vector| format!("Staged<{}>{{stage * CHUNK}}", shared_name(vector)))
    }

    /// The write gate as an object.
    fn write(&self) -> String {
        let plan = &self.text.kernel.plan;
        match (plan.write, plan.tied) {
            (Fold::Operand, _) => {
                let (ty, slices) = (storage(self.text.kernel, Tensor::W), self.slices(Tensor::W));
                format!("ChannelWrite<{ty}, {slices}>{{}}")
            }
            (Fold::Row, tied) => {
                let vector = shared_name(if tied { "beta" } else { "write" });
                format!("WriteTokens<Staged<{vector}>>{{Staged<{vector}>{{stage * CHUNK}}}}")
            }
            (Fold::Absent | Fold::Pair, _) => "TokenWrite<One>{}".to_owned(),
        }
    }

    /// One chunk of the state, up to the wait for the next one. Products wait for nothing but S and each other.
    fn steps(&self) -> Vec<String> {
        let plan = &self.text.kernel.plan;
        let outputs = self.outputs();
        let sums = if outputs { "n[CHUNK / 8][4], out[CHUNK / 8][4]" } else { "n[CHUNK / 8][4]" };
        let mut lines = vec![format!("float {sums};")];
        if outputs || self.erases() || plan.decay != Fold::Pair {
            lines.push("u32 writes[CHUNK / 16][4];".to_owned());
        }
        lines.extend(self.reads());
        let (v, write) = (self.slices(Tensor::V), self.write());
        lines.push("barrier_wait(SMEM_VALUES, chunk % 2);".to_owned());
        if self.erases() {
            let row = self.staged(self.text.residual_vector());
            lines.push(format!("products_wait<{}>(n);", u32::from(outputs)));
            lines.push(format!("subtract_held<Element>(n, {v}, {write}, {row});"));
        } else {
            lines.push(format!("load_writes<Element>(n, {v}, {write});"));
        }
        lines.push("barrier_arrive(SMEM_VALUES_READ);".to_owned());
        if outputs {
            lines.push("products_wait<0>(out);".to_owned());
        }
        if self.erases() {
            lines.extend([
                "to_operands<Element>(writes, n, One{});".to_owned(),
                "pin(writes);".to_owned(),
                "products_begin();".to_owned(),
                "multiply_rows<CHUNK>(n, writes, m_tile, false);".to_owned(),
                "products_commit();".to_owned(),
                "products_wait<0>(n);".to_owned(),
            ]);
        }
        let mut update = "writes";
        if plan.decay == Fold::Pair {
            update = "decayed";
            lines.extend([
                "u32 decayed[CHUNK / 16][4];".to_owned(),
                format!("to_operands<Element>(decayed, n, {});", self.staged(Some("decay_out"))),
                "pin(decayed);".to_owned(),
            ]);
            if outputs {
                lines.push(format!("scale_columns(out, {});", self.staged(Some("decay_in"))));
            }
            lines.push("scale_columns(state.s, StagedEnd<SMEM_DECAY_IN>{stage * CHUNK});".to_owned());
        }
        if plan.decay == Fold::Operand {
            lines.push("scale_columns(state.s, Staged<SMEM_STATE_DECAY>{stage * KEY});".to_owned());
        }
        if plan.decay != Fold::Absent {
            lines.push("__syncwarp();  // every lane has read the stage's vectors".to_owned());
        }
        if outputs || update == "writes" {
            lines.extend(["to_operands<Element>(writes, n, One{});".to_owned(), "pin(writes);".to_owned()]);
        }
        if outputs {
            lines.push("pin(out);".to_owned());
        }
        lines.extend(["pin(state.s);".to_owned(), "products_begin();".to_owned()]);
        if outputs {
            lines.push("multiply_rows<CHUNK>(out, writes, p_tile, true);".to_owned());
            lines.push("products_commit();".to_owned());
        }
        lines.push(format!("multiply_columns(state.s, {update}, k_tile);"));
        lines.push("products_commit();".to_owned());
        if outputs {
            lines.push("products_wait<1>(out);".to_owned());
            lines.push("store_outputs(out, scale, o_rows + first * o_token_stride, o_token_stride, exist);".to_owned());
        }
        lines
    }

    /// S as it enters: what of it each token erases, and what each query reads. Its operand is made in as many parts as
    /// the registers ask for; the last part's two products are groups of their own.
    fn reads(&self) -> Vec<String> {
        let (kernel, numbers) = (self.text.kernel, self.text.numbers);
        let outputs = self.outputs();
        if !outputs && !self.erases() {
            return Vec::new();
        }
        let steps = part_steps(&kernel.rule, parts(&kernel.rule, &kernel.plan, numbers, kernel.arch));
        let all = kernel.rule.key_dim / 16;
        let mut lines = Vec::new();
        for from in (0..all).step_by(steps as usize) {
            let (keep, last) = (from > 0, from + steps >= all);
            lines.push("{".to_owned());
            lines.push(format!("  u32 entering[{}][4];", steps.min(all - from)));
            lines.push(format!("  to_operands<Element, {from}>(entering, state.s, One{{}});"));
            lines.push("  pin(entering);".to_owned());
            lines.push("  products_begin();".to_owned());
            if self.erases() {
                let left = self.text.left_tile();
                lines.push(format!("  multiply_rows<KEY, {from}>(n, entering, {left}, {keep});"));
                if last && outputs {
                    lines.push("  products_commit();".to_owned());
                }
            }
            if outputs {
                lines.push(format!("  multiply_rows<KEY, {from}>(out, entering, q_tile, {keep});"));
            }
            lines.push("  products_commit();".to_owned());
            match (last, outputs) {
                (true, _) => {}
                (false, false) => lines.push("  products_wait<0>(n);".to_owned()),
                (false, true) => {
                    lines.push("  products_wait<0>(out);".to_owned());
                    if self.erases() {
                        lines.push("  pin(n);".to_owned());
                    }
                }
            }
            lines.push("}".to_owned());
        }
        lines
    }

    /// Where warp 0's slice of v or w would begin: slices are found by a warp's index in the block.
    fn slices(&self, tensor: Tensor) -> String {
        format!("{} - STATE_WARP * SLICE<{}>", shared_name(tensor.name()), storage(self.text.kernel, tensor))
    }
}

/// One wgmma of `n` columns as a function.
fn product(n: u32, dtype: Dtype) -> String {
    let ty = match dtype {
        Dtype::Bf16 => "bf16",
        Dtype::F16 | Dtype::F32 => "f16",
    };
    let sums = n / 2;
    let numbers: Vec<String> = (0..sums).map(|i| format!("%{i}")).collect();
    let held: Vec<String> = (0..sums).map(|i| format!("\"+f\"(d[{}][{}])", i / 4, i % 4)).collect();
    let operands = |from: u32| (from..from + 4).map(|i| format!("%{i}")).collect::<Vec<_>>().join(", ");
    format!(
        "// d[64][{n}] = a[64][16] b[16][{n}], added to d where it is kept. MAJOR 1: the depth of b runs across its rows.\n\
         template <int MAJOR>\n\
         DEVICE void multiply(float (&d)[{}][4], const u32 (&a)[4], u64 b, bool keep) {{\n  \
         asm volatile(\n      \
         \"{{ .reg .pred keep; setp.ne.b32 keep, %{}, 0;\\n\"\n      \
         \"wgmma.mma_async.sync.aligned.m64n{n}k16.f32.{ty}.{ty} {{\"\n      \
         \"{}\"\n      \
         \"}}, {{{}}}, %{}, keep, 1, 1, %{}; }}\"\n      \
         : {}\n      \
         : \"r\"(a[0]), \"r\"(a[1]), \"r\"(a[2]), \"r\"(a[3]), \"l\"(b), \"r\"(static_cast<int>(keep)), \"n\"(MAJOR));\n\
         }}\n",
        n / 8,
        sums + 5,
        numbers.join(","),
        operands(sums),
        sums + 4,
        sums + 6,
        held.join(", "),
    )
}
