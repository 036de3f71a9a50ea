//! Case files: safetensors with a call's tensors and, where known, its results, in the oracle's format. Reading checks
//! the file; whether a case fits a rule is [`crate::problem`]'s to say.

pub use crate::case_error::CaseError;
use crate::files::{self, Limit};
use crate::storage;
use gdn2_codegen::abi::Tensor;
use gdn2_dsl::bars::{Bar, MOST_BARS, NAMED_BAR, bar};
use gdn2_dsl::{Combination, Dtype, Grain, Rule, StateLayout};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as FileDtype, Metadata, TensorView};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// A tensor: row-major f32.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// The numbers.
    pub data: Vec<f32>,
    /// The type the file stores them in.
    pub stored: Dtype,
}

/// Offsets of packed sequences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CuSeqlens {
    /// N + 1 offsets, from 0 to T.
    pub offsets: Vec<i64>,
    /// Whether kernels are given int64 (else int32).
    pub is_64: bool,
}

/// The contents of a case file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Case {
    /// `decay`, `erase`, `write`, `scale`, `bar_scale`, `bars`, `limits`, `inputs_rounded_to`, `layout`; where the rule
    /// computes its gates also `rule`, its text, `params` and `lets`.
    pub metadata: BTreeMap<String, String>,
    /// Inputs, outputs and gradients, by name; states are `[N or slots, HV, K, V]`, or `[…, V, K]` for a rule with
    /// `state: vk`.
    pub tensors: BTreeMap<Tensor, Array>,
    /// Tensors that a rule names itself, and their gradients, which a `d` before the name tells.
    pub named: BTreeMap<String, Array>,
    /// Packed sequences.
    pub cu_seqlens: Option<CuSeqlens>,
    /// Slot of each sequence in `initial_state`; negative = none, it starts from zeros.
    pub initial_slots: Option<Vec<i32>>,
    /// Slot of each sequence in `final_state`; negative = its state is not written.
    pub final_slots: Option<Vec<i32>>,
}

/// Bytes of the length that a safetensors file begins with.
const LENGTH: u64 = 8;
/// Bytes that a header may have; a case's has three thousand.
const LARGEST_HEADER: u64 = 16 << 20;

/// What stops the reading of a stream.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Case(#[from] CaseError),
}

impl Array {
    /// An f32 array; `None` when the sizes do not multiply to the numbers given.
    pub fn new(shape: &[usize], data: Vec<f32>) -> Option<Array> {
        let elements = shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
        (elements == Some(data.len())).then(|| Array { shape: shape.to_vec(), data, stored: Dtype::F32 })
    }

    /// The indices of element `flat`.
    pub fn index(&self, flat: usize) -> Vec<usize> {
        let mut rest = flat;
        let mut index: Vec<usize> = self
            .shape
            .iter()
            .rev()
            .map(|size| {
                let here = rest % (*size).max(1);
                rest /= (*size).max(1);
                here
            })
            .collect();
        index.reverse();
        index
    }
}

impl Case {
    /// Reads a case file.
    ///
    /// # Errors
    /// The file is unreadable, truncated, or holds a tensor of the wrong type or an unknown name.
    pub fn load(path: &Path) -> Result<Case, CaseError> {
        let io = |source| CaseError::Io { path: path.to_owned(), source };
        Case::read(File::open(path).map_err(io)?, path)
    }

    /// Reads a stream to the end that its header gives: nothing is allocated for more than was read. `name` is what
    /// errors call it.
    ///
    /// # Errors
    /// As [`Case::load`].
    pub fn read(stream: impl Read, name: &Path) -> Result<Case, CaseError> {
        Case::to_the_end(stream).map_err(|error| match error {
            ReadError::Io(source) => CaseError::Io { path: name.to_owned(), source },
            ReadError::Case(error) => error,
        })
    }

    fn to_the_end(mut stream: impl Read) -> Result<Case, ReadError> {
        let mut bytes = Vec::new();
        stream.by_ref().take(LENGTH).read_to_end(&mut bytes)?;
        if let Some(length) = bytes.first_chunk().map(|length| u64::from_le_bytes(*length)) {
            if length > LARGEST_HEADER {
                let reason = format!("its header would be of {length} bytes, at most {LARGEST_HEADER} are read");
                return Err(CaseError::Format(reason).into());
            }
            stream.by_ref().take(length).read_to_end(&mut bytes)?;
            let header = bytes.get(LENGTH as usize..).unwrap_or_default();
            // A header that is none is `from_bytes`'s to refuse.
            let data = serde_json::from_slice::<Metadata>(header).map_or(0, |header| header.data_len() as u64);
            if data > Limit::CASE.bytes {
                let reason = format!("its tensors would be of {data} bytes, at most {} are read", Limit::CASE.bytes);
                return Err(CaseError::Format(reason).into());
            }
            // A byte more than there should be is seen, more are not read.
            stream.take(data + 1).read_to_end(&mut bytes)?;
        }
        Ok(Case::from_bytes(&bytes)?)
    }

    /// Reads the bytes of a case file.
    ///
    /// # Errors
    /// As [`Case::load`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Case, CaseError> {
        let format = |error: safetensors::SafeTensorError| CaseError::Format(error.to_string());
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(format)?;
        let file = SafeTensors::deserialize(bytes).map_err(format)?;
        let metadata: BTreeMap<String, String> =
            header.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
        // `a_log: head; dt_bias: channel`, `dt: scalar = softplus(x + dt_bias)`.
        let declarations = ["params", "lets"].into_iter().filter_map(|key| metadata.get(key));
        let declared =
            declarations.flat_map(|text| text.split(';')).filter_map(|part| Some(part.split_once(':')?.0.trim()));
        let names: Vec<String> = declared.map(str::to_owned).collect();
        let is_named = |name: &str| names.iter().any(|own| own == name || name.strip_prefix('d') == Some(own));
        let mut case = Case { metadata, ..Case::default() };
        for (name, view) in file.iter() {
            match name {
                "cu_seqlens" => {
                    let (offsets, is_64) = integers("cu_seqlens", &view)?;
                    case.cu_seqlens = Some(CuSeqlens { offsets, is_64 });
                }
                "initial_slots" => case.initial_slots = Some(slots("initial_slots", &view)?),
                "final_slots" => case.final_slots = Some(slots("final_slots", &view)?),
                _ if is_named(name) => {
                    let array = floats(&view).map_err(|got| CaseError::Named {
                        tensor: name.to_owned(),
                        problem: format!("stored as {got}, must be {FLOATS}"),
                    })?;
                    case.named.insert(name.to_owned(), array);
                }
                _ => {
                    let tensor = named(name)?;
                    let array = floats(&view).map_err(|got| CaseError::Dtype {
                        tensor: tensor.name(),
                        got: got.to_string(),
                        want: FLOATS.to_owned(),
                    })?;
                    if case.tensors.insert(tensor, array).is_some() {
                        return Err(CaseError::Named {
                            tensor: tensor.name().to_owned(),
                            problem: format!("there twice, as `{FORMER_GRADIENT}` too; leave one of them"),
                        });
                    }
                }
            }
        }
        Ok(case)
    }

    /// Writes the case, as [`files::write`] does.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), CaseError> {
        files::write(path, &self.to_bytes()?).map_err(|source| CaseError::Io { path: path.to_owned(), source })
    }

    /// The bytes of the case as a safetensors file, equal for equal cases. Numbers are stored as f32.
    ///
    /// # Errors
    /// An array whose numbers do not fill its shape.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CaseError> {
        let mut parts: Vec<(&str, FileDtype, Vec<usize>, Vec<u8>)> = Vec::new();
        let named = self.named.iter().map(|(name, array)| (name.as_str(), array));
        for (name, array) in self.tensors.iter().map(|(tensor, array)| (tensor.name(), array)).chain(named) {
            let bytes = storage::encode(array.data.iter().copied(), Dtype::F32);
            parts.push((name, FileDtype::F32, array.shape.clone(), bytes));
        }
        if let Some(CuSeqlens { offsets, is_64 }) = &self.cu_seqlens {
            let (dtype, bytes) = if *is_64 {
                (FileDtype::I64, offsets.iter().flat_map(|offset| offset.to_le_bytes()).collect())
            } else {
                (FileDtype::I32, int32(offsets)?.iter().flat_map(|offset| offset.to_le_bytes()).collect())
            };
            parts.push(("cu_seqlens", dtype, vec![offsets.len()], bytes));
        }
        for (name, slots) in [("initial_slots", &self.initial_slots), ("final_slots", &self.final_slots)] {
            if let Some(slots) = slots {
                let bytes = slots.iter().flat_map(|slot| slot.to_le_bytes()).collect();
                parts.push((name, FileDtype::I32, vec![slots.len()], bytes));
            }
        }
        let format = |error: safetensors::SafeTensorError| CaseError::Format(error.to_string());
        let views = parts
            .iter()
            .map(|(name, dtype, shape, bytes)| Ok((*name, TensorView::new(*dtype, shape.clone(), bytes)?)))
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(format)?;
        let bytes = safetensors::serialize(views, None).map_err(format)?;
        Ok(with_metadata(&bytes, &self.metadata))
    }

    /// The rule whose text is in the metadata; else the one that the metadata and the shapes describe: default storages,
    /// named after its gates.
    ///
    /// # Errors
    /// Metadata or shapes that describe none.
    pub fn rule(&self) -> Result<Rule, CaseError> {
        if let Some(text) = self.metadata.get("rule") {
            let mut rules = gdn2_dsl::parse_file(text).map_err(|found| CaseError::Rule(found.to_string()))?;
            return match rules.pop() {
                Some(rule) if rules.is_empty() => Ok(rule),
                _ => Err(CaseError::Rule("holds several rules, must hold one".to_owned())),
            };
        }
        let text = |field: &'static str| self.metadata.get(field).map(String::as_str);
        let grain = |field: &'static str, want| match text(field) {
            Some("none") => Ok(Grain::None),
            Some("scalar") => Ok(Grain::Scalar),
            Some("channel") => Ok(Grain::Channel),
            other => Err(unknown(field, other, want)),
        };
        const GRAINS: &str = "none, scalar or channel";
        let write = match text("write") {
            Some("tied") => None,
            _ => Some(grain("write", "none, scalar, channel or tied")?),
        };
        let combination = Combination { decay: grain("decay", GRAINS)?, erase: grain("erase", GRAINS)?, write };
        let dtype = match text("inputs_rounded_to") {
            None | Some("bfloat16" | "bf16") => Dtype::Bf16,
            Some("float16" | "f16") => Dtype::F16,
            other => return Err(unknown("inputs_rounded_to", other, "bfloat16 or float16")),
        };
        let state = self.layout().unwrap_or(StateLayout::Kv);
        let channels = |tensor: Tensor, shape| {
            let array = self.tensors.get(&tensor).ok_or(CaseError::Missing { tensor: tensor.name(), shape })?;
            let last = array.shape.last().copied().unwrap_or(0);
            u32::try_from(last).map_err(|_| CaseError::Size {
                field: shape,
                got: last.to_string(),
                limit: "no head is that wide".to_owned(),
            })
        };
        let (key, value) = (channels(Tensor::Q, "[B,T,H,K]")?, channels(Tensor::V, "[B,T,HV,V]")?);
        let rule = combination.rule(key, value, dtype).map_err(|error| CaseError::Size {
            field: "head dims",
            got: format!("K = {key}, V = {value}"),
            limit: error.to_string(),
        })?;
        Ok(Rule { state, ..rule })
    }

    /// The layout of states that the metadata names, if it names one.
    fn layout(&self) -> Option<StateLayout> {
        let text = self.metadata.get("layout")?;
        [StateLayout::Kv, StateLayout::Vk].into_iter().find(|layout| text.contains(state_letters(*layout)))
    }

    /// Refuses states that the metadata says are laid out in another way than a rule's: with K = V no shape tells.
    pub(crate) fn expect_layout(&self, rule: StateLayout) -> Result<(), CaseError> {
        const STATES: [Tensor; 4] =
            [Tensor::InitialState, Tensor::FinalState, Tensor::DInitialState, Tensor::DFinalState];
        match self.layout() {
            Some(layout) if layout != rule && STATES.iter().any(|state| self.tensors.contains_key(state)) => {
                Err(CaseError::Metadata {
                    field: "layout",
                    got: format!("`{}`", state_letters(layout)),
                    want: match rule {
                        StateLayout::Kv => {
                            "`state [N,HV,K,V]`, as the rule says: transpose the states or write `state: vk`"
                        }
                        StateLayout::Vk => {
                            "`state [N,HV,V,K]`, as `state: vk` says: transpose the states or leave it out"
                        }
                    },
                })
            }
            _ => Ok(()),
        }
    }

    /// The scale on o: the metadata's, else 1/√K.
    ///
    /// # Errors
    /// Metadata that is no finite number.
    pub fn scale(&self, key_dim: u32) -> Result<f64, CaseError> {
        Ok(self.number("scale")?.unwrap_or_else(|| 1.0 / f64::from(key_dim).sqrt()))
    }

    /// How far a tensor may be from the case's: its own entry in the metadata's `bars`, as `o=0.008,dg=0.03`, else the bar of
    /// every case times `bar_scale`. `limits`, in the same form, says what rounding alone may come to where that is more than
    /// a bar may be. `None` for a tensor that has no bar.
    ///
    /// # Errors
    /// Metadata that is not understood, and a bar that is not above 0 or wider than [`MOST_BARS`]: it would prove nothing.
    pub fn bar(&self, tensor: Tensor) -> Result<Option<Bar>, CaseError> {
        let scale = self.number("bar_scale")?.unwrap_or(1.0);
        if !(scale > 0.0 && scale <= MOST_BARS) {
            return Err(unknown("bar_scale", Some(&scale.to_string()), "above 0 and at most 6"));
        }
        let Some(usual) = bar(tensor.name()) else { return Ok(None) };
        self.stated_bar(tensor.name(), usual, scale).map(Some)
    }

    /// The bar of a gradient that has no other name than its rule's gives it, likewise.
    ///
    /// # Errors
    /// As there.
    pub fn named_bar(&self, name: &str) -> Result<Bar, CaseError> {
        self.stated_bar(name, NAMED_BAR, 1.0)
    }

    fn stated_bar(&self, name: &str, usual: f64, scale: f64) -> Result<Bar, CaseError> {
        let own = self.listed("bars", name)?;
        if own.is_some_and(|own| !(own > 0.0 && own <= MOST_BARS * usual * (1.0 + 1e-9))) {
            return Err(unknown(
                "bars",
                self.metadata.get("bars").map(String::as_str),
                "six usual bars of a tensor at most",
            ));
        }
        let bar = own.unwrap_or(scale * usual);
        let limit = self.listed("limits", name)?.unwrap_or(bar).max(bar);
        Ok(Bar { bar, limit })
    }

    /// Writes bars to the metadata, where [`Case::bar`] reads them.
    pub(crate) fn set_bars(&mut self, bars: &BTreeMap<Tensor, Bar>) {
        let list = |value: &dyn Fn(&Bar) -> Option<f64>| {
            let entries = bars.iter().filter_map(|(tensor, bar)| Some(format!("{}={:.6}", tensor.name(), value(bar)?)));
            entries.collect::<Vec<String>>().join(",")
        };
        self.metadata.insert("bars".to_owned(), list(&|bar| Some(bar.bar)));
        let limits = list(&|bar| Some(bar.limit).filter(|limit| *limit > bar.bar));
        if !limits.is_empty() {
            self.metadata.insert("limits".to_owned(), limits);
        }
    }

    /// Adds one bar to those that the metadata states.
    pub(crate) fn state_bar(&mut self, name: &str, bar: Bar) {
        let mut add = |field: &str, number: f64| {
            let list = self.metadata.entry(field.to_owned()).or_default();
            let comma = if list.is_empty() { "" } else { "," };
            *list += &format!("{comma}{name}={number:.6}");
        };
        add("bars", bar.bar);
        if bar.limit > bar.bar {
            add("limits", bar.limit);
        }
    }

    /// A tensor's number in a list such as `o=0.008,dg=0.03`, or in a JSON object.
    fn listed(&self, field: &'static str, wanted: &str) -> Result<Option<f64>, CaseError> {
        let Some(text) = self.metadata.get(field) else { return Ok(None) };
        let wrong = || unknown(field, Some(text), "a list of tensors and numbers, such as o=0.008,dg=0.03");
        if text.trim_start().starts_with('{') {
            let all: BTreeMap<String, f64> = serde_json::from_str(text).map_err(|_| wrong())?;
            return Ok(all.get(wanted).copied());
        }
        let mut found = None;
        for entry in text.split(',').filter(|entry| !entry.is_empty()) {
            let (name, number) = entry.split_once('=').ok_or_else(wrong)?;
            let number: f64 = number.trim().parse().map_err(|_| wrong())?;
            if !number.is_finite() {
                return Err(wrong());
            }
            let name = name.trim();
            if name == wanted {
                found = Some(number);
            } else if !self.named.contains_key(name) {
                named(name)?;
            }
        }
        Ok(found)
    }

    fn number(&self, field: &'static str) -> Result<Option<f64>, CaseError> {
        let Some(text) = self.metadata.get(field) else { return Ok(None) };
        match text.parse::<f64>() {
            // The scale reaches kernels in f32.
            Ok(number) if (number as f32).is_finite() => Ok(Some(number)),
            _ => Err(unknown(field, Some(text), "a finite number, in f32 too")),
        }
    }
}

/// How metadata names a layout.
pub(crate) fn state_letters(layout: StateLayout) -> &'static str {
    match layout {
        StateLayout::Kv => "state [N,HV,K,V]",
        StateLayout::Vk => "state [N,HV,V,K]",
    }
}

fn unknown(field: &'static str, got: Option<&str>, want: &'static str) -> CaseError {
    CaseError::Metadata { field, got: got.map_or("missing".to_owned(), |got| format!("`{got}`")), want }
}

/// What the gradient of the initial state was called once, and is in files from then.
const FORMER_GRADIENT: &str = "dinitial_state";

fn named(name: &str) -> Result<Tensor, CaseError> {
    let name = if name == FORMER_GRADIENT { Tensor::DInitialState.name() } else { name };
    Tensor::ALL.into_iter().find(|tensor| tensor.name() == name).ok_or_else(|| CaseError::UnknownTensor {
        name: name.to_owned(),
        known: Tensor::ALL
            .map(Tensor::name)
            .into_iter()
            .chain(["cu_seqlens", "initial_slots", "final_slots"])
            .collect::<Vec<_>>()
            .join(" "),
    })
}

/// The types a tensor of numbers may be stored in.
const FLOATS: &str = "F32, BF16 or F16";

/// A tensor's numbers; the error is the type that holds none.
fn floats(view: &TensorView<'_>) -> Result<Array, FileDtype> {
    let stored = match view.dtype() {
        FileDtype::F32 => Dtype::F32,
        FileDtype::BF16 => Dtype::Bf16,
        FileDtype::F16 => Dtype::F16,
        other => return Err(other),
    };
    Ok(Array { shape: view.shape().to_vec(), data: storage::decode(view.data(), stored), stored })
}

fn integers(tensor: &'static str, view: &TensorView<'_>) -> Result<(Vec<i64>, bool), CaseError> {
    if view.shape().len() != 1 {
        let (got, want) = (view.shape().to_vec(), vec![view.shape().iter().product()]);
        return Err(CaseError::Shape { tensor, got, letters: "one axis", want });
    }
    match view.dtype() {
        FileDtype::I32 => {
            let (values, _) = view.data().as_chunks::<4>();
            Ok((values.iter().map(|value| i64::from(i32::from_le_bytes(*value))).collect(), false))
        }
        FileDtype::I64 => {
            let (values, _) = view.data().as_chunks::<8>();
            Ok((values.iter().map(|value| i64::from_le_bytes(*value)).collect(), true))
        }
        other => Err(CaseError::Dtype { tensor, got: other.to_string(), want: "I32 or I64".to_owned() }),
    }
}

fn slots(tensor: &'static str, view: &TensorView<'_>) -> Result<Vec<i32>, CaseError> {
    match integers(tensor, view)? {
        (values, false) => Ok(values.iter().map(|value| *value as i32).collect()),
        _ => Err(CaseError::Dtype { tensor, got: "I64".to_owned(), want: "I32".to_owned() }),
    }
}

fn int32(offsets: &[i64]) -> Result<Vec<i32>, CaseError> {
    let narrow = |offset: &i64| i32::try_from(*offset).map_err(|_| CaseError::Offsets(format!("{offset} is no int32")));
    offsets.iter().map(narrow).collect()
}

/// Puts the metadata in front of the tensors' headers. The crate's own map has no order, and equal cases must be equal
/// files.
fn with_metadata(bytes: &[u8], metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else { return bytes.to_vec() };
    let Some((header, data)) = rest.split_at_checked(u64::from_le_bytes(*length) as usize) else {
        return bytes.to_vec();
    };
    if metadata.is_empty() {
        return bytes.to_vec();
    }
    let text = serde_json::to_string(metadata).unwrap_or_else(|_| "{}".to_owned());
    let rest = String::from_utf8_lossy(header).trim_start_matches('{').trim_end().to_owned();
    let comma = if rest == "}" { "" } else { "," };
    let mut header = format!("{{\"__metadata__\":{text}{comma}{rest}");
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    let mut whole = (header.len() as u64).to_le_bytes().to_vec();
    whole.extend(header.as_bytes());
    whole.extend(data);
    whole
}
