//! A rule file's text to tokens with byte spans: the part of Rust's lexical grammar that rules use.
//!
//! Written as one loop without recursion, so no nesting can exhaust the stack; whatever is not a token becomes a mistake.

use crate::mistake::{ByteSpan, Mistake};
use crate::spec::{Kind, Token};

/// Splits `source` into tokens. Comments vanish, doc comments stay.
pub(crate) fn lex(source: &str, mistakes: &mut Vec<Mistake<ByteSpan>>) -> Vec<Token<ByteSpan>> {
    let mut lexer = Lexer { source, at: if source.starts_with('\u{feff}') { 3 } else { 0 } };
    let mut tokens = Vec::new();
    let mut stray: Option<ByteSpan> = None;
    while let Some(first) = lexer.peek() {
        let start = lexer.at;
        let kind = lexer.token(first, mistakes);
        let span = ByteSpan { start, end: lexer.at };
        match kind {
            Lexed::Token(kind) => tokens.push(Token { kind, span }),
            Lexed::Blank => {}
            Lexed::Stray => match &mut stray {
                Some(run) if run.end == span.start => run.end = span.end,
                _ => {
                    mistakes.extend(stray.take().map(stray_mistake));
                    stray = Some(span);
                }
            },
        }
    }
    mistakes.extend(stray.map(stray_mistake));
    tokens
}

fn stray_mistake(span: ByteSpan) -> Mistake<ByteSpan> {
    Mistake::new(span, "these characters are no part of the rule language", "not a token").suggest(
        "remove them",
        span,
        "",
    )
}

enum Lexed {
    Token(Kind),
    Blank,
    Stray,
}

struct Lexer<'s> {
    source: &'s str,
    at: usize,
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> &'s str {
        let rest = self.rest();
        let length = rest.find(|c| !keep(c)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    fn token(&mut self, first: char, mistakes: &mut Vec<Mistake<ByteSpan>>) -> Lexed {
        let rest = self.rest();
        if first.is_whitespace() {
            self.take_while(char::is_whitespace);
            return Lexed::Blank;
        }
        if rest.starts_with("//") {
            return self.line_comment();
        }
        if rest.starts_with("/*") {
            return self.block_comment(mistakes);
        }
        if first.is_alphabetic() || first == '_' {
            return Lexed::Token(Kind::Ident(self.take_while(is_word).to_string()));
        }
        if first.is_ascii_digit() {
            return Lexed::Token(Kind::Number(self.number().to_string()));
        }
        if first == '"' {
            return self.string(mistakes);
        }
        self.at += first.len_utf8();
        match first {
            '{' | '[' | '(' => Lexed::Token(Kind::Open(first)),
            '}' | ']' | ')' => Lexed::Token(Kind::Close(first)),
            '!'..='~' if first != '\\' && first != '`' => Lexed::Token(Kind::Punct(first)),
            _ => Lexed::Stray,
        }
    }

    fn line_comment(&mut self) -> Lexed {
        let line = self.take_while(|c| c != '\n');
        match line.strip_prefix("///") {
            Some(text) if !text.starts_with('/') => {
                let text = text.strip_suffix('\r').unwrap_or(text);
                Lexed::Token(Kind::Doc(text.strip_prefix(' ').unwrap_or(text).to_string()))
            }
            _ => Lexed::Blank,
        }
    }

    fn block_comment(&mut self, mistakes: &mut Vec<Mistake<ByteSpan>>) -> Lexed {
        let (start, rest) = (self.at, self.rest());
        let mut depth = 0usize;
        let mut at = 0;
        loop {
            if rest[at..].starts_with("/*") {
                depth += 1;
                at += 2;
            } else if rest[at..].starts_with("*/") {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    break;
                }
            } else if let Some(c) = rest[at..].chars().next() {
                at += c.len_utf8();
            } else {
                let span = ByteSpan { start, end: start + 2 };
                mistakes.push(Mistake::new(span, "this comment is never closed", "opened here").suggest(
                    "close it",
                    ByteSpan { start: self.source.len(), end: self.source.len() },
                    " */",
                ));
                break;
            }
        }
        self.at += at;
        let text = &rest[..at];
        match text.strip_prefix("/**").and_then(|text| text.strip_suffix("*/")) {
            Some(text) if !text.is_empty() && !text.starts_with('*') => {
                Lexed::Token(Kind::Doc(text.trim().to_string()))
            }
            _ => Lexed::Blank,
        }
    }

    fn number(&mut self) -> &'s str {
        let (start, rest) = (self.at, self.rest());
        self.digits();
        let rest = &rest[self.at - start..];
        let mut after = rest.chars().skip(1);
        if rest.starts_with('.') && !after.next().is_some_and(|c| c == '.' || c == '_' || c.is_alphabetic()) {
            self.at += 1;
            self.digits();
        }
        &self.source[start..self.at]
    }

    /// Digits, suffix and exponent: a sign belongs to the number only after `e` in a decimal one.
    fn digits(&mut self) {
        let word = self.take_while(is_word);
        if word.ends_with(['e', 'E'])
            && word.starts_with(|c: char| c.is_ascii_digit())
            && !word.starts_with("0x")
            && self.rest().starts_with(['+', '-'])
        {
            self.at += 1;
            self.take_while(is_word);
        }
    }

    fn string(&mut self, mistakes: &mut Vec<Mistake<ByteSpan>>) -> Lexed {
        let start = self.at;
        let mut escaped = false;
        for (offset, c) in self.rest().char_indices().skip(1) {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => {
                    self.at = start + offset + 1;
                    return Lexed::Token(Kind::Literal);
                }
                _ => {}
            }
        }
        let span = ByteSpan { start, end: start + 1 };
        mistakes.push(Mistake::new(span, "this string is never closed", "opened here").note("rules hold no strings"));
        self.at = self.source.len();
        Lexed::Token(Kind::Literal)
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
