//! `B=1,T=128,H=2,HV=4`: the sizes of a call on the command line.

use std::str::FromStr;

use gdn2_dsl::limits::{MOST_HEADS, MOST_TOKENS};

/// B, T, H and HV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// B.
    pub batch: usize,
    /// T.
    pub tokens: usize,
    /// H.
    pub heads: usize,
    /// HV, equal to H where not given.
    pub value_heads: usize,
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Shape, String> {
        let mut sizes = [None; 4];
        const NAMES: [&str; 4] = ["B", "T", "H", "HV"];
        for part in text.split(',') {
            let (name, value) = part.split_once('=').ok_or(format!("`{part}` is no NAME=NUMBER, such as T=128"))?;
            let index = NAMES
                .iter()
                .position(|known| known.eq_ignore_ascii_case(name.trim()))
                .ok_or(format!("`{name}` is none of B, T, H, HV"))?;
            let value: usize = value
                .trim()
                .parse()
                .map_err(|_| format!("{name}: `{value}` is no whole number from 0 to {MOST_TOKENS}"))?;
            if value == 0 && NAMES[index] != "T" {
                return Err(format!("{name}: must be at least 1"));
            }
            if sizes[index].replace(value).is_some() {
                return Err(format!("{name} is given twice"));
            }
        }
        let [Some(batch), Some(tokens), Some(heads), value_heads] = sizes else {
            return Err("needs B, T and H, such as B=1,T=128,H=2".to_owned());
        };
        let value_heads = value_heads.unwrap_or(heads);
        if !value_heads.is_multiple_of(heads) {
            return Err(format!("HV = {value_heads} must be a multiple of H = {heads}"));
        }
        let within = |name: &str, size: usize, most: usize| {
            if size > most { Err(format!("{name} = {size}: at most {most}")) } else { Ok(()) }
        };
        within("B", batch, MOST_TOKENS)?;
        within("T", tokens, MOST_TOKENS)?;
        // Below 2^31 each, they cannot overflow.
        within("B·T", batch.saturating_mul(tokens), MOST_TOKENS)?;
        within("HV", value_heads, MOST_HEADS)?;
        Ok(Shape { batch, tokens, heads, value_heads })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::Shape;

    #[test]
    fn reads_sizes_and_says_what_is_wrong() {
        assert_eq!("B=1,T=0,H=2".parse(), Ok(Shape { batch: 1, tokens: 0, heads: 2, value_heads: 2 }));
        assert_eq!("HV=4,t=7,B=3,H=2".parse(), Ok(Shape { batch: 3, tokens: 7, heads: 2, value_heads: 4 }));
        for (text, says) in [
            ("B=1,T=5", "needs B, T and H"),
            ("B=1,T=5,H=2,HV=3", "multiple of H"),
            ("B=0,T=5,H=2", "at least 1"),
            ("B=1,T=x,H=2", "no whole number"),
            ("B=1,B=2,T=1,H=1", "twice"),
            ("Q=1", "none of"),
            ("12", "NAME=NUMBER"),
            ("B=1,T=1000000000000,H=1", "T = 1000000000000: at most 2147483647"),
            ("B=65536,T=65536,H=1", "B·T = 4294967296: at most"),
            ("B=1,T=1,H=1,HV=2097152", "HV = 2097152: at most"),
            ("B=18446744073709551616,T=1,H=1", "no whole number from 0 to"),
            ("B=-1,T=1,H=1", "no whole number"),
            ("B=1,T=1e3,H=1", "no whole number"),
        ] {
            let error = text.parse::<Shape>().unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
