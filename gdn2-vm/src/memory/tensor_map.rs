//! Tensor maps: the 128 bytes that describe a tile of device memory to a tensor copy.
//!
//! The encoding is the machine's own; a host that launches on a GPU builds the driver's from the same fields.

use crate::api::Address;

/// Element types of a tensor map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapType {
    /// 8 bits, opaque.
    U8,
    /// 16 bits, opaque.
    U16,
    /// 32-bit unsigned integer.
    U32,
    /// 32-bit signed integer.
    I32,
    /// 64-bit unsigned integer.
    U64,
    /// Half precision.
    F16,
    /// Brain float.
    Bf16,
    /// Single precision.
    F32,
    /// Double precision.
    F64,
}

impl MapType {
    const ALL: [Self; 9] =
        [Self::U8, Self::U16, Self::U32, Self::I32, Self::U64, Self::F16, Self::Bf16, Self::F32, Self::F64];

    /// Bytes of an element.
    #[must_use]
    pub fn bytes(self) -> u32 {
        match self {
            Self::U8 => 1,
            Self::U16 | Self::F16 | Self::Bf16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::F64 => 8,
        }
    }
}

/// How 16-byte pieces of a tile's rows are permuted in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Swizzle {
    /// Row after row.
    #[default]
    None,
    /// Within 32 bytes.
    B32,
    /// Within 64 bytes.
    B64,
    /// Within 128 bytes.
    B128,
}

impl Swizzle {
    const ALL: [Self; 4] = [Self::None, Self::B32, Self::B64, Self::B128];

    /// Bytes over which it permutes; 16 without a swizzle.
    pub(crate) fn span(self) -> u32 {
        16 << self as u32
    }

    /// The swizzled place of a shared address: address bits 7 to 9 change bits 4 to 6.
    pub(crate) fn place(self, address: u32, base_offset: u32) -> u32 {
        let mask = (1 << self as u32) - 1;
        address ^ ((((address >> 7).wrapping_sub(base_offset)) & mask) << 4)
    }
}

/// A tile of a tensor of up to five dimensions, innermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Element type.
    pub element: MapType,
    /// First element; a multiple of 16.
    pub address: Address,
    /// Elements of each dimension, innermost first.
    pub dims: Vec<u64>,
    /// Bytes between neighbours of dimension 1 and up; multiples of 16.
    pub strides: Vec<u64>,
    /// Elements of the tile, 1 to 256 each.
    pub tile: Vec<u32>,
    /// Permutation in shared memory.
    pub swizzle: Swizzle,
    /// Elements outside the tensor arrive as NaN instead of zero.
    pub fill_nan: bool,
}

/// Why a tensor map cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorMapError {
    /// A field breaks a limit of the hardware.
    #[error("tensor map: {field} is {got}; {limit}")]
    Limit {
        /// The field.
        field: &'static str,
        /// What it is.
        got: u64,
        /// What it must be.
        limit: &'static str,
    },
}

const MAGIC: u32 = 0x4d32_6467;

impl TensorMap {
    fn check(&self) -> Result<(), TensorMapError> {
        let limit =
            |ok: bool, field, got, limit| if ok { Ok(()) } else { Err(TensorMapError::Limit { field, got, limit }) };
        let rank = self.dims.len();
        limit((1..=5).contains(&rank), "rank", rank as u64, "it must be 1 to 5")?;
        limit(
            self.strides.len() + 1 == rank,
            "number of strides",
            self.strides.len() as u64,
            "one less than the rank",
        )?;
        limit(self.tile.len() == rank, "number of tile sizes", self.tile.len() as u64, "the rank")?;
        limit(self.address.0.is_multiple_of(16), "address", self.address.0, "it must be a multiple of 16")?;
        for &d in &self.dims {
            limit((1..=1 << 32).contains(&d), "dimension", d, "it must be 1 to 2^32")?;
        }
        for &s in &self.strides {
            limit(s % 16 == 0 && s < 1 << 40, "stride", s, "it must be a multiple of 16 below 2^40")?;
        }
        for &t in &self.tile {
            limit((1..=256).contains(&t), "tile size", u64::from(t), "it must be 1 to 256")?;
        }
        let inner = self.inner_bytes();
        limit(inner.is_multiple_of(16), "bytes of a tile row", u64::from(inner), "they must be a multiple of 16")?;
        if self.swizzle != Swizzle::None {
            let span = self.swizzle.span();
            limit(
                inner == span,
                "bytes of a tile row",
                u64::from(inner),
                "with a swizzle the machine knows only rows of its whole span: 32, 64 or 128",
            )?;
        }
        let bytes = self.tile.iter().map(|&t| u64::from(t)).product::<u64>() * u64::from(self.element.bytes());
        limit(bytes <= 1 << 18, "bytes of a tile", bytes, "no shared memory holds more than 2^18")?;
        Ok(())
    }

    pub(crate) fn inner_bytes(&self) -> u32 {
        self.tile.first().map_or(0, |t| t * self.element.bytes())
    }

    /// Bytes of a whole tile.
    #[must_use]
    pub fn tile_bytes(&self) -> u32 {
        self.tile.iter().product::<u32>() * self.element.bytes()
    }

    /// The 128 bytes to pass to the kernel by value.
    ///
    /// # Errors
    /// [`TensorMapError`] names the field that breaks a limit of the hardware.
    pub fn encode(&self) -> Result<[u8; 128], TensorMapError> {
        self.check()?;
        let mut out = [0; 128];
        let mut put = |at: usize, b: &[u8]| out[at..at + b.len()].copy_from_slice(b);
        put(0, &MAGIC.to_le_bytes());
        put(4, &[self.dims.len() as u8, self.element as u8, self.swizzle as u8, u8::from(self.fill_nan)]);
        put(8, &self.address.0.to_le_bytes());
        for (i, d) in self.dims.iter().enumerate() {
            put(16 + 8 * i, &d.to_le_bytes());
        }
        for (i, s) in self.strides.iter().enumerate() {
            put(56 + 8 * i, &s.to_le_bytes());
        }
        for (i, t) in self.tile.iter().enumerate() {
            put(88 + 4 * i, &t.to_le_bytes());
        }
        Ok(out)
    }

    /// Reads 128 bytes back; `None` if they are not an encoded map.
    pub(crate) fn decode(b: &[u8]) -> Option<Self> {
        let u32_at = |at: usize| b.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
        let u64_at = |at: usize| b.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        if u32_at(0)? != MAGIC {
            return None;
        }
        let rank = usize::from(*b.get(4)?);
        let map = Self {
            element: *MapType::ALL.get(usize::from(*b.get(5)?))?,
            swizzle: *Swizzle::ALL.get(usize::from(*b.get(6)?))?,
            fill_nan: *b.get(7)? != 0,
            address: Address(u64_at(8)?),
            dims: (0..rank).map(|i| u64_at(16 + 8 * i)).collect::<Option<_>>()?,
            strides: (1..rank).map(|i| u64_at(48 + 8 * i)).collect::<Option<_>>()?,
            tile: (0..rank).map(|i| u32_at(88 + 4 * i)).collect::<Option<_>>()?,
        };
        map.check().ok().map(|()| map)
    }
}
