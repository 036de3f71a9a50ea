//! A case that fits a rule. Made by checks that name the first offender, and by nothing else; what takes a `Problem`
//! checks nothing again.

use crate::storage;
use crate::tensors::{Array, Case, CaseError};
use gdn2_codegen::abi::{Extents, Tensor};
use gdn2_dsl::limits::{MOST_HEADS, MOST_TOKENS};
use gdn2_dsl::prologue::{Axis, GateOf, NamedTensor};
use gdn2_dsl::{Bound, Dims, Dtype, Grain, Inputs, Rule, Sequence, StateLayout, Write};
use std::collections::{BTreeMap, HashSet};
use std::ops::Deref;

/// A rule and a case of it.
#[derive(Clone, Debug)]
pub struct Problem<'a> {
    rule: &'a Rule,
    case: &'a Case,
    dims: Dims,
    sequences: Vec<Sequence>,
    initial_slots: usize,
    final_slots: usize,
    scale: f32,
}

impl<'a> Problem<'a> {
    /// Checks that the case has exactly the rule's tensors with fitting shapes and types, no number that is not
    /// finite (but −∞ as a decay), g ≤ 0 and inside the rule's bound, ascending offsets, and slots that are apart.
    ///
    /// # Errors
    /// The first thing that is wrong, by name and index.
    pub fn new(rule: &'a Rule, case: &'a Case) -> Result<Problem<'a>, CaseError> {
        let dims = dims(rule, case)?;
        let sequences = sequences(case, &dims)?;
        case.expect_layout(rule.state)?;
        present_and_shaped(rule, case, &dims)?;
        let mut problem = Problem {
            rule,
            case,
            dims,
            initial_slots: sequences.len(),
            final_slots: sequences.len(),
            sequences,
            scale: case.scale(rule.key_dim)? as f32,
        };
        problem.check_states()?;
        expect_room(&problem.dims, problem.initial_slots.max(problem.final_slots), 4)?;
        for tensor in [Tensor::DO, Tensor::DFinalState] {
            if let Some(array) = case.tensors.get(&tensor) {
                expect_shape(rule, &problem.dims, tensor, array, problem.final_slots)?;
            }
        }
        for tensor in [
            Tensor::Q,
            Tensor::K,
            Tensor::V,
            Tensor::G,
            Tensor::B,
            Tensor::W,
            Tensor::InitialState,
            Tensor::DO,
            Tensor::DFinalState,
        ] {
            if let Some(array) = case.tensors.get(&tensor) {
                check_storage(tensor, array, dtype(rule, tensor))?;
                check_values(rule, tensor, array)?;
            }
        }
        check_named(rule, &problem.dims, case)?;
        Ok(problem)
    }

    /// The rule.
    pub fn rule(&self) -> &'a Rule {
        self.rule
    }

    /// The case.
    pub fn case(&self) -> &'a Case {
        self.case
    }

    /// Sizes.
    pub fn dims(&self) -> Dims {
        self.dims
    }

    /// The sequences, in the order of their states.
    pub fn sequences(&self) -> &[Sequence] {
        &self.sequences
    }

    /// A pool of states as `[slots, HV, K, V]`, whatever the rule's layout.
    pub(crate) fn states_kv(&self, tensor: Tensor) -> Option<Vec<f32>> {
        self.case.tensors.get(&tensor).map(|array| self.rule.as_kv(array.data.clone()))
    }

    /// Slots in the pool of initial states: N without a slot table.
    pub fn initial_pool(&self) -> usize {
        self.initial_slots
    }

    /// Slots in the pool of final states.
    pub fn final_pool(&self) -> usize {
        self.final_slots
    }

    /// The scale on o.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// The sizes that grids and workspaces depend on.
    pub fn extents(&self) -> Extents {
        Extents {
            sequences: self.sequences.len() as u64,
            total_tokens: (self.dims.batch * self.dims.tokens) as u64,
            key_heads: self.dims.heads as u64,
            value_heads: self.dims.value_heads as u64,
        }
    }

    /// How the rule stores a tensor.
    pub fn dtype(&self, tensor: Tensor) -> Dtype {
        dtype(self.rule, tensor)
    }

    /// The shape of an input, output or gradient of this problem; states in the rule's layout.
    pub fn shape(&self, tensor: Tensor) -> Vec<usize> {
        let slots = match tensor {
            Tensor::FinalState | Tensor::DFinalState => self.final_slots,
            _ => self.initial_slots,
        };
        shape(self.rule, &self.dims, tensor, slots).1.to_vec()
    }

    /// An input as the kernels read it, rounded to its storage.
    pub fn input(&self, tensor: Tensor) -> Option<Vec<f32>> {
        let dtype = self.dtype(tensor);
        let array = self.case.tensors.get(&tensor)?;
        Some(array.data.iter().map(|value| storage::rounded(*value, dtype)).collect())
    }

    /// The slot a sequence starts from; `None` = zeros.
    pub fn initial_slot(&self, sequence: usize) -> Option<usize> {
        slot(self.case.tensors.contains_key(&Tensor::InitialState), &self.case.initial_slots, sequence)
    }

    /// The slot a sequence's state is written to; `None` = it is not kept.
    pub fn final_slot(&self, sequence: usize) -> Option<usize> {
        slot(true, &self.case.final_slots, sequence)
    }

    /// The same numbers, rounded as the kernels read them, for the float64 definition. Its states are by sequence,
    /// slots resolved.
    pub fn inputs64(&self) -> Inputs {
        let wide = |tensor| self.input(tensor).map(|values| values.into_iter().map(f64::from).collect::<Vec<f64>>());
        let state = self.dims.value_heads * self.dims.state();
        let pool = self.states_kv(Tensor::InitialState);
        let initial_state = pool.map(|pool| pool.into_iter().map(f64::from).collect::<Vec<f64>>()).map(|pool| {
            let of = |sequence: &Sequence| match self.initial_slot(sequence.index) {
                Some(slot) => pool[slot * state..(slot + 1) * state].to_vec(),
                None => vec![0.0; state],
            };
            self.sequences.iter().flat_map(of).collect()
        });
        let offsets = self.case.cu_seqlens.as_ref();
        Inputs {
            dims: self.dims,
            q: wide(Tensor::Q).unwrap_or_default(),
            k: wide(Tensor::K).unwrap_or_default(),
            v: wide(Tensor::V).unwrap_or_default(),
            g: wide(Tensor::G),
            b: wide(Tensor::B),
            w: wide(Tensor::W),
            initial_state,
            cu_seqlens: offsets.map(|packed| packed.offsets.iter().map(|offset| *offset as usize).collect()),
            scale: f64::from(self.scale),
            named: self.named(),
        }
    }

    /// What the rule names itself, rounded as it is stored.
    fn named(&self) -> BTreeMap<String, Vec<f64>> {
        let own = self.rule.prologue.named().into_iter().filter_map(|own| {
            let array = self.case.named.get(own.name)?;
            let numbers = array.data.iter().map(|value| f64::from(storage::rounded(*value, own.storage)));
            Some((own.name.to_owned(), numbers.collect()))
        });
        own.collect()
    }

    /// The pool that final states are written into: the initial one where there is a slot table and a pool, so that
    /// slots nobody writes keep their bits; else nothing. In the rule's layout.
    pub fn final_pool_before(&self) -> Option<Vec<f32>> {
        self.case.final_slots.as_ref()?;
        let pool = self.case.tensors.get(&Tensor::InitialState).map(|array| array.data.clone());
        Some(pool.unwrap_or_else(|| vec![0.0; self.final_slots * self.dims.value_heads * self.dims.state()]))
    }

    fn check_states(&mut self) -> Result<(), CaseError> {
        let sequences = self.sequences.len();
        let tables = [("initial_slots", &self.case.initial_slots), ("final_slots", &self.case.final_slots)];
        for (table, slots) in tables {
            if let Some(slots) = slots.as_ref().filter(|slots| slots.len() != sequences) {
                let (got, want) = (vec![slots.len()], vec![sequences]);
                return Err(CaseError::Shape { tensor: table, got, letters: "[N]", want });
            }
        }
        let pool = self.case.tensors.get(&Tensor::InitialState);
        if let Some(array) = pool {
            self.initial_slots = match &self.case.initial_slots {
                Some(_) => array.shape.first().copied().unwrap_or(0),
                None => sequences,
            };
            expect_shape(self.rule, &self.dims, Tensor::InitialState, array, self.initial_slots)?;
        } else if self.case.initial_slots.is_some() {
            let shape = "a pool of states: initial_slots points into it";
            return Err(CaseError::Missing { tensor: "initial_state", shape });
        }
        let slots = self.case.initial_slots.iter().flatten();
        for (index, got) in slots.copied().enumerate() {
            if usize::try_from(got).is_ok_and(|slot| slot >= self.initial_slots) {
                let limit = format!("the pool initial_state has {} slots", self.initial_slots);
                return Err(CaseError::Slot { table: "initial_slots", index, got, limit });
            }
        }
        let Some(slots) = &self.case.final_slots else { return Ok(()) };
        let largest = slots.iter().copied().filter_map(|slot| usize::try_from(slot).ok()).max();
        self.final_slots = match pool {
            Some(array) => array.shape.first().copied().unwrap_or(0),
            None => largest.map_or(0, |slot| slot + 1),
        };
        let mut taken = HashSet::new();
        for (index, got) in slots.iter().copied().enumerate().filter(|(_, slot)| *slot >= 0) {
            let wrong = |limit| CaseError::Slot { table: "final_slots", index, got, limit };
            if usize::try_from(got).is_ok_and(|slot| slot >= self.final_slots) {
                return Err(wrong(format!("the pool has {} slots", self.final_slots)));
            }
            if !taken.insert(got) {
                return Err(wrong("another sequence writes that slot: slots of final states must differ".to_owned()));
            }
        }
        Ok(())
    }
}

/// Whether a call of these sizes may be and fits into this machine's memory with `bytes` for each of its numbers. What
/// comes next allocates without asking.
pub(crate) fn expect_room(dims: &Dims, states: usize, bytes: u32) -> Result<(), CaseError> {
    /// What every machine has; asking for so little would only cost time.
    const ALWAYS: f64 = (1u32 << 28) as f64;
    let size = |got, limit| CaseError::Size { field: "sizes", got, limit };
    let letters = || {
        let Dims { batch, tokens, heads, value_heads, .. } = dims;
        format!("B = {batch}, T = {tokens}, H = {heads}, HV = {value_heads}, {states} states")
    };
    dims.check(states).map_err(|error| size(letters(), error.to_string()))?;
    let need = dims.numbers(states) * f64::from(bytes);
    if need <= ALWAYS || Vec::<u8>::new().try_reserve_exact(need as usize).is_ok() {
        return Ok(());
    }
    let gib = need / f64::from(1u32 << 30);
    Err(size(
        letters(),
        format!("which takes {gib:.0} GiB of memory, more than there is; divide the call into several"),
    ))
}

fn slot(pool: bool, table: &Option<Vec<i32>>, sequence: usize) -> Option<usize> {
    match table {
        _ if !pool => None,
        None => Some(sequence),
        Some(slots) => slots.get(sequence).and_then(|slot| usize::try_from(*slot).ok()),
    }
}

/// How a rule stores a tensor: gates and their gradients in their own types, states and theirs in f32, the rest in its
/// dtype.
pub fn dtype(rule: &Rule, tensor: Tensor) -> Dtype {
    match tensor {
        Tensor::G | Tensor::DG => rule.decay.storage,
        Tensor::B | Tensor::DB => rule.erase.storage,
        Tensor::W | Tensor::DW => match rule.write {
            Write::Own(gate) => gate.storage,
            Write::Tied => rule.erase.storage,
        },
        Tensor::InitialState | Tensor::FinalState | Tensor::DFinalState | Tensor::DInitialState => Dtype::F32,
        Tensor::Q | Tensor::K | Tensor::V | Tensor::O => rule.dtype,
        Tensor::DO | Tensor::DQ | Tensor::DK | Tensor::DV => rule.dtype,
    }
}

/// Whether a tensor has an axis of channels inside its heads, as all but scalar gates and their gradients have.
pub fn has_channels(rule: &Rule, tensor: Tensor) -> bool {
    gate(rule, tensor).is_none_or(|(grain, _)| grain == Grain::Channel)
}

/// The granularity of the gate a tensor holds, and what its absence means; `None` for tensors every rule has.
fn gate(rule: &Rule, tensor: Tensor) -> Option<(Grain, &'static str)> {
    Some(match tensor {
        Tensor::G | Tensor::DG => (rule.decay.grain, "decay: none"),
        Tensor::B | Tensor::DB => (rule.erase.grain, "erase: none"),
        Tensor::W | Tensor::DW => match rule.write {
            Write::Own(gate) => (gate.grain, "write: none"),
            Write::Tied => (Grain::None, "write: erase, b serves both"),
        },
        _ => return None,
    })
}

/// The gate whose tensor this is.
fn gate_of(tensor: Tensor) -> Option<GateOf> {
    GateOf::ALL.into_iter().find(|gate| gate.tensor() == tensor.name())
}

/// Whether a gate is computed by a formula, so that its tensor is a logit.
fn is_logit(rule: &Rule, tensor: Tensor) -> bool {
    gate_of(tensor).is_some_and(|gate| rule.prologue.gate(gate).is_some())
}

/// The shape of a tensor that a rule names itself.
pub fn named_shape(own: &NamedTensor<'_>, dims: &Dims) -> Vec<usize> {
    let mut sizes = if own.per_token { vec![dims.batch, dims.tokens] } else { Vec::new() };
    sizes.push(dims.value_heads);
    sizes.extend(own.axis.map(|axis| match axis {
        Axis::Key => dims.key_dim,
        Axis::Value => dims.value_dim,
    }));
    sizes
}

/// Sizes of a tensor, outermost first, held without allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    values: [usize; 4],
    rank: usize,
}

impl Deref for Sizes {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.values[..self.rank]
    }
}

/// The shape of a tensor in letters and in numbers; states in the rule's layout.
pub fn shape(rule: &Rule, dims: &Dims, tensor: Tensor, slots: usize) -> (&'static str, Sizes) {
    let &Dims { batch, tokens, heads, value_heads, key_dim, value_dim } = dims;
    let scalar = gate(rule, tensor).is_some_and(|(grain, _)| grain == Grain::Scalar);
    let four = |values| Sizes { values, rank: 4 };
    match tensor {
        Tensor::Q | Tensor::K | Tensor::DQ | Tensor::DK => ("[B,T,H,K]", four([batch, tokens, heads, key_dim])),
        Tensor::V | Tensor::O | Tensor::DO | Tensor::DV => {
            ("[B,T,HV,V]", four([batch, tokens, value_heads, value_dim]))
        }
        Tensor::G | Tensor::B | Tensor::W | Tensor::DG | Tensor::DB | Tensor::DW if scalar => {
            ("[B,T,HV]", Sizes { values: [batch, tokens, value_heads, 1], rank: 3 })
        }
        Tensor::G | Tensor::B | Tensor::DG | Tensor::DB => ("[B,T,HV,K]", four([batch, tokens, value_heads, key_dim])),
        Tensor::W | Tensor::DW => ("[B,T,HV,V]", four([batch, tokens, value_heads, value_dim])),
        Tensor::InitialState | Tensor::FinalState | Tensor::DFinalState | Tensor::DInitialState => match rule.state {
            StateLayout::Kv => ("[N,HV,K,V]", four([slots, value_heads, key_dim, value_dim])),
            StateLayout::Vk => ("[N,HV,V,K]", four([slots, value_heads, value_dim, key_dim])),
        },
    }
}

fn elements(shape: &[usize]) -> Option<usize> {
    // A zero size must not hide that the others overflow: addresses are computed from them.
    let product = shape.iter().try_fold(1usize, |product, size| product.checked_mul((*size).max(1)))?;
    isize::try_from(product.checked_mul(8)?).ok()?;
    Some(if shape.contains(&0) { 0 } else { product })
}

fn too_large(field: &'static str) -> CaseError {
    CaseError::Size { field, got: "its sizes multiply".to_owned(), limit: "to more than memory can address".to_owned() }
}

fn dims(rule: &Rule, case: &Case) -> Result<Dims, CaseError> {
    let shape = |tensor: Tensor, letters: &'static str| match case.tensors.get(&tensor) {
        None => Err(CaseError::Missing { tensor: tensor.name(), shape: letters }),
        Some(array) => Ok(array.shape.as_slice()),
    };
    dims_of(rule, shape(Tensor::Q, "[B,T,H,K]")?, shape(Tensor::V, "[B,T,HV,V]")?)
}

/// The sizes of a call, from the shapes of q and v.
///
/// # Errors
/// Another number of axes than four, heads that do not group, or more tokens than can be counted.
pub fn dims_of(rule: &Rule, q: &[usize], v: &[usize]) -> Result<Dims, CaseError> {
    let four = |tensor: Tensor, shape: &[usize], letters: &'static str| {
        <[usize; 4]>::try_from(shape).map_err(|_| CaseError::Shape {
            tensor: tensor.name(),
            got: shape.to_vec(),
            letters,
            want: Vec::new(),
        })
    };
    let [batch, tokens, heads, _] = four(Tensor::Q, q, "[B,T,H,K]")?;
    let [_, _, value_heads, _] = four(Tensor::V, v, "[B,T,HV,V]")?;
    let (key_dim, value_dim) = (rule.key_dim as usize, rule.value_dim as usize);
    let dims = Dims { batch, tokens, heads, value_heads, key_dim, value_dim };
    let size = |field, got: String, limit: &str| Err(CaseError::Size { field, got, limit: limit.to_owned() });
    if heads == 0 || value_heads == 0 || value_heads % heads != 0 {
        let got = format!("H = {heads}, HV = {value_heads}");
        return size("heads", got, "H must be at least 1 and HV a multiple of it");
    }
    if batch.checked_mul(tokens).is_none_or(|total| total > MOST_TOKENS) || batch > MOST_TOKENS {
        return size("tokens", format!("B = {batch}, T = {tokens}"), "B·T must be below 2^31; split the call");
    }
    if value_heads > MOST_HEADS {
        return size("heads", format!("HV = {value_heads}"), &format!("HV must be at most {MOST_HEADS}"));
    }
    for tensor in [Tensor::Q, Tensor::V, Tensor::G, Tensor::B, Tensor::W] {
        elements(&shape(rule, &dims, tensor, 0).1).ok_or_else(|| too_large(tensor.name()))?;
    }
    Ok(dims)
}

fn present_and_shaped(rule: &Rule, case: &Case, dims: &Dims) -> Result<(), CaseError> {
    for tensor in [Tensor::Q, Tensor::K, Tensor::V, Tensor::G, Tensor::B, Tensor::W] {
        let array = case.tensors.get(&tensor);
        if expect_present(rule, tensor, array.is_some())? {
            array.map_or(Ok(()), |array| expect_shape(rule, dims, tensor, array, 0))?;
        }
    }
    Ok(())
}

/// Holds whether a token tensor is given against whether the rule has it; which of the two it is.
///
/// # Errors
/// A tensor too many or too few.
pub fn expect_present(rule: &Rule, tensor: Tensor, given: bool) -> Result<bool, CaseError> {
    let present = gate(rule, tensor).is_none_or(|(grain, _)| grain != Grain::None);
    let wanted = present && gate_of(tensor).is_none_or(|gate| rule.prologue.has_tensor(gate));
    match (given, wanted) {
        (true, false) => {
            let reason = gate(rule, tensor).map_or_else(String::new, |(_, reason)| reason.to_owned());
            let reason = if present { "its formula reads no logit".to_owned() } else { reason };
            Err(CaseError::Extra { tensor: tensor.name(), reason })
        }
        (false, true) => {
            let none = Dims { batch: 0, tokens: 0, heads: 1, value_heads: 1, key_dim: 1, value_dim: 1 };
            Err(CaseError::Missing { tensor: tensor.name(), shape: shape(rule, &none, tensor, 0).0 })
        }
        _ => Ok(wanted),
    }
}

fn expect_shape(rule: &Rule, dims: &Dims, tensor: Tensor, array: &Array, slots: usize) -> Result<(), CaseError> {
    let (letters, want) = shape(rule, dims, tensor, slots);
    if array.shape == *want && array.data.len() == want.iter().product::<usize>() {
        return Ok(());
    }
    Err(CaseError::Shape { tensor: tensor.name(), got: array.shape.clone(), letters, want: want.to_vec() })
}

fn sequences(case: &Case, dims: &Dims) -> Result<Vec<Sequence>, CaseError> {
    let Some(packed) = &case.cu_seqlens else {
        let dense = |index| Sequence { index, start: index * dims.tokens, tokens: dims.tokens };
        return Ok((0..dims.batch).map(dense).collect());
    };
    let wrong = |text: String| Err(CaseError::Offsets(text));
    if dims.batch != 1 {
        return wrong(format!("packed sequences need B = 1, got B = {}", dims.batch));
    }
    let offsets = &packed.offsets;
    if offsets.first() != Some(&0) {
        return wrong(match offsets.first() {
            None => "none at all, must be N + 1 offsets from 0 to T".to_owned(),
            Some(first) => format!("must start at 0, got {first}"),
        });
    }
    if let Some(at) = offsets.windows(2).position(|pair| pair[1] < pair[0]) {
        return wrong(format!(
            "must not descend, but [{at}] is {} and [{}] is {}",
            offsets[at],
            at + 1,
            offsets[at + 1]
        ));
    }
    if let Some(last) = offsets.last().filter(|last| usize::try_from(**last) != Ok(dims.tokens)) {
        return wrong(format!("must end at T = {}, got {last}", dims.tokens));
    }
    let pairs = offsets.windows(2).enumerate();
    let sequence = |(index, pair): (usize, &[i64])| Sequence {
        index,
        start: usize::try_from(pair[0]).unwrap_or(0),
        tokens: usize::try_from(pair[1] - pair[0]).unwrap_or(0),
    };
    Ok(pairs.map(sequence).collect())
}

/// A file may hold more precision than the rule stores, or just as much, but not another 16-bit format.
fn check_storage(tensor: Tensor, array: &Array, want: Dtype) -> Result<(), CaseError> {
    if array.stored == Dtype::F32 || array.stored == want {
        return Ok(());
    }
    let want = if want == Dtype::F32 { "f32".to_owned() } else { format!("f32 or {want}, as the rule stores it") };
    Err(CaseError::Dtype { tensor: tensor.name(), got: array.stored.to_string(), want })
}

/// The largest logit and parameter, 2⁶²: from there on formulas may saturate.
const LARGEST: f32 = 4_611_686_018_427_387_904.0;

/// Exactly the tensors that the rule names itself, of their shapes, finite.
fn check_named(rule: &Rule, dims: &Dims, case: &Case) -> Result<(), CaseError> {
    let wanted = rule.prologue.named();
    let wrong = |tensor: &str, problem: String| Err(CaseError::Named { tensor: tensor.to_owned(), problem });
    let is_known = |name: &str| wanted.iter().any(|own| own.name == name || name.strip_prefix('d') == Some(own.name));
    if let Some(name) = case.named.keys().find(|name| !is_known(name)) {
        return wrong(name, format!("rule `{}` has no such parameter or logit", rule.name));
    }
    for own in wanted {
        let (shape, letters) = (named_shape(&own, dims), own.letters());
        let Some(array) = case.named.get(own.name) else {
            return wrong(own.name, format!("missing, the rule needs it as {letters} = {shape:?}"));
        };
        if array.shape != shape {
            return wrong(own.name, format!("shape {:?}, must be {letters} = {shape:?}", array.shape));
        }
        if array.stored != Dtype::F32 && array.stored != own.storage {
            return wrong(own.name, format!("stored as {}, must be f32 or {}", array.stored, own.storage));
        }
        let fits = |value: &f32| storage::rounded(*value, own.storage).abs() <= LARGEST;
        if let Some(first) = array.data.iter().position(|value| !fits(value)) {
            let index = array.index(first);
            return wrong(own.name, format!("{index:?} is {}, must be a number from -2^62 to 2^62", array.data[first]));
        }
    }
    Ok(())
}

fn check_values(rule: &Rule, tensor: Tensor, array: &Array) -> Result<(), CaseError> {
    let dtype = dtype(rule, tensor);
    let logit = is_logit(rule, tensor);
    let bound = (tensor == Tensor::G && !logit).then_some(rule.bound).flatten();
    let wrong = |value: &f32| {
        if logit {
            return storage::rounded(*value, dtype).abs() > LARGEST || value.is_nan();
        }
        if tensor == Tensor::G {
            // As the kernels read it: a gate at its bound is inside, whichever way the storage rounds both.
            let stored = |x: f32| storage::rounded(x, dtype);
            let inside = |bound: Bound| (stored(bound.lower)..=stored(bound.upper)).contains(&stored(*value));
            return value.is_nan() || *value > 0.0 || !bound.is_none_or(inside);
        }
        !storage::rounded(*value, dtype).is_finite()
    };
    let Some(first) = array.data.iter().position(wrong) else { return Ok(()) };
    let want = match (tensor, bound) {
        (Tensor::G, Some(bound)) => {
            format!("from {} to {}, the rule's bound on the log decay", bound.lower, bound.upper)
        }
        _ if logit => "a number from -2^62 to 2^62: it is a logit".to_owned(),
        (Tensor::G, None) => "at most 0: g is the natural log of a decay".to_owned(),
        _ if array.data[first].is_finite() => format!("small enough for {dtype}"),
        _ => "a finite number".to_owned(),
    };
    Err(CaseError::Value { tensor: tensor.name(), index: array.index(first), got: array.data[first], want })
}
