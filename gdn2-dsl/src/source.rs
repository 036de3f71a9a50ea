//! Rules in Rust source: the `delta_rule!` and `include_rule!` calls of a file, found by its tokens without expanding
//! anything.

use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};

use crate::rule::Rule;
use crate::tokens::parse_rule_body;

/// What a macro call of a source file names.
#[derive(Clone, Debug, PartialEq)]
pub enum InSource {
    /// A rule written in place. Its documentation, which no kernel depends on, is left out.
    Rule(Box<Rule>),
    /// A rule file, relative to the crate's Cargo.toml, with `#RULE` where one of several is meant.
    File(String),
}

/// Why rules could not be read from a source file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(String);

/// The rules of every `delta_rule!` and `include_rule!` call in Rust source, in order.
///
/// # Errors
/// Source that is no Rust, or the first mistake of a rule in it.
pub fn rules_in_source(text: &str) -> Result<Vec<InSource>, SourceError> {
    let mut found = Vec::new();
    if text.contains("delta_rule") || text.contains("include_rule") {
        let tokens = text.parse::<TokenStream>();
        let tokens = tokens.map_err(|error| SourceError(format!("this is no Rust source: {error}")))?;
        calls(tokens, &mut found)?;
    }
    Ok(found)
}

/// Finds `NAME ! GROUP` at any depth.
fn calls(tokens: TokenStream, found: &mut Vec<InSource>) -> Result<(), SourceError> {
    let trees: Vec<TokenTree> = tokens.into_iter().collect();
    for (at, tree) in trees.iter().enumerate() {
        let TokenTree::Group(group) = tree else { continue };
        let name = match at.checked_sub(2).and_then(|start| trees.get(start..at)) {
            Some([TokenTree::Ident(name), TokenTree::Punct(mark)]) if mark.as_char() == '!' => name.to_string(),
            _ => String::new(),
        };
        match name.as_str() {
            "delta_rule" => modules(group.stream(), found)?,
            "include_rule" => found.extend(path(group.stream()).map(InSource::File)),
            _ => calls(group.stream(), found)?,
        }
    }
    Ok(())
}

/// The rules of `mod NAME { body }` items. What is no such item is for the macro to complain about.
fn modules(tokens: TokenStream, found: &mut Vec<InSource>) -> Result<(), SourceError> {
    let trees: Vec<TokenTree> = tokens.into_iter().collect();
    for window in trees.windows(3) {
        let [TokenTree::Ident(word), TokenTree::Ident(name), TokenTree::Group(body)] = window else { continue };
        if *word == "mod" && body.delimiter() == Delimiter::Brace {
            found.push(InSource::Rule(Box::new(rule(name, body.stream())?)));
        }
    }
    Ok(())
}

fn rule(name: &Ident, body: TokenStream) -> Result<Rule, SourceError> {
    parse_rule_body(name, "", body).map_err(|mistakes| {
        let words: Vec<String> = mistakes.iter().map(|mistake| mistake.in_words()).collect();
        SourceError(format!("rule `{name}`: {}", words.join("\n")))
    })
}

/// The string among the arguments.
fn path(tokens: TokenStream) -> Option<String> {
    let literal = tokens.into_iter().find_map(|tree| match tree {
        TokenTree::Literal(literal) => Some(literal.to_string()),
        _ => None,
    })?;
    let raw = literal.strip_prefix('r').map(|text| text.trim_matches('#'));
    let quoted = raw.unwrap_or(&literal).strip_prefix('"')?.strip_suffix('"')?;
    Some(if raw.is_some() { quoted.to_owned() } else { quoted.replace("\\\\", "\\").replace("\\\"", "\"") })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    const BODY: &str = "decay: scalar; erase: none; write: none; key_dim: 32; value_dim: 32; dtype: bf16;";

    #[test]
    fn calls_are_found_at_any_depth() {
        let text = format!(
            r##"//! Words about delta_rule!.
            gdn2::delta_rule! {{ crate = ::other; /// First.
              pub mod one {{ {BODY} }} mod two {{ {BODY} }} }}
            mod inner {{ fn f() {{ ::gdn2::include_rule!(pub(crate) "rules/a.gdn2#b", crate = ::other); }} }}
            macro_rules! mine {{ ($file:literal) => {{ gdn2::include_rule!($file); }} }}
            gdn2::include_rule!(r#"rules\c.gdn2"#);"##
        );
        let found = rules_in_source(&text).unwrap();
        let names: Vec<String> = found
            .iter()
            .map(|found| match found {
                InSource::Rule(rule) => rule.name.clone(),
                InSource::File(path) => path.clone(),
            })
            .collect();
        assert_eq!(names, ["one", "two", "rules/a.gdn2#b", "rules\\c.gdn2"]);
    }

    #[test]
    fn mistakes_name_the_rule() {
        let wrong = "\ngdn2::delta_rule! {\n  mod one { decay: scalr; } }";
        let error = rules_in_source(wrong).unwrap_err().to_string();
        assert!(error.starts_with("rule `one`: ") && error.contains("scalr"), "{error}");
        assert!(rules_in_source("fn delta_rule() { (").unwrap_err().to_string().contains("no Rust source"));
        assert_eq!(rules_in_source("not ( rust").unwrap(), [], "a file without macros is not read");
    }
}
