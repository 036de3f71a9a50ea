//! Numbers as buffers hold them: every dtype's bytes, what a buffer is filled with, and casts.

use half::{bf16, f16};
use safetensors::Dtype;
use serde::Deserialize;

/// What a made buffer begins with.
#[derive(Deserialize, Clone, Debug, PartialEq)]
#[serde(untagged)]
pub(super) enum Fill {
    /// By name.
    Named(Named),
    /// Every element is this.
    Number(f64),
}

/// What a made buffer begins with, by its name.
#[derive(Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Named {
    /// Bytes of 0xff, a NaN in every float type, watched for reads before writes.
    Nan,
    /// Zeros.
    Zero,
    /// Floats from -1 to 1, whole numbers from 0 to 99; the same for a name and a size every time.
    Random,
    /// 0, 1, 2 and so on.
    Index,
}

/// A stream of words that is settled by a name: splitmix64.
struct Words(u64);

impl Words {
    fn of(name: &str) -> Words {
        let fold = |all: u64, byte: u8| (all ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Words(name.bytes().fold(0xcbf2_9ce4_8422_2325, fold))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64)
}

/// Adds a number's bytes; false for a dtype whose numbers this does not know. Floats are rounded to nearest even, whole
/// numbers cut off and held to their range.
pub(super) fn push(bytes: &mut Vec<u8>, value: f64, dtype: Dtype) -> bool {
    match dtype {
        Dtype::BOOL => bytes.push(u8::from(value != 0.0)),
        Dtype::U8 => bytes.push(value as u8),
        Dtype::I8 => bytes.extend((value as i8).to_le_bytes()),
        Dtype::U16 => bytes.extend((value as u16).to_le_bytes()),
        Dtype::I16 => bytes.extend((value as i16).to_le_bytes()),
        Dtype::U32 => bytes.extend((value as u32).to_le_bytes()),
        Dtype::I32 => bytes.extend((value as i32).to_le_bytes()),
        Dtype::U64 => bytes.extend((value as u64).to_le_bytes()),
        Dtype::I64 => bytes.extend((value as i64).to_le_bytes()),
        Dtype::F16 => bytes.extend(f16::from_f64(value).to_le_bytes()),
        Dtype::BF16 => bytes.extend(bf16::from_f64(value).to_le_bytes()),
        Dtype::F32 => bytes.extend((value as f32).to_le_bytes()),
        Dtype::F64 => bytes.extend(value.to_le_bytes()),
        _ => return false,
    }
    true
}

/// The number that one element's bytes hold; none of a dtype whose numbers this does not know.
fn number(one: &[u8], dtype: Dtype) -> Option<f64> {
    fn of<const N: usize>(one: &[u8]) -> Option<[u8; N]> {
        one.try_into().ok()
    }
    Some(match dtype {
        Dtype::BOOL | Dtype::U8 => f64::from(u8::from_le_bytes(of(one)?)),
        Dtype::I8 => f64::from(i8::from_le_bytes(of(one)?)),
        Dtype::U16 => f64::from(u16::from_le_bytes(of(one)?)),
        Dtype::I16 => f64::from(i16::from_le_bytes(of(one)?)),
        Dtype::U32 => f64::from(u32::from_le_bytes(of(one)?)),
        Dtype::I32 => f64::from(i32::from_le_bytes(of(one)?)),
        Dtype::U64 => u64::from_le_bytes(of(one)?) as f64,
        Dtype::I64 => i64::from_le_bytes(of(one)?) as f64,
        Dtype::F16 => f16::from_le_bytes(of(one)?).to_f64(),
        Dtype::BF16 => bf16::from_le_bytes(of(one)?).to_f64(),
        Dtype::F32 => f64::from(f32::from_le_bytes(of(one)?)),
        Dtype::F64 => f64::from_le_bytes(of(one)?),
        _ => return None,
    })
}

/// The numbers of a tensor; none where its dtype is unknown.
pub(super) fn numbers(bytes: &[u8], dtype: Dtype) -> Option<Vec<f64>> {
    bytes.chunks_exact((dtype.bitsize() / 8).max(1)).map(|one| number(one, dtype)).collect()
}

/// The bytes of a tensor in another dtype, each number by way of float64; none where one of the two is unknown.
pub(super) fn cast(bytes: &[u8], from: Dtype, to: Dtype) -> Option<Vec<u8>> {
    if from == to {
        return Some(bytes.to_vec());
    }
    let size = (from.bitsize() / 8).max(1);
    let mut out = Vec::with_capacity((bytes.len() / size).saturating_mul(to.bitsize()) / 8);
    bytes.chunks_exact(size).all(|one| number(one, from).is_some_and(|value| push(&mut out, value, to))).then_some(out)
}

/// The bytes of so many elements; none where the fill is of numbers and the dtype's are unknown.
pub(super) fn filled(fill: &Fill, name: &str, dtype: Dtype, elements: usize) -> Option<Vec<u8>> {
    let mut words = Words::of(name);
    let mut value = |index: usize| match fill {
        Fill::Number(number) => *number,
        Fill::Named(Named::Index) => index as f64,
        Fill::Named(Named::Random) if is_float(dtype) => (words.next() >> 11) as f64 / 2f64.powi(52) - 1.0,
        Fill::Named(Named::Random) => (words.next() % 100) as f64,
        Fill::Named(Named::Zero | Named::Nan) => 0.0,
    };
    let mut out = Vec::with_capacity(elements.saturating_mul(dtype.bitsize()) / 8);
    (0..elements).all(|index| push(&mut out, value(index), dtype)).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_from_every_dtype_that_holds_them() {
        let all = [
            Dtype::U8,
            Dtype::I8,
            Dtype::U16,
            Dtype::I16,
            Dtype::U32,
            Dtype::I32,
            Dtype::U64,
            Dtype::I64,
            Dtype::F16,
            Dtype::BF16,
            Dtype::F32,
            Dtype::F64,
        ];
        let mut bytes = Vec::new();
        for value in [0.0, 1.0, 17.0, 96.0] {
            assert!(push(&mut bytes, value, Dtype::F64));
        }
        for dtype in all {
            let there = cast(&bytes, Dtype::F64, dtype).unwrap_or_default();
            assert_eq!(there.len(), 4 * dtype.bitsize() / 8, "{dtype:?}");
            assert_eq!(cast(&there, dtype, Dtype::F64).as_ref(), Some(&bytes), "{dtype:?}");
        }
        assert_eq!(cast(&[0, 0, 0x80, 0x3f], Dtype::F32, Dtype::BF16), Some(vec![0x80, 0x3f]));
        assert_eq!(cast(&[0], Dtype::F8_E4M3, Dtype::F32), None);
    }

    #[test]
    fn a_fill_is_settled_by_its_name_and_lies_in_its_range() {
        let numbers =
            |bytes: Vec<u8>| bytes.chunks_exact(4).map(|one| number(one, Dtype::F32)).collect::<Option<Vec<_>>>();
        let random = |name| filled(&Fill::Named(Named::Random), name, Dtype::F32, 1000).and_then(numbers);
        let values = random("a").unwrap_or_default();
        assert_eq!(Some(&values), random("a").as_ref());
        assert_ne!(Some(&values), random("b").as_ref());
        assert!(values.len() == 1000 && values.iter().all(|v| v.abs() <= 1.0) && values.iter().any(|v| *v < -0.5));
        let index = filled(&Fill::Named(Named::Index), "a", Dtype::U16, 3);
        assert_eq!(index, Some(vec![0, 0, 1, 0, 2, 0]));
        assert_eq!(filled(&Fill::Number(-2.0), "a", Dtype::I8, 2), Some(vec![0xfe, 0xfe]));
    }
}
