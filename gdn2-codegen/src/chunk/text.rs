//! The stages of a chunk up to its factors, in the order of every chunked pass: device files, types and calls as ready
//! strings.

use crate::chunk::numbers::{own_erase_operand, token_vectors};
use crate::kernel::Kernel;
use crate::pass::Pass;
use crate::plan::{Fold, Stage};
use crate::print::signature::{shared_name, type_name};
use crate::print::template::{View, fields};
use crate::schedule::Scan;
use gdn2_dsl::Dtype;
use gdn2_dsl::prologue::GateOf;

pub(crate) struct Text<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) scan: Scan,
}

/// Where the formulas of a chunk find their logits, and how many of its tokens there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Logits {
    /// A gate's own lie in memory, not in a tile.
    pub(crate) in_memory: bool,
    /// A token of the chunk, counted from where rows begin.
    pub(crate) token: &'static str,
    /// Tokens from the chunk's first to the sequence's end.
    pub(crate) exist: &'static str,
}

/// What a pass does its own way among the stages of a chunk.
pub(crate) struct Own {
    /// Waits for the chunk's tiles.
    pub(crate) wait: String,
    /// Where formulas find logits.
    pub(crate) logits: Logits,
    /// Where the residual finds its left operand.
    pub(crate) left: String,
    /// Whether the scaled operands go over those that the scores read.
    pub(crate) scales_in_place: bool,
    /// The stage that scales operands by a channel-wise decay.
    pub(crate) scaled: String,
    /// Fetches the next chunk's token gates.
    pub(crate) fetches: Vec<String>,
    /// What follows the factors.
    pub(crate) last: Vec<String>,
}

impl Text<'_> {
    /// Element types and factors, under the names the kernel uses.
    pub(crate) fn aliases(&self) -> Vec<View> {
        let plan = &self.kernel.plan;
        let each = |vector: &str| format!("Each<{}>", shared_name(vector));
        let one = || "One".to_owned();
        let (into, out, carry) = match plan.decay {
            Fold::Pair => (each("decay_in"), each("decay_out"), format!("AtEnd<{}>", shared_name("decay_in"))),
            Fold::Operand => (one(), one(), each("state_decay")),
            Fold::Absent | Fold::Row => (one(), one(), one()),
        };
        let write = match (plan.write, plan.tied) {
            (Fold::Operand, _) => {
                format!("ChannelWrite<{}, {}>", type_name(plan.write_storage), shared_name("w"))
            }
            (Fold::Row, true) => format!("TokenWrite<{}>", each("beta")),
            (Fold::Row, false) => format!("TokenWrite<{}>", each("write")),
            (Fold::Absent | Fold::Pair, _) => "TokenWrite<One>".to_owned(),
        };
        let residual = self.residual();
        let writes = match plan.erase {
            Fold::Absent | Fold::Pair => "WriteAll".to_owned(),
            Fold::Row | Fold::Operand => format!("WriteResidual<{residual}, {}>", shared_name("m")),
        };
        let mut aliases = self.factor_aliases();
        aliases.extend([("Write", write), ("Writes", writes), ("Into", into), ("Out", out), ("Carry", carry)]);
        aliases.into_iter().map(|(name, ty)| fields! { "name": name, "type": ty }).collect()
    }

    /// The types the stages up to the state use.
    pub(crate) fn factor_aliases(&self) -> Vec<(&'static str, String)> {
        let plan = &self.kernel.plan;
        // The erase gate's share that is one factor per token, on L and on the residual.
        let row = match plan.erase {
            Fold::Row => format!("Each<{}>", shared_name("beta")),
            Fold::Absent | Fold::Pair | Fold::Operand => "One".to_owned(),
        };
        let gate = match plan.erase {
            Fold::Operand => format!("ChannelErase<{}>", type_name(plan.erase_storage)),
            Fold::Absent | Fold::Pair | Fold::Row => "TokenErase".to_owned(),
        };
        let left = match (plan.erase, plan.decay) {
            (Fold::Absent | Fold::Pair, _) => "NoErase".to_owned(),
            (_, Fold::Operand) => format!("LeftAnchored<Element, {gate}, {row}, {}>", shared_name("l")),
            _ => format!("LeftTile<Element, {row}, {}>", shared_name("l")),
        };
        let mut aliases = vec![("Element", type_name(self.kernel.rule.dtype).to_owned()), ("Left", left)];
        match plan.decay {
            Fold::Operand => {}
            Fold::Pair => aliases.push(("Pair", format!("PairDecay<{}>", shared_name("gamma")))),
            Fold::Absent | Fold::Row => aliases.push(("Pair", "NoPairDecay".to_owned())),
        }
        aliases
    }

    /// What is left of Ê outside its tile: one factor per token.
    pub(crate) fn residual(&self) -> String {
        self.residual_vector().map_or_else(|| "One".to_owned(), |vector| format!("Each<{}>", shared_name(vector)))
    }

    fn residual_vector(&self) -> Option<&'static str> {
        match (self.kernel.plan.erase, self.kernel.plan.decay) {
            (Fold::Row, Fold::Pair) => Some("erase_in"),
            (_, Fold::Pair) => Some("decay_in"),
            (Fold::Row, _) => Some("beta"),
            _ => None,
        }
    }

    /// Keeps S as it enters the chunk, where backward wants it.
    pub(crate) fn keep(&self) -> Vec<String> {
        let line = "if (active) keep_state(state, kept_words<Element>(states, chunk_slot(work.first + static_cast<i64>(work.batch) * \
                    tokens, work.sequence, chunk), work.value_head, value_heads, tile));";
        if self.kernel.pass == Pass::Forward { Vec::new() } else { vec![line.to_owned()] }
    }

    pub(crate) fn recomputes(&self) -> bool {
        self.kernel.pass == Pass::Backward
    }

    /// Whether outputs are written, or the state is advanced alone.
    pub(crate) fn outputs(&self) -> bool {
        !self.recomputes() && self.kernel.plan.scores_queries()
    }

    /// Where the residual finds the left operand in forward, and what L is made from.
    pub(crate) fn left_tile(&self) -> String {
        let plan = &self.kernel.plan;
        match plan.erase {
            Fold::Absent | Fold::Pair => String::new(),
            Fold::Row if plan.decay != Fold::Operand => "k_tile".to_owned(),
            Fold::Operand if !own_erase_operand(plan) => "b_tile".to_owned(),
            Fold::Row | Fold::Operand => shared_name("e"),
        }
    }

    /// The tile of a channel-wise decay's prefix sums.
    pub(crate) fn sums(&self) -> &'static str {
        if self.kernel.plan.decay_storage == Dtype::F32 { "g_tile" } else { "SMEM_SUMS" }
    }

    /// The stages of a chunk as forward takes them, up to the point where only S is waited for. `wait` waits for the
    /// chunk's tiles.
    pub(crate) fn in_place(
        &self,
        wait: String,
        exist: &'static str,
        last: Vec<String>,
        fetches: Vec<String>,
    ) -> Vec<String> {
        let (sums, decay) = (self.sums(), shared_name("state_decay"));
        self.calls(Own {
            wait,
            logits: Logits { in_memory: false, token: "(first + t)", exist },
            left: self.left_tile(),
            scales_in_place: true,
            scaled: match self.kernel.plan.scores_queries() {
                true => format!("scale_operands<Element>(left, q_tile, k_tile, {sums}, {decay});"),
                false => format!("scale_operands<Element, false>(left, 0, k_tile, {sums}, {decay});"),
            },
            fetches,
            last,
        })
    }

    /// The stages of a chunk up to what a pass does with the factors.
    pub(crate) fn calls(&self, own: Own) -> Vec<String> {
        let plan = &self.kernel.plan;
        let sync = || "__syncthreads();".to_owned();
        let mut lines = vec![own.wait];
        if !self.token_tensors().is_empty() {
            lines.extend(self.token_calls(own.logits, own.fetches));
        }
        lines.push(sync());
        let computed = self.compute(own.logits);
        if !computed.is_empty() {
            lines.extend(computed);
            lines.push(sync());
        }
        let tile = own.left;
        let left = match (plan.erase, plan.decay) {
            (Fold::Row, Fold::Operand) => format!("{{}}, {tile}"),
            (Fold::Operand, Fold::Operand) => format!("{{b_tile}}, {tile}"),
            _ => tile.clone(),
        };
        let sums = self.sums();
        if plan.erase == Fold::Operand && plan.decay != Fold::Operand {
            lines.push(format!("gate_keys<Element, {}>(b_tile, k_tile, {tile});", type_name(plan.erase_storage)));
            lines.push(sync());
        }
        lines.push("// Everything that no state enters.".to_owned());
        lines.push(format!("const Left left{{{left}}};"));
        for stage in &plan.stages {
            match stage {
                Stage::TokenGates | Stage::TokenDecay | Stage::EraseOperand => {}
                Stage::ChannelDecay => {
                    // A computed decay lies where its sums will.
                    let (storage, tile) = match plan.computes(GateOf::Decay) {
                        Some(_) => ("float", sums),
                        None => (type_name(plan.decay_storage), "g_tile"),
                    };
                    let totals = shared_name("totals");
                    lines.push(format!("channel_decay<{storage}>({tile}, {sums}, {totals});"));
                    lines.push(sync());
                }
                Stage::ScoresPair => {
                    lines.push("scores_pair<Element, Left, Pair>(left, q_tile, k_tile, SMEM_P);".to_owned());
                }
                Stage::ErasesPair => {
                    lines.push("scores_pair<Element, Left, Pair, false>(left, 0, k_tile, 0);".to_owned());
                }
                Stage::ErasesAnchored => {
                    lines.push(format!("scores_anchored<Element, false>(left, 0, k_tile, {sums}, 0);"));
                    lines.push(sync());
                }
                Stage::ScoresAnchored => {
                    lines.push(format!("scores_anchored<Element>(left, q_tile, k_tile, {sums}, SMEM_P);"));
                    // Before scaled operands go over what the scores read, or L is solved.
                    if own.scales_in_place || plan.erase != Fold::Absent {
                        lines.push(sync());
                    }
                }
                Stage::ScaledOperands => lines.push(own.scaled.clone()),
                Stage::Solve => {
                    if plan.decay != Fold::Operand {
                        lines.push(sync());
                    }
                    lines.push("invert_diagonal<Element>(SMEM_L);".to_owned());
                    lines.push(sync());
                    lines.push("solve_columns<Element>(SMEM_L, SMEM_M);".to_owned());
                }
                Stage::State
                | Stage::TokenDelta
                | Stage::TokenWrite
                | Stage::ReverseState
                | Stage::Gradients
                | Stage::HeadSums => {}
            }
        }
        lines.extend(own.last);
        lines
    }

    fn token_calls(&self, logits: Logits, fetches: Vec<String>) -> Vec<String> {
        let mut lines = self.compute_tokens(logits);
        let (into, out) = (shared_name("decay_in"), shared_name("decay_out"));
        let store =
            |at: &str, gate: &str| format!("store_tokens({at}, [&](int r, int) {{ return {gate}.value[r]; }});");
        for vector in token_vectors(&self.kernel.plan) {
            let at = shared_name(vector);
            match vector {
                "gamma" => lines.push(format!("token_decay(g_gate, SMEM_GAMMA, {into}, {out});")),
                "beta" => lines.push(store(&at, "b_gate")),
                "write" => lines.push(store(&at, "w_gate")),
                "erase_in" => lines.push(format!(
                    "store_tokens({at}, [&](int r, int i) {{ return b_gate.value[r] * at<float>({into} + i * 4); }});"
                )),
                _ => {}
            }
        }
        lines.extend(fetches);
        by_first_warp(&lines)
    }
}

/// Lines for the warp that holds the token gates.
pub(crate) fn by_first_warp(lines: &[String]) -> Vec<String> {
    if lines.is_empty() {
        return Vec::new();
    }
    let inner = lines.iter().map(|line| format!("  {line}"));
    ["if (warp_index() == 0) {".to_owned()].into_iter().chain(inner).chain(["}".to_owned()]).collect()
}
