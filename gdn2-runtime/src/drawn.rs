//! Cases made rather than found: a random draw with the definition's results, in the case files' format.

use crate::problem;
use crate::tensors::{Array, Case, CaseError, CuSeqlens};
use gdn2_codegen::abi::Tensor;
use gdn2_dsl::{Draw, Dtype, Rule, Write, reference};
use std::collections::BTreeMap;

impl Case {
    /// Draws inputs for a rule and computes outputs, and gradients if asked for, with the float64 reference.
    ///
    /// # Errors
    /// A draw whose sizes contradict one another.
    pub fn drawn(rule: &Rule, draw: &Draw, gradients: bool) -> Result<Case, CaseError> {
        let refused = |error: gdn2_dsl::InputError| CaseError::Size {
            field: "draw",
            got: format!("{draw:?}"),
            limit: error.to_string(),
        };
        let inputs = draw.inputs(rule);
        let outputs = reference::forward(rule.combination(), &inputs).map_err(refused)?;
        let mut tensors = BTreeMap::new();
        let mut put = |tensor: Tensor, numbers: Option<&Vec<f64>>| {
            let Some(numbers) = numbers else { return Ok(()) };
            let (letters, want) = problem::shape(rule, &inputs.dims, tensor, inputs.states());
            let array = Array::new(&want, numbers.iter().map(|x| *x as f32).collect());
            let got = vec![numbers.len()];
            tensors.insert(tensor, array.ok_or(CaseError::Shape { tensor: tensor.name(), got, letters, want })?);
            Ok::<(), CaseError>(())
        };
        put(Tensor::Q, Some(&inputs.q))?;
        put(Tensor::K, Some(&inputs.k))?;
        put(Tensor::V, Some(&inputs.v))?;
        put(Tensor::G, inputs.g.as_ref())?;
        put(Tensor::B, inputs.b.as_ref())?;
        put(Tensor::W, inputs.w.as_ref())?;
        put(Tensor::InitialState, inputs.initial_state.as_ref())?;
        put(Tensor::O, Some(&outputs.o))?;
        put(Tensor::FinalState, Some(&outputs.final_state))?;
        if gradients {
            let upstream = draw.output_gradients(rule, &inputs);
            let found = reference::backward(rule.combination(), &inputs, &upstream).map_err(refused)?;
            put(Tensor::DO, Some(&upstream.d_out))?;
            put(Tensor::DFinalState, upstream.d_final_state.as_ref())?;
            put(Tensor::DQ, Some(&found.dq))?;
            put(Tensor::DK, Some(&found.dk))?;
            put(Tensor::DV, Some(&found.dv))?;
            put(Tensor::DG, found.dg.as_ref())?;
            put(Tensor::DB, found.db.as_ref())?;
            put(Tensor::DW, found.dw.as_ref())?;
            put(Tensor::DInitialState, Some(&found.d_initial_state))?;
        }
        let write = match rule.write {
            Write::Tied => "tied".to_owned(),
            Write::Own(gate) => gate.grain.to_string(),
        };
        let rounded = match rule.dtype {
            Dtype::Bf16 => "bfloat16",
            Dtype::F16 => "float16",
            Dtype::F32 => "float32",
        };
        let metadata = [
            ("decay", rule.decay.grain.to_string()),
            ("erase", rule.erase.grain.to_string()),
            ("write", write),
            ("scale", inputs.scale.to_string()),
            ("bar_scale", "1".to_owned()),
            ("inputs_rounded_to", rounded.to_owned()),
            ("layout", LAYOUT.to_owned()),
        ];
        let offsets = |offsets: &Vec<usize>| CuSeqlens {
            offsets: offsets.iter().map(|offset| *offset as i64).collect(),
            is_64: false,
        };
        Ok(Case {
            metadata: metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            tensors,
            cu_seqlens: inputs.cu_seqlens.as_ref().map(offsets),
            ..Case::default()
        })
    }
}

/// What the metadata of every case says about its tensors.
const LAYOUT: &str = "q,k [B,T,H,K]; v,o [B,T,HV,V]; gates [B,T,HV] or [B,T,HV,channels]; state [N,HV,K,V]";
