//! The syntax of a rule, spans kept, meaning not yet asked.

use crate::formula::syntax::Syntax;

/// One token of the rule language; every one is a Rust token too.
#[derive(Clone, Debug)]
pub(crate) struct Token<S> {
    pub kind: Kind,
    pub span: S,
}

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Ident(String),
    Number(String),
    /// A string, character or other literal: no rule has a use for one.
    Literal,
    Punct(char),
    Open(char),
    Close(char),
    /// A doc comment's text.
    Doc(String),
}

/// A rule as written.
#[derive(Clone, Debug)]
pub(crate) struct Spec<S> {
    pub name: String,
    pub name_span: S,
    pub doc: String,
    pub fields: Vec<Field<S>>,
    pub declarations: Vec<Declaration<S>>,
    /// The closing brace was never found: what is missing may have been lost with it.
    pub truncated: bool,
}

/// `key: value;`
#[derive(Clone, Debug)]
pub(crate) struct Field<S> {
    pub key: String,
    pub key_span: S,
    /// Its place among the body's fields and declarations.
    pub place: usize,
    /// None where the value could not be read; that mistake is already reported.
    pub value: Option<Value<S>>,
}

/// `param name: value;` or `let name: value;`
#[derive(Clone, Debug)]
pub(crate) struct Declaration<S> {
    pub is_let: bool,
    pub name: String,
    pub name_span: S,
    /// Its place among the body's fields and declarations.
    pub place: usize,
    /// None where the value could not be read; that mistake is already reported.
    pub value: Option<Value<S>>,
}

/// A word or number with its optional `as` and `in` clauses and its formula.
#[derive(Clone, Debug)]
pub(crate) struct Value<S> {
    pub head: Head,
    pub head_span: S,
    pub storage: Option<Storage<S>>,
    pub bound: Option<Interval<S>>,
    pub formula: Option<Written<S>>,
}

/// What stands after `=`.
#[derive(Clone, Debug)]
pub(crate) enum Written<S> {
    /// A formula's operations.
    Read(Syntax<S>),
    /// A formula with a mistake that is already reported.
    Unreadable,
}

/// What stands first in a value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Head {
    Word(String),
    Number(String),
}

/// `as dtype`
#[derive(Clone, Debug)]
pub(crate) struct Storage<S> {
    pub dtype: String,
    pub dtype_span: S,
    /// The whole clause.
    pub span: S,
}

/// `in [lower, upper]`, numbers as written.
#[derive(Clone, Debug)]
pub(crate) struct Interval<S> {
    pub lower: String,
    pub upper: String,
    /// The whole clause.
    pub span: S,
}

impl Head {
    /// The text as written.
    pub fn text(&self) -> &str {
        match self {
            Head::Word(text) | Head::Number(text) => text,
        }
    }
}

impl Kind {
    /// How a message names the token.
    pub fn describe(&self) -> String {
        match self {
            Kind::Ident(word) | Kind::Number(word) => format!("`{word}`"),
            Kind::Literal => "a string literal".to_string(),
            Kind::Punct(c) | Kind::Open(c) | Kind::Close(c) => format!("`{c}`"),
            Kind::Doc(_) => "a doc comment".to_string(),
        }
    }
}
