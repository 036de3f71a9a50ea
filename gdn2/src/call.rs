//! One call as the generated modules hand it on: every tensor a rule can have, the ones it lacks left empty. On its way
//! to a device that reads host memory it becomes a case, whose checks name the first field that does not fit.

use crate::error::Error;
use crate::view::{Data, Offsets, View, rows};
use gdn2_codegen::abi::Tensor as Name;
use gdn2_codegen::kernel::MOST_NAMED;
use gdn2_dsl::prologue::NamedTensor;
use gdn2_dsl::{Dims, Rule};
use gdn2_runtime::problem::{self, dims_of, expect_present};
use gdn2_runtime::tensors::{Array, Case, CaseError, CuSeqlens};
use std::collections::BTreeMap;

/// What a rule names itself, by its place among the rule's names.
pub type Named<'a> = [Option<View<'a>>; MOST_NAMED];

/// Tensors that a rule names itself, in its order; no rule with kernels names more than there are places.
pub fn named<const N: usize>(views: [View<'_>; N]) -> Named<'_> {
    let mut all = [None; MOST_NAMED];
    all.iter_mut().zip(views).for_each(|(place, view)| *place = Some(view));
    all
}

/// A rule with the formulas of its text, which was printed of a checked one: it reads back.
pub fn with_formulas(recurrence: Rule, text: &str) -> Rule {
    gdn2_dsl::parse_file(text).ok().and_then(|mut rules| rules.pop()).unwrap_or(recurrence)
}

/// Inputs of a forward or decode call.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// `[B,T,H,K]`.
    pub q: View<'a>,
    /// `[B,T,H,K]`.
    pub k: View<'a>,
    /// `[B,T,HV,V]`.
    pub v: View<'a>,
    /// Natural-log decay.
    pub g: Option<View<'a>>,
    /// Erase gate; beta where tied.
    pub b: Option<View<'a>>,
    /// Write gate.
    pub w: Option<View<'a>>,
    /// Parameters and logits of `let`s, in the order in which the rule names them.
    pub named: Named<'a>,
    /// `[N,HV,K,V]` in the rule's layout; none is zeros.
    pub initial_state: Option<View<'a>>,
    /// Packed sequences.
    pub cu_seqlens: Option<Offsets<'a>>,
    /// Factor on q; none is 1/√K.
    pub scale: Option<f32>,
}

impl<'a> Call<'a> {
    /// The tensors with a row per token, by name.
    pub(crate) fn tokens(&self) -> [(Name, Option<View<'a>>); 6] {
        [
            (Name::Q, Some(self.q)),
            (Name::K, Some(self.k)),
            (Name::V, Some(self.v)),
            (Name::G, self.g),
            (Name::B, self.b),
            (Name::W, self.w),
        ]
    }

    /// The call as a case of its rule. Shapes are held against the rule before anything is copied: a false one must not
    /// ask for memory that nobody has.
    pub(crate) fn case(&self, rule: &Rule) -> Result<Case, Error> {
        let dims = dims_of(rule, self.q.shape(), self.v.shape())?;
        for (name, view) in self.tokens() {
            if let (true, Some(view)) = (expect_present(rule, name, view.is_some())?, view) {
                fits(rule, &dims, name, view.shape(), 0)?;
            }
        }
        let own = named_views(rule, &dims, &self.named)?;
        let sequences = match self.cu_seqlens {
            None => dims.batch,
            Some(Offsets::I32(offsets)) => offsets.len().saturating_sub(1),
            Some(Offsets::I64(offsets)) => offsets.len().saturating_sub(1),
            Some(Offsets::Device(_)) => return Err(Error::DeviceMemory("cu_seqlens")),
        };
        room("final_state", sequences.saturating_mul(dims.value_heads).saturating_mul(dims.state()))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in self.tokens().into_iter().chain([(Name::InitialState, self.initial_state)]) {
            let Some(view) = view else { continue };
            room(name.name(), view.shape.elements().unwrap_or(usize::MAX))?;
            tensors.insert(name, array(name.name(), &view)?);
        }
        let mut named = BTreeMap::new();
        for (name, view) in own {
            room("a parameter or logit", view.shape.elements().unwrap_or(usize::MAX))?;
            named.insert(name.to_owned(), array("a parameter or logit", &view)?);
        }
        Ok(Case {
            named,
            metadata: self.scale.map(|scale| ("scale".to_owned(), scale.to_string())).into_iter().collect(),
            tensors,
            cu_seqlens: self.cu_seqlens.map(offsets).transpose()?,
            ..Case::default()
        })
    }
}

/// Each tensor that the rule names itself with its view, shapes held against the rule.
///
/// # Errors
/// A tensor too many or too few, or one that does not fit.
pub(crate) fn named_views<'r, 'a>(
    rule: &'r Rule,
    dims: &Dims,
    given: &Named<'a>,
) -> Result<Vec<(&'r str, View<'a>)>, Error> {
    let wrong = |tensor: &str, problem: String| CaseError::Named { tensor: tensor.to_owned(), problem };
    let own = rule.prologue.named();
    if given.iter().skip(own.len()).any(Option::is_some) {
        return Err(wrong("the last of them", format!("rule `{}` has no such parameter or logit", rule.name)).into());
    }
    let view = |(own, view): (NamedTensor<'r>, &Option<View<'a>>)| {
        let (shape, letters) = (problem::named_shape(&own, dims), own.letters());
        let Some(view) = view else {
            return Err(wrong(own.name, format!("missing, the rule needs it as {letters} = {shape:?}")).into());
        };
        if *view.shape() != *shape {
            return Err(wrong(own.name, format!("shape {:?}, must be {letters} = {shape:?}", view.shape())).into());
        }
        Ok((own.name, *view))
    };
    own.into_iter().zip(given).map(view).collect()
}

/// Refuses a tensor of another shape than the rule and the call's sizes give it; states in the rule's layout.
pub(crate) fn fits(rule: &Rule, dims: &Dims, name: Name, got: &[usize], slots: usize) -> Result<(), Error> {
    let (letters, want) = problem::shape(rule, dims, name, slots);
    if *got == *want {
        return Ok(());
    }
    let (got, want) = (got.to_vec(), want.to_vec());
    Err(CaseError::Shape { tensor: name.name(), got, letters, want }.into())
}

/// Refuses a number of elements that there is no memory for.
fn room(field: &'static str, elements: usize) -> Result<(), Error> {
    let limit = "elements are more than there is memory for";
    Vec::<f32>::new().try_reserve_exact(elements).map_err(|_| Error::Size { field, got: elements, limit })
}

fn offsets(given: Offsets<'_>) -> Result<CuSeqlens, Error> {
    match given {
        Offsets::I32(offsets) => {
            Ok(CuSeqlens { offsets: offsets.iter().map(|x| i64::from(*x)).collect(), is_64: false })
        }
        Offsets::I64(offsets) => Ok(CuSeqlens { offsets: offsets.to_vec(), is_64: true }),
        Offsets::Device(_) => Err(Error::DeviceMemory("cu_seqlens")),
    }
}

/// The numbers of a view in host memory, row-major.
pub(crate) fn array(name: &'static str, view: &View<'_>) -> Result<Array, Error> {
    let data = match view.data {
        Data::F32(slice) => gather(view, slice, |x| x),
        Data::Bf16(slice) => gather(view, slice, half::bf16::to_f32),
        Data::F16(slice) => gather(view, slice, half::f16::to_f32),
        Data::Device(..) => return Err(Error::DeviceMemory(name)),
    };
    Ok(Array { shape: view.shape().to_vec(), data, stored: view.dtype() })
}

/// Rows of the last axis, one after another, whatever the strides of the others.
fn gather<T: Copy>(view: &View<'_>, slice: &[T], to_f32: impl Fn(T) -> f32) -> Vec<f32> {
    let (width, starts) = rows(view.shape, view.strides);
    starts.flat_map(|start| slice.iter().skip(start).take(width).map(|x| to_f32(*x))).collect()
}
