//! One call as the generated modules hand it on: every tensor a rule can have, the ones it lacks left empty. On its way
//! to a device that reads host memory it becomes a case, whose checks name the first field that does not fit.

use crate::error::Error;
use crate::view::{Data, Offsets, View, rows};
use gdn2_codegen::abi::Tensor as Name;
use gdn2_dsl::{Dims, Rule};
use gdn2_runtime::problem::{self, dims_of, expect_present};
use gdn2_runtime::tensors::{Array, Case, CaseError, CuSeqlens};
use std::collections::BTreeMap;

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
        Ok(Case {
            metadata: self.scale.map(|scale| ("scale".to_owned(), scale.to_string())).into_iter().collect(),
            tensors,
            cu_seqlens: self.cu_seqlens.map(offsets).transpose()?,
            ..Case::default()
        })
    }
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
