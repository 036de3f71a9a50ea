//! Rule → Plan: the ordered stages of one pass, and where each gate's factor is folded in. No numbers in here, and
//! the only place that looks at a gate's granularity: everything after it sees folds and stages.

use crate::abi::Tensor;
use crate::gates;
use crate::pass::Pass;
use gdn2_dsl::prologue::GateOf;
use gdn2_dsl::{Dtype, Grain, Rule, Write};
use serde::Serialize;

/// A gate of the recurrence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GateName {
    /// alpha = exp(g).
    Decay,
    /// b.
    Erase,
    /// w.
    Write,
}

/// Where a gate's factor enters the chunked form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fold {
    /// The gate is absent and so is everything it would cost.
    Absent,
    /// One factor per pair of tokens, applied to the raw C×C products, and one per token and chunk on the state.
    Pair,
    /// One factor per token, applied to a row.
    Row,
    /// One factor per token and channel, multiplied into a matrix operand.
    Operand,
}

/// One step of a chunk, or of a token. Each stage is one device file, and its call is one line of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Gates with one number per token, fetched and laid out.
    TokenGates,
    /// Prefix sums and factors of a decay with one number per token.
    TokenDecay,
    /// Prefix sums of a channel-wise decay.
    ChannelDecay,
    /// The erase operand b⊙k where no decay scales it later.
    EraseOperand,
    /// L and P from raw key products, times a factor per pair.
    ScoresPair,
    /// L and P from operands anchored so that no exponent is positive.
    ScoresAnchored,
    /// L alone, from raw key products, times a factor per pair.
    ErasesPair,
    /// L alone, from operands anchored so that no exponent is positive.
    ErasesAnchored,
    /// M = (I + L)⁻¹.
    Solve,
    /// Q̂, Ê and K̄.
    ScaledOperands,
    /// R, N, O and the next state.
    State,
    /// One token where something is erased: r, n, o and the next state from one pass over the state.
    TokenDelta,
    /// One token where nothing is erased: o and the next state.
    TokenWrite,
    /// dN, dR and the gradient of the state, last chunk first.
    ReverseState,
    /// Every gradient of a chunk from the states on both its sides.
    Gradients,
    /// dq and dk summed over the value heads that share a key head.
    HeadSums,
}

/// A gate that its rule computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Computed {
    /// Whether its formula reads its logit: whether there is a tensor.
    pub reads_logit: bool,
    /// How that is stored.
    pub logit: Dtype,
}

/// One pass of a rule, before any number is chosen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// The pass.
    pub pass: Pass,
    /// Where the decay is folded.
    pub decay: Fold,
    /// Where the erase gate is folded.
    pub erase: Fold,
    /// Where the write gate is folded.
    pub write: Fold,
    /// The write gate is the erase gate's tensor.
    pub tied: bool,
    /// Storage of g; as tiles hold it where it is computed.
    pub decay_storage: Dtype,
    /// Storage of b, likewise.
    pub erase_storage: Dtype,
    /// Storage of w (of b where tied), likewise.
    pub write_storage: Dtype,
    /// Decay, erase and write as the rule computes them.
    #[serde(skip_serializing_if = "none_computed")]
    pub computed: [Option<Computed>; 3],
    /// Stages of one chunk, or of one token, in order.
    pub stages: Vec<Stage>,
}

/// The one table of gate and granularity.
const fn fold(gate: GateName, grain: Grain) -> Fold {
    match (gate, grain) {
        (GateName::Decay | GateName::Erase | GateName::Write, Grain::None) => Fold::Absent,
        (GateName::Decay, Grain::Scalar) => Fold::Pair,
        (GateName::Erase | GateName::Write, Grain::Scalar) => Fold::Row,
        (GateName::Decay | GateName::Erase | GateName::Write, Grain::Channel) => Fold::Operand,
    }
}

fn none_computed(gates: &[Option<Computed>; 3]) -> bool {
    gates.iter().all(Option::is_none)
}

/// Plans one pass of a rule.
pub fn plan(rule: &Rule, pass: Pass) -> Plan {
    let (write_grain, write_storage, tied) = match rule.write {
        Write::Own(gate) => (gate.grain, gate.storage, false),
        Write::Tied => (rule.erase.grain, rule.erase.storage, true),
    };
    let decay = fold(GateName::Decay, rule.decay.grain);
    let erase = fold(GateName::Erase, rule.erase.grain);
    let write = fold(GateName::Write, write_grain);
    let stages = match pass {
        Pass::Decode if erase == Fold::Absent => vec![Stage::TokenWrite],
        Pass::Decode => vec![Stage::TokenDelta],
        Pass::Forward | Pass::ForwardForBackward | Pass::Backward => chunk_stages(pass, decay, erase, write),
    };
    Plan {
        pass,
        decay,
        erase,
        write,
        tied,
        decay_storage: gates::tile_storage(rule, GateOf::Decay, rule.decay.storage),
        erase_storage: gates::tile_storage(rule, GateOf::Erase, rule.erase.storage),
        write_storage: if tied { write_storage } else { gates::tile_storage(rule, GateOf::Write, write_storage) },
        computed: [
            gates::computed(rule, GateOf::Decay, rule.decay.storage),
            gates::computed(rule, GateOf::Erase, rule.erase.storage),
            gates::computed(rule, GateOf::Write, write_storage),
        ],
        stages,
    }
}

fn chunk_stages(pass: Pass, decay: Fold, erase: Fold, write: Fold) -> Vec<Stage> {
    let mut stages = Vec::new();
    if decay == Fold::Pair || erase == Fold::Row || write == Fold::Row {
        stages.push(Stage::TokenGates);
    }
    if decay == Fold::Pair {
        stages.push(Stage::TokenDecay);
    }
    if decay == Fold::Operand {
        stages.extend([Stage::ChannelDecay, Stage::ScoresAnchored]);
    } else {
        if erase == Fold::Operand {
            stages.push(Stage::EraseOperand);
        }
        stages.push(Stage::ScoresPair);
    }
    if decay == Fold::Operand {
        stages.push(Stage::ScaledOperands);
    }
    if erase != Fold::Absent {
        stages.push(Stage::Solve);
    }
    match pass {
        Pass::Backward => stages.extend([Stage::ReverseState, Stage::Gradients, Stage::HeadSums]),
        Pass::Forward | Pass::ForwardForBackward | Pass::Decode => stages.push(Stage::State),
    }
    stages
}

impl Plan {
    /// The same without outputs: what advances the state. No P, and where nothing is erased no L either.
    pub(crate) fn without_outputs(&self) -> Plan {
        let mut plan = self.clone();
        let advances = |stage: &Stage| match stage {
            Stage::ScoresPair => (self.erase != Fold::Absent).then_some(Stage::ErasesPair),
            Stage::ScoresAnchored => (self.erase != Fold::Absent).then_some(Stage::ErasesAnchored),
            other => Some(*other),
        };
        plan.stages = self.stages.iter().filter_map(advances).collect();
        plan
    }

    /// The same with computed gates along channels in float32, as their gradients are taken.
    pub(crate) fn with_wide_gates(&self) -> Plan {
        GateOf::ALL.into_iter().fold(self.clone(), |plan, gate| plan.with_wide(gate))
    }

    /// The same with one of them, if it is computed along channels.
    pub(crate) fn with_wide(&self, gate: GateOf) -> Plan {
        let mut plan = self.clone();
        if self.computes(gate).is_some() && self.fold(gate) == Fold::Operand {
            let storage = match gate {
                GateOf::Decay => &mut plan.decay_storage,
                GateOf::Erase => &mut plan.erase_storage,
                GateOf::Write => &mut plan.write_storage,
            };
            *storage = Dtype::F32;
        }
        plan
    }

    /// Whether a chunk's queries are read, and P made of them.
    pub(crate) fn scores_queries(&self) -> bool {
        self.stages.iter().any(|stage| matches!(stage, Stage::ScoresPair | Stage::ScoresAnchored))
    }

    /// Whether a chunk's outputs are made.
    pub(crate) fn writes_outputs(&self) -> bool {
        self.scores_queries() && self.stages.contains(&Stage::State)
    }

    /// The gate tensors the pass reads, in signature order.
    pub fn gate_tensors(&self) -> Vec<Tensor> {
        let present = [
            (Tensor::G, self.decay != Fold::Absent),
            (Tensor::B, self.erase != Fold::Absent),
            (Tensor::W, self.write != Fold::Absent && !self.tied),
        ];
        let given = present.into_iter().zip(self.computed).filter_map(|((tensor, there), computed)| {
            (there && computed.is_none_or(|computed| computed.reads_logit)).then_some(tensor)
        });
        given.collect()
    }
}
