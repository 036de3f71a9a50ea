//! What the chunked passes share: the limits of a scan over a sequence, the order of a chunk's stages, its copies.

pub(crate) mod copies;
pub(crate) mod formulas;
pub(crate) mod numbers;
pub(crate) mod text;
