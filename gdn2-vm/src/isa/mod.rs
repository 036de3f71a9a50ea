//! The instruction set: decoded operations, and how statements become them.

pub(crate) mod cfg;
pub(crate) mod class;
pub(crate) mod decode;
pub(crate) mod entry;
pub(crate) mod hopper;
pub(crate) mod inst;
pub(crate) mod operand;
pub(crate) mod operators;
