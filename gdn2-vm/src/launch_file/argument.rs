//! An argument of a launch file: a place in a buffer, a scalar by the name of its type, bytes, a tensor map.

use std::collections::BTreeMap;

use half::{bf16, f16};
use serde::Deserialize;

use super::{LaunchFileError, Placed, refused};
use crate::api::Value;
use crate::memory::tensor_map::{MapType, Swizzle, TensorMap};

/// What an argument may be, for what is said of one that is none.
const KINDS: &str = "buffer (and offset), pointer, bytes, tensor_map, or a scalar by its type: bool, i8, u8, i16, u16, \
                     i32, u32, i64, u64, f16, bf16, f32, f64";

/// An argument.
#[derive(Debug)]
pub(super) enum Argument {
    /// An address in a buffer.
    Buffer {
        /// Its name.
        buffer: String,
        /// Bytes from its start.
        offset: u64,
    },
    /// Its value is settled.
    Value(Value),
    /// A tensor map.
    Map(Map),
}

/// The fields of a tensor map.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Map {
    buffer: String,
    element: String,
    dims: Vec<u64>,
    #[serde(default)]
    strides: Vec<u64>,
    tile: Vec<u32>,
    #[serde(default)]
    swizzle: u32,
    #[serde(default)]
    fill_nan: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    buffer: String,
    #[serde(default)]
    offset: u64,
}

impl Argument {
    /// Reads one.
    pub(super) fn read(given: &serde_json::Value) -> Result<Argument, LaunchFileError> {
        let none = || refused(format!("give one of {KINDS}; got {given}"));
        let fields = given.as_object().ok_or_else(none)?;
        if fields.contains_key("buffer") {
            let Place { buffer, offset } =
                Place::deserialize(given).map_err(|error| refused(format!("{error} in {given}")))?;
            return Ok(Argument::Buffer { buffer, offset });
        }
        let mut fields = fields.iter();
        let (Some((kind, value)), None) = (fields.next(), fields.next()) else { return Err(none()) };
        match kind.as_str() {
            "tensor_map" => {
                Map::deserialize(value).map(Argument::Map).map_err(|error| refused(format!("tensor_map: {error}")))
            }
            "pointer" => value.as_u64().map(|at| Argument::Value(Value::Pointer(at))).ok_or_else(none),
            "bytes" => {
                let bytes = Vec::<u8>::deserialize(value).map_err(|error| refused(format!("bytes: {error}")))?;
                Ok(Argument::Value(Value::Bytes(bytes)))
            }
            scalar => scalar_of(scalar, value)?.map(Argument::Value).ok_or_else(none),
        }
    }

    /// Bytes that one copy moves, of a tensor map.
    pub(super) fn tile_bytes(&self) -> Option<u32> {
        let Argument::Map(map) = self else { return None };
        let bytes = map.element().map_or(4, |element| element.bytes());
        Some(map.tile.iter().product::<u32>() * bytes)
    }

    /// The value that the kernel is given.
    pub(super) fn value(&self, buffers: &BTreeMap<String, Placed>) -> Result<Value, LaunchFileError> {
        let place = |name: &str| {
            let known = || buffers.keys().cloned().collect::<Vec<_>>().join(", ");
            let found = buffers.get(name).map(|b| b.address);
            found.ok_or_else(|| refused(format!("no buffer `{name}`; the launch has {}", known())))
        };
        match self {
            Argument::Buffer { buffer, offset } => Ok(Value::Pointer(place(buffer)?.0.wrapping_add(*offset))),
            Argument::Value(value) => Ok(value.clone()),
            Argument::Map(map) => {
                let swizzle = match map.swizzle {
                    0 => Swizzle::None,
                    32 => Swizzle::B32,
                    64 => Swizzle::B64,
                    128 => Swizzle::B128,
                    other => return Err(refused(format!("swizzle {other}: use 0, 32, 64 or 128"))),
                };
                let element = map.element();
                let element =
                    element.ok_or_else(|| refused(format!("tensor map element `{}` is unknown", map.element)))?;
                let map = TensorMap {
                    element,
                    address: place(&map.buffer)?,
                    dims: map.dims.clone(),
                    strides: map.strides.clone(),
                    tile: map.tile.clone(),
                    swizzle,
                    fill_nan: map.fill_nan,
                };
                Ok(Value::Bytes(map.encode().map_err(|error| refused(error.to_string()))?.to_vec()))
            }
        }
    }
}

impl Map {
    fn element(&self) -> Option<MapType> {
        Some(match self.element.to_ascii_lowercase().as_str() {
            "u8" => MapType::U8,
            "u16" => MapType::U16,
            "u32" => MapType::U32,
            "i32" => MapType::I32,
            "u64" => MapType::U64,
            "f16" => MapType::F16,
            "bf16" => MapType::Bf16,
            "f32" => MapType::F32,
            "f64" => MapType::F64,
            _ => return None,
        })
    }
}

/// A scalar by the name of its type; none where no type has this name.
fn scalar_of(kind: &str, value: &serde_json::Value) -> Result<Option<Value>, LaunchFileError> {
    let wrong = || refused(format!("{kind} argument {value} is no {kind}"));
    let whole = |bits: u32, signed: bool| {
        let number = value.as_i64().map(i128::from).or(value.as_u64().map(i128::from)).ok_or_else(wrong)?;
        // Either way of writing so many bits, where the type has a sign.
        let lowest = if signed { -(1i128 << (bits - 1)) } else { 0 };
        if number < lowest || number >= 1i128 << bits {
            return Err(refused(format!("{kind} argument {number} does not fit {bits} bits")));
        }
        Ok(number as u64)
    };
    let float = || match value {
        serde_json::Value::String(text) => text.parse::<f64>().map_err(|_| wrong()),
        other => other.as_f64().ok_or_else(wrong),
    };
    Ok(Some(match kind {
        "bool" => Value::Bytes(vec![u8::from(value.as_bool().ok_or_else(wrong)?)]),
        "i8" | "u8" => Value::Bytes(vec![whole(8, kind == "i8")? as u8]),
        "i16" | "u16" => Value::Bytes((whole(16, kind == "i16")? as u16).to_le_bytes().to_vec()),
        "i32" | "u32" => Value::I32(whole(32, kind == "i32")? as i32),
        "i64" | "u64" => Value::I64(whole(64, kind == "i64")?.cast_signed()),
        "f16" => Value::Bytes(f16::from_f64(float()?).to_le_bytes().to_vec()),
        "bf16" => Value::Bytes(bf16::from_f64(float()?).to_le_bytes().to_vec()),
        "f32" => Value::F32(float()? as f32),
        "f64" => Value::Bytes(float()?.to_le_bytes().to_vec()),
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Value, String> {
        let given = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let argument = Argument::read(&given).map_err(|error| error.to_string())?;
        argument.value(&BTreeMap::new()).map_err(|error| error.to_string())
    }

    #[test]
    fn scalars_are_of_the_type_that_is_named() {
        assert_eq!(read(r#"{"bool": true}"#), Ok(Value::Bytes(vec![1])));
        assert_eq!(read(r#"{"i8": -1}"#), Ok(Value::Bytes(vec![255])));
        assert_eq!(read(r#"{"u16": 65535}"#), Ok(Value::Bytes(vec![255, 255])));
        assert_eq!(read(r#"{"u32": 4294967295}"#), Ok(Value::I32(-1)));
        assert_eq!(read(r#"{"i32": 4294967295}"#), Ok(Value::I32(-1)));
        assert_eq!(read(r#"{"u64": 18446744073709551615}"#), Ok(Value::I64(-1)));
        assert_eq!(read(r#"{"bf16": 1}"#), Ok(Value::Bytes(vec![0x80, 0x3f])));
        assert_eq!(read(r#"{"f16": 1.0}"#), Ok(Value::Bytes(vec![0, 0x3c])));
        assert_eq!(read(r#"{"f32": "-inf"}"#), Ok(Value::F32(f32::NEG_INFINITY)));
        assert_eq!(read(r#"{"f64": 0.1}"#), Ok(Value::Bytes(0.1f64.to_le_bytes().to_vec())));
        assert_eq!(read(r#"{"pointer": 0}"#), Ok(Value::Pointer(0)));
    }

    #[test]
    fn what_is_no_argument_is_told_what_is() {
        for (text, says) in [
            (r#"{"u8": 256}"#, "does not fit 8 bits"),
            (r#"{"u32": -1}"#, "does not fit 32 bits"),
            (r#"{"i32": 0.5}"#, "is no i32"),
            (r#"{"bool": 1}"#, "is no bool"),
            (r#"{"f32": "much"}"#, "is no f32"),
            (r#"{"int": 1}"#, "bf16"),
            (r#"{"i32": 1, "i64": 1}"#, "tensor_map"),
            ("7", "tensor_map"),
            (r#"{"buffer": "x", "ofset": 4}"#, "ofset"),
            (r#"{"buffer": "x"}"#, "no buffer `x`"),
            (r#"{"tensor_map": {"buffer": "x"}}"#, "element"),
        ] {
            let refused = read(text);
            assert!(refused.as_ref().is_err_and(|error| error.contains(says)), "{text}: {refused:?}");
        }
    }
}
