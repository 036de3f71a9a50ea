//! Numbers as tensors store them: f32 to bf16, f16 or f32 bytes, little-endian, rounded to nearest even, and back.

use gdn2_dsl::Dtype;
use half::{bf16, f16};

/// Rounds one number to a storage type and back.
pub fn rounded(value: f32, dtype: Dtype) -> f32 {
    match dtype {
        Dtype::Bf16 => bf16::from_f32(value).to_f32(),
        Dtype::F16 => f16::from_f32(value).to_f32(),
        Dtype::F32 => value,
    }
}

/// The bytes of a tensor.
pub fn encode(values: impl ExactSizeIterator<Item = f32>, dtype: Dtype) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(values.len() * dtype.bytes() as usize);
    match dtype {
        Dtype::Bf16 => values.for_each(|value| bytes.extend(bf16::from_f32(value).to_le_bytes())),
        Dtype::F16 => values.for_each(|value| bytes.extend(f16::from_f32(value).to_le_bytes())),
        Dtype::F32 => values.for_each(|value| bytes.extend(value.to_le_bytes())),
    }
    bytes
}

/// The numbers of a tensor's bytes; an odd end is left out.
pub fn decode(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    let pairs = || bytes.as_chunks::<2>().0.iter().copied();
    match dtype {
        Dtype::Bf16 => pairs().map(|pair| bf16::from_le_bytes(pair).to_f32()).collect(),
        Dtype::F16 => pairs().map(|pair| f16::from_le_bytes(pair).to_f32()).collect(),
        Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_round_to_even() {
        // bf16 has 8 significant bits: 1 + 2⁻⁸ lies half-way and goes down to the even 1, 1 + 3·2⁻⁸ goes up.
        let step = 2f32.powi(-8);
        assert_eq!(rounded(1.0 + step, Dtype::Bf16), 1.0);
        assert_eq!(rounded(1.0 + 3.0 * step, Dtype::Bf16), 1.0 + 4.0 * step);
        let step = 2f32.powi(-11);
        assert_eq!(rounded(1.0 + step, Dtype::F16), 1.0);
        assert_eq!(rounded(1.0 + 3.0 * step, Dtype::F16), 1.0 + 4.0 * step);
        assert!(rounded(70_000.0, Dtype::F16).is_infinite());
    }

    #[test]
    fn bytes_come_back_as_the_rounded_numbers() {
        let values = [0.1f32, -3.75, 65_000.0, 1e-30, 0.0, -0.0];
        for dtype in [Dtype::Bf16, Dtype::F16, Dtype::F32] {
            let back = decode(&encode(values.iter().copied(), dtype), dtype);
            let want: Vec<f32> = values.iter().map(|value| rounded(*value, dtype)).collect();
            assert_eq!(back, want);
        }
    }
}
