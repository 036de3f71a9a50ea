//! Macro tokens to a rule: the same grammar as a file's, every mistake on its own token.

use proc_macro2::{Delimiter, Ident, Span, TokenStream, TokenTree, token_stream::IntoIter};

use crate::check::check;
use crate::mistake::Mistake;
use crate::parse::parse_body;
use crate::rule::Rule;
use crate::spec::{Kind, Token};

/// A mistake in macro tokens.
pub type SpannedError = Mistake<Span>;

/// Reads the body of `rule NAME { body }` from macro tokens; `name` and `doc` come from the item around it.
///
/// # Errors
/// Every mistake of the body, each with the span of the token it was made on.
pub fn parse_rule_body(name: &Ident, doc: &str, tokens: TokenStream) -> Result<Rule, Vec<SpannedError>> {
    let mut mistakes = Vec::new();
    let tokens = flatten(tokens);
    let end = tokens.last().map_or_else(|| name.span(), |token| token.span);
    let spec = parse_body(name.to_string(), name.span(), doc.to_string(), &tokens, end, &mut mistakes);
    let rule = check(&spec, &mut mistakes);
    match rule {
        Some(rule) if mistakes.is_empty() => Ok(rule),
        _ => Err(mistakes),
    }
}

/// Token trees to a flat list, walked with a stack of its own so that nesting costs no call depth.
fn flatten(stream: TokenStream) -> Vec<Token<Span>> {
    let mut tokens: Vec<Token<Span>> = Vec::new();
    let mut stack: Vec<(IntoIter, Option<(char, Span)>)> = vec![(stream.into_iter(), None)];
    while let Some((trees, close)) = stack.last_mut() {
        let Some(tree) = trees.next() else {
            if let Some((c, span)) = close.take() {
                tokens.push(Token { kind: Kind::Close(c), span });
            }
            stack.pop();
            continue;
        };
        let span = tree.span();
        match tree {
            TokenTree::Ident(ident) => tokens.push(Token { kind: Kind::Ident(ident.to_string()), span }),
            TokenTree::Punct(punct) => tokens.push(Token { kind: Kind::Punct(punct.as_char()), span }),
            TokenTree::Literal(literal) => {
                let text = literal.to_string();
                let number = text.starts_with(|c: char| c.is_ascii_digit() || c == '-');
                tokens.push(Token { kind: if number { Kind::Number(text) } else { Kind::Literal }, span });
            }
            TokenTree::Group(group) => {
                let pair = match group.delimiter() {
                    Delimiter::Brace => Some(('{', '}')),
                    Delimiter::Bracket => Some(('[', ']')),
                    Delimiter::Parenthesis => Some(('(', ')')),
                    Delimiter::None => None,
                };
                // A doc comment arrives as `#[doc = "..."]`; inside a body it is only ever refused, so its text is not kept.
                let is_doc = pair == Some(('[', ']')) && is_doc_attribute(&group.stream());
                if is_doc && matches!(tokens.last(), Some(Token { kind: Kind::Punct('#'), .. })) {
                    tokens.pop();
                    tokens.push(Token { kind: Kind::Doc(String::new()), span });
                    continue;
                }
                if let Some((open, _)) = pair {
                    tokens.push(Token { kind: Kind::Open(open), span: group.span_open() });
                }
                let close = pair.map(|(_, close)| (close, group.span_close()));
                stack.push((group.stream().into_iter(), close));
            }
        }
    }
    tokens
}

fn is_doc_attribute(stream: &TokenStream) -> bool {
    matches!(stream.clone().into_iter().next(), Some(TokenTree::Ident(ident)) if ident == "doc")
}
