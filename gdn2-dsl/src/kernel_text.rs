//! `#[kernel(PASS, "FILE", from = "HASH")]` in a macro call: a text that stands for the kernel of one pass of a rule. What
//! passes and texts there are is the generator's to know.

use proc_macro2::{Delimiter, Group, Span, TokenStream, TokenTree};

use crate::mistake::Mistake;
use crate::tokens::SpannedError;

/// How one is written.
const FORM: &str = "`#[kernel(PASS, \"FILE\", from = \"HASH\")]`, such as `#[kernel(forward, \"edited/mine.cu\")]`";

/// A kernel's text as a macro call names it.
#[derive(Clone, Debug)]
pub struct KernelText {
    /// The pass, as written.
    pub pass: String,
    /// Where that stands.
    pub pass_span: Span,
    /// The file, relative to the crate's Cargo.toml.
    pub file: String,
    /// Where that stands.
    pub file_span: Span,
    /// The hash of the generated text that the file was made from, or the beginning of it.
    pub from: Option<(String, Span)>,
}

impl KernelText {
    /// Reads what an attribute holds in its brackets; `None` where it is not `kernel(…)`.
    ///
    /// # Errors
    /// What is missing or too much, on its token.
    pub fn parse(attribute: TokenStream) -> Option<Result<KernelText, SpannedError>> {
        let mut trees = attribute.into_iter();
        match (trees.next()?, trees.next()) {
            (TokenTree::Ident(word), Some(TokenTree::Group(group)))
                if word == "kernel" && group.delimiter() == Delimiter::Parenthesis =>
            {
                Some(arguments(&group))
            }
            (TokenTree::Ident(word), _) if word == "kernel" => Some(Err(mistake(word.span(), "a pass and a file"))),
            _ => None,
        }
    }
}

fn mistake(span: Span, expected: &str) -> SpannedError {
    Mistake::new(span, format!("expected {expected}"), "here").note(format!("a kernel's text is named as {FORM}"))
}

/// `PASS, "FILE"[, from = "HASH"][,]`.
fn arguments(group: &Group) -> Result<KernelText, SpannedError> {
    let trees: Vec<TokenTree> = group.stream().into_iter().collect();
    let parts: Vec<&[TokenTree]> =
        trees.split(|tree| matches!(tree, TokenTree::Punct(mark) if mark.as_char() == ',')).collect();
    let end = group.span_close();
    let at = |part: &[TokenTree]| part.first().map_or(end, TokenTree::span);
    let parts = match parts.as_slice() {
        [rest @ .., []] => rest,
        all => all,
    };
    let (pass, file, from) = match parts {
        [] => return Err(mistake(end, "a pass: forward, backward or decode")),
        [_] => return Err(mistake(end, "a file: the path of its text as a string")),
        [pass, file] => (pass, file, None),
        [pass, file, from] => (pass, file, Some(*from)),
        [_, _, _, more, ..] => return Err(mistake(at(more), "no more than a pass, a file and `from`")),
    };
    // Names of passes hold dashes, which are tokens of their own.
    let name: String = pass.iter().map(ToString::to_string).collect();
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)) {
        return Err(mistake(at(pass), "a pass: forward, backward or decode"));
    }
    let path = match file {
        [TokenTree::Literal(literal)] => text(&literal.to_string()),
        _ => None,
    };
    let path = path.ok_or_else(|| mistake(at(file), "a file: the path of its text as a string"))?;
    let hash = |part: &[TokenTree]| {
        let given = match part {
            [TokenTree::Ident(word), TokenTree::Punct(mark), TokenTree::Literal(literal)]
                if word == "from" && mark.as_char() == '=' =>
            {
                text(&literal.to_string()).map(|hash| (hash, literal.span()))
            }
            _ => None,
        };
        given.ok_or_else(|| mistake(at(part), "`from = \"HASH\"`"))
    };
    let from = from.map(hash).transpose()?;
    Ok(KernelText { pass: name, pass_span: at(pass), file: path, file_span: at(file), from })
}

/// What a string literal says.
pub(crate) fn text(literal: &str) -> Option<String> {
    let raw = literal.strip_prefix('r').map(|text| text.trim_matches('#'));
    let quoted = raw.unwrap_or(literal).strip_prefix('"')?.strip_suffix('"')?;
    Some(if raw.is_some() { quoted.to_owned() } else { quoted.replace("\\\\", "\\").replace("\\\"", "\"") })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    fn read(attribute: &str) -> Option<Result<KernelText, SpannedError>> {
        KernelText::parse(attribute.parse().unwrap())
    }

    #[test]
    fn what_is_named_is_read() {
        for end in ["", ","] {
            let whole = format!(r#"kernel(forward-for-backward, "edited/a.cu", from = "0123"{end})"#);
            let whole = read(&whole).unwrap().unwrap();
            assert_eq!((whole.pass.as_str(), whole.file.as_str()), ("forward-for-backward", "edited/a.cu"));
            assert_eq!(whole.from.unwrap().0, "0123");
            let short = read(&format!(r##"kernel(decode, r#"b.cu"#{end})"##)).unwrap().unwrap();
            assert_eq!((short.pass.as_str(), short.file.as_str()), ("decode", "b.cu"));
            assert!(short.from.is_none());
        }
        assert!(read("derive(Debug)").is_none() && read(r#"doc = "kernel""#).is_none());
    }

    #[test]
    fn what_is_missing_or_too_much_is_said() {
        for (attribute, said) in [
            ("kernel", "a pass and a file"),
            ("kernel()", "a pass: "),
            ("kernel(forward)", "a file: "),
            ("kernel(forward,)", "a file: "),
            ("kernel(forward, mine)", "a file: "),
            (r#"kernel("mine.cu", forward)"#, "a pass: "),
            (r#"kernel(forward, "mine.cu", "0123")"#, "`from = "),
            (r#"kernel(forward, "mine.cu", from = 12)"#, "`from = "),
            (r#"kernel(forward, "mine.cu", from = "1", 2)"#, "no more than"),
        ] {
            let words = read(attribute).unwrap().unwrap_err().in_words();
            assert!(words.contains(said) && words.contains("such as `#[kernel("), "{attribute}: {words}");
        }
    }
}
