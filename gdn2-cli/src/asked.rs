//! `B=1,T=8192,H=16` or the name of a shape: what predictions and tuning are asked for.

use std::str::FromStr;

use gdn2_dsl::Rule;
use gdn2_dsl::limits::MOST_TOKENS;
use gdn2_tune::job::Shape;
use gdn2_tune::shapes::named;

use crate::error::CliError;
use crate::shape;

/// A shape of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Its sizes.
    pub shape: Shape,
    /// Tokens of packed sequences; none where rows are dense.
    pub lengths: Vec<u32>,
    /// K and V, where its name says so.
    head_dim: Option<u32>,
}

impl Asked {
    /// The rule with the head dims that the shape's name stands for.
    pub fn of(&self, rule: Rule) -> Result<Rule, CliError> {
        match self.head_dim {
            Some(dim) if (rule.key_dim, rule.value_dim) != (dim, dim) => Ok(rule.with_dims(dim, dim)?),
            _ => Ok(rule),
        }
    }
}

impl FromStr for Asked {
    type Err = String;

    fn from_str(text: &str) -> Result<Asked, String> {
        if !text.contains('=') {
            let all = named();
            let Some(found) = all.iter().find(|shape| shape.name == text) else {
                let names = all.iter().map(|shape| shape.name.as_str()).collect::<Vec<_>>().join(", ");
                return Err(format!("`{text}` is no NAME=NUMBER, such as T=128, and no shape with a name: {names}"));
            };
            let head_dim = Some(found.head_dim);
            return Ok(Asked { shape: found.shape(), lengths: found.lengths.clone(), head_dim });
        }
        let shape::Shape { batch, tokens, heads, value_heads } = text.parse()?;
        let size = |name: &str, size: usize| {
            let size = u32::try_from(size).ok().filter(|size| *size > 0);
            size.ok_or_else(|| format!("{name} must be from 1 to {MOST_TOKENS}"))
        };
        let shape = Shape {
            batch: size("B", batch)?,
            tokens: size("T", tokens)?,
            key_heads: size("H", heads)?,
            value_heads: size("HV", value_heads)?,
        };
        Ok(Asked { shape, lengths: Vec::new(), head_dim: None })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_sizes() {
        let asked: Asked = "b8".parse().unwrap();
        assert_eq!(asked.shape, "B=8,T=8192,H=16".parse::<Asked>().unwrap().shape);
        assert!("b9".parse::<Asked>().unwrap_err().contains("b1, b8"));
        assert!("B=1,T=0,H=1".parse::<Asked>().unwrap_err().contains("T must be from 1"));
        let packed: Asked = "packed-mixed".parse().unwrap();
        assert_eq!(packed.lengths.iter().sum::<u32>(), packed.shape.tokens);
    }
}
