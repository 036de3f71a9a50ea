//! Rules in Rust source: the `delta_rule!` and `include_rule!` calls of a file, found by its tokens without expanding
//! anything.

use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};

use crate::kernel_text::{self, KernelText};
use crate::rule::Rule;
use crate::tokens::{SpannedError, parse_rule_body};

/// What a macro call of a source file names.
#[derive(Clone, Debug)]
pub struct InSource {
    /// The rule, or rules.
    pub rule: Named,
    /// Texts that stand for its kernels.
    pub kernels: Vec<KernelText>,
}

/// Where a rule stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Named {
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
            "include_rule" => {
                let trees: Vec<TokenTree> = group.stream().into_iter().collect();
                let (kernels, rest) = kernels(&trees)?;
                found.extend(path(rest).map(|file| InSource { rule: Named::File(file), kernels }));
            }
            _ => calls(group.stream(), found)?,
        }
    }
    Ok(())
}

/// The rules of `mod NAME { body }` items. What is no such item is for the macro to complain about.
fn modules(tokens: TokenStream, found: &mut Vec<InSource>) -> Result<(), SourceError> {
    let trees: Vec<TokenTree> = tokens.into_iter().collect();
    let mut rest = trees.as_slice();
    while !rest.is_empty() {
        let (kernels, item) = kernels(rest)?;
        let is_module = |window: &[TokenTree]| {
            let [TokenTree::Ident(word), TokenTree::Ident(_), TokenTree::Group(body)] = window else { return false };
            *word == "mod" && body.delimiter() == Delimiter::Brace
        };
        let Some(at) = item.windows(3).position(is_module) else { break };
        if let Some([_, TokenTree::Ident(name), TokenTree::Group(body)]) = item.get(at..at + 3) {
            let rule = Named::Rule(Box::new(rule(name, body.stream())?));
            found.push(InSource { rule, kernels });
        }
        rest = item.get(at + 3..).unwrap_or_default();
    }
    Ok(())
}

/// The kernels' texts that the attributes in front of an item name, and what comes after those.
fn kernels(trees: &[TokenTree]) -> Result<(Vec<KernelText>, &[TokenTree]), SourceError> {
    let mut named = Vec::new();
    let mut rest = trees;
    // Before the first item there may be `crate = path;`.
    if let Some(end) = rest.iter().position(|tree| matches!(tree, TokenTree::Punct(mark) if mark.as_char() == ';'))
        && matches!(rest, [TokenTree::Ident(word), TokenTree::Punct(_), ..] if *word == "crate")
    {
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    while let [TokenTree::Punct(mark), TokenTree::Group(attribute), others @ ..] = rest
        && mark.as_char() == '#'
    {
        match KernelText::parse(attribute.stream()) {
            Some(Ok(kernel)) => named.push(kernel),
            Some(Err(mistake)) => return Err(said(&mistake)),
            None => {}
        }
        rest = others;
    }
    Ok((named, rest))
}

fn said(mistake: &SpannedError) -> SourceError {
    SourceError(mistake.in_words())
}

fn rule(name: &Ident, body: TokenStream) -> Result<Rule, SourceError> {
    parse_rule_body(name, "", body).map_err(|mistakes| {
        let words: Vec<String> = mistakes.iter().map(|mistake| mistake.in_words()).collect();
        SourceError(format!("rule `{name}`: {}", words.join("\n")))
    })
}

/// The string among the arguments.
fn path(arguments: &[TokenTree]) -> Option<String> {
    let literal = arguments.iter().find_map(|tree| match tree {
        TokenTree::Literal(literal) => Some(literal.to_string()),
        _ => None,
    })?;
    kernel_text::text(&literal)
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
            .map(|found| match &found.rule {
                Named::Rule(rule) => rule.name.clone(),
                Named::File(path) => path.clone(),
            })
            .collect();
        assert_eq!(names, ["one", "two", "rules/a.gdn2#b", "rules\\c.gdn2"]);
    }

    #[test]
    fn kernels_go_with_the_rule_they_stand_before() {
        let text = format!(
            r#"gdn2::delta_rule! {{ crate = ::other;
              /// One.
              #[kernel(forward, "a.cu")] #[allow(missing_docs)] #[kernel(decode, "b.cu", from = "12")]
              pub mod one {{ {BODY} }} mod two {{ {BODY} }} }}
            gdn2::include_rule!(#[kernel(backward, "c.cu")] pub "rules/c.gdn2");"#
        );
        let files = |found: &InSource| found.kernels.iter().map(|kernel| kernel.file.clone()).collect::<Vec<_>>();
        let found = rules_in_source(&text).unwrap();
        assert_eq!(found.iter().map(files).collect::<Vec<_>>(), [vec!["a.cu", "b.cu"], vec![], vec!["c.cu"]]);
        assert_eq!(found[2].rule, Named::File("rules/c.gdn2".to_owned()));
        let wrong = format!("gdn2::delta_rule! {{ #[kernel(forward)] mod one {{ {BODY} }} }}");
        assert!(rules_in_source(&wrong).unwrap_err().to_string().contains("expected a file"));
    }

    #[test]
    fn mistakes_name_the_rule() {
        let wrong = "\ngdn2::delta_rule! {\n  mod one { decay: scalr; } }";
        let error = rules_in_source(wrong).unwrap_err().to_string();
        assert!(error.starts_with("rule `one`: ") && error.contains("scalr"), "{error}");
        assert!(rules_in_source("fn delta_rule() { (").unwrap_err().to_string().contains("no Rust source"));
        assert!(rules_in_source("not ( rust").unwrap().is_empty(), "a file without macros is not read");
    }
}
