//! Shapes with names: one list for predictions, tuning, the check on hardware and the tables of the documents.

use crate::job::Shape;
use gdn2_codegen::kernel::Pass;
use serde::{Deserialize, Serialize};

const SHIPPED: &str = include_str!("../tuning/shapes.json");

/// A shape with a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// Its name, as `--shape` takes it.
    pub name: String,
    /// Dense rows; of packed sequences one.
    pub batch: u32,
    /// Tokens of a row.
    pub tokens: u32,
    /// Query and key heads.
    pub key_heads: u32,
    /// Value heads, a multiple of the key heads.
    pub value_heads: u32,
    /// K and V.
    pub head_dim: u32,
    /// Passes that it is looked at in.
    pub passes: Vec<Pass>,
    /// Tokens of packed sequences, which add up to those of the row; none where rows are dense.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lengths: Vec<u32>,
    /// What it stands for.
    pub about: String,
}

impl Named {
    /// The shape of a call.
    pub fn shape(&self) -> Shape {
        let Named { batch, tokens, key_heads, value_heads, .. } = *self;
        Shape { batch, tokens, key_heads, value_heads }
    }
}

/// Every shape with a name; none where the committed file is damaged, which a test rules out.
pub fn named() -> Vec<Named> {
    serde_json::from_str(SHIPPED).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_is_one_that_can_be_called() {
        let all = named();
        assert!(all.len() > 10);
        for (place, shape) in all.iter().enumerate() {
            let Named { name, batch, tokens, key_heads, value_heads, lengths, passes, .. } = shape;
            assert!(all.iter().skip(place + 1).all(|other| other.name != *name), "{name} is there twice");
            assert!(*batch > 0 && *tokens > 0 && value_heads.is_multiple_of(*key_heads), "{name}");
            assert!(lengths.is_empty() || *batch == 1 && lengths.iter().sum::<u32>() == *tokens, "{name}");
            assert!(!passes.is_empty() && !name.contains('='), "{name}");
        }
    }
}
