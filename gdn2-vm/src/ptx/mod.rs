//! From PTX text to statements: tokens, declarations, calls written out, names linked.

pub(crate) mod calls;
pub(crate) mod inline;
pub(crate) mod lex;
pub(crate) mod link;
mod operand;
pub(crate) mod parse;
pub(crate) mod text;
mod variable;
