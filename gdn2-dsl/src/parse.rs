//! Tokens to [`Spec`]s: the grammar, once for files and macros, with recovery at `;` and `}` so that one pass finds
//! every mistake.

use crate::mistake::{Mistake, SourceSpan};
use crate::spec::{Declaration, Field, Head, Interval, Kind, Spec, Storage, Token, Value, Written};

/// Reads `rule NAME { … }` items to the end of the file.
pub(crate) fn parse_items<S: SourceSpan>(tokens: &[Token<S>], end: S, mistakes: &mut Vec<Mistake<S>>) -> Vec<Spec<S>> {
    let mut parser = Parser { tokens, at: 0, end, mistakes };
    let mut specs = Vec::new();
    while parser.at < tokens.len() {
        let doc = parser.doc();
        specs.extend(parser.item(doc));
    }
    specs
}

/// Reads the fields of one rule whose name and braces stand elsewhere.
pub(crate) fn parse_body<S: SourceSpan>(
    name: String,
    name_span: S,
    doc: String,
    tokens: &[Token<S>],
    end: S,
    mistakes: &mut Vec<Mistake<S>>,
) -> Spec<S> {
    let mut parser = Parser { tokens, at: 0, end, mistakes };
    let mut body = Body { fields: Vec::new(), declarations: Vec::new() };
    while parser.at < tokens.len() {
        if let Some(Kind::Close(c)) = parser.kind() {
            parser.stray_close(*c);
            continue;
        }
        parser.part(&mut body);
    }
    let Body { fields, declarations } = body;
    Spec { name, name_span, doc, fields, declarations, truncated: false }
}

/// What a body holds, as far as it is read.
struct Body<S> {
    fields: Vec<Field<S>>,
    declarations: Vec<Declaration<S>>,
}

pub(crate) struct Parser<'t, 'm, S> {
    tokens: &'t [Token<S>],
    pub(crate) at: usize,
    end: S,
    pub(crate) mistakes: &'m mut Vec<Mistake<S>>,
}

impl<'t, S: SourceSpan> Parser<'t, '_, S> {
    pub(crate) fn kind(&self) -> Option<&'t Kind> {
        self.kind_at(0)
    }

    pub(crate) fn kind_at(&self, ahead: usize) -> Option<&'t Kind> {
        self.tokens.get(self.at + ahead).map(|token| &token.kind)
    }

    pub(crate) fn span(&self) -> S {
        self.tokens.get(self.at).map_or(self.end, |token| token.span)
    }

    /// The place of the token `ahead` of the current one.
    pub(crate) fn span_at(&self, ahead: usize) -> S {
        self.tokens.get(self.at + ahead).map_or(self.end, |token| token.span)
    }

    pub(crate) fn previous(&self) -> S {
        self.at.checked_sub(1).and_then(|at| self.tokens.get(at)).map_or(self.end, |token| token.span)
    }

    pub(crate) fn found(&self) -> String {
        self.kind().map_or_else(|| "the end".to_string(), Kind::describe)
    }

    pub(crate) fn is_word(&self, ahead: usize, word: &str) -> bool {
        matches!(self.kind_at(ahead), Some(Kind::Ident(found)) if found == word)
    }

    pub(crate) fn eat(&mut self, kind: &Kind) -> bool {
        let eaten = self.kind() == Some(kind);
        self.at += usize::from(eaten);
        eaten
    }

    fn doc(&mut self) -> String {
        let mut lines: Vec<&str> = Vec::new();
        while let Some(Kind::Doc(line)) = self.kind() {
            lines.push(line);
            self.at += 1;
        }
        lines.join("\n").trim().to_string()
    }

    fn stray_close(&mut self, c: char) {
        let span = self.span();
        self.mistakes.push(Mistake::new(span, format!("`{c}` closes nothing"), "nothing is open here").suggest(
            "remove it",
            span,
            "",
        ));
        self.at += 1;
    }

    /// Whether a new rule starts here, as `rule NAME {` or `rule {`.
    fn at_rule(&self) -> bool {
        self.is_word(0, "rule")
            && match self.kind_at(1) {
                Some(Kind::Ident(_)) => self.kind_at(2) == Some(&Kind::Open('{')),
                next => next == Some(&Kind::Open('{')),
            }
    }

    fn item(&mut self, doc: String) -> Option<Spec<S>> {
        match self.kind() {
            None if doc.is_empty() => return None,
            None => {
                let span = self.previous();
                self.mistakes.push(Mistake::new(
                    span,
                    "this doc comment documents no rule",
                    "expected a rule after it",
                ));
                return None;
            }
            Some(Kind::Close(c)) => {
                self.stray_close(*c);
                return None;
            }
            _ => {}
        }
        let word_span = self.span();
        if !self.is_word(0, "rule") {
            let mut mistake =
                Mistake::new(word_span, format!("expected `rule`, found {}", self.found()), "expected `rule`")
                    .note("a file is a list of `rule NAME { … }`");
            // `kda { … }` lacks the word; `rul kda { … }` has it misspelt.
            let named_body = matches!(self.kind(), Some(Kind::Ident(_)));
            let lacks_word = named_body && self.kind_at(1) == Some(&Kind::Open('{'));
            let misspelt = named_body
                && matches!(self.kind_at(1), Some(Kind::Ident(_)))
                && self.kind_at(2) == Some(&Kind::Open('{'));
            if lacks_word {
                mistake = mistake.suggest("write `rule` before the name", word_span, format!("rule {}", self.bare()));
            } else if misspelt {
                mistake = mistake.suggest("write `rule`", word_span, "rule");
            }
            self.mistakes.push(mistake);
            if !lacks_word && !misspelt {
                self.at += 1;
                while self.kind().is_some() && !self.at_rule() && !matches!(self.kind(), Some(Kind::Doc(_))) {
                    self.at += 1;
                }
                return None;
            }
            self.at += usize::from(misspelt);
        } else {
            self.at += 1;
        }
        let name_span = self.span();
        let name = match self.kind() {
            Some(Kind::Ident(name)) => {
                self.at += 1;
                name.clone()
            }
            _ => {
                let found = self.found();
                self.mistakes.push(
                    Mistake::new(
                        word_span.after(),
                        format!("expected a name after `rule`, found {found}"),
                        "a name is missing",
                    )
                    .suggest("name the rule", word_span.after(), " my_rule"),
                );
                // Stands in for the missing name, so that the body is still read; the mistake keeps the rule from being built.
                "unnamed".to_string()
            }
        };
        let open = self.span();
        if !self.eat(&Kind::Open('{')) {
            let found = self.found();
            self.mistakes.push(
                Mistake::new(
                    self.previous().after(),
                    format!("expected `{{` after the rule's name, found {found}"),
                    "expected `{`",
                )
                .suggest("open the body", self.previous().after(), " {"),
            );
            if !(matches!(self.kind(), Some(Kind::Ident(_))) && self.kind_at(1) == Some(&Kind::Punct(':'))) {
                while self.kind().is_some() && !self.at_rule() {
                    self.at += 1;
                }
                return None;
            }
        }
        let mut body = Body { fields: Vec::new(), declarations: Vec::new() };
        let truncated = loop {
            match self.kind() {
                Some(Kind::Close('}')) => {
                    self.at += 1;
                    break false;
                }
                Some(Kind::Close(c)) => self.stray_close(*c),
                Some(_) if !self.at_rule() => self.part(&mut body),
                _ => {
                    self.mistakes.push(
                        Mistake::new(open, format!("the body of rule `{name}` is never closed"), "opened here")
                            .suggest("close it before what follows", self.previous().after(), "\n}"),
                    );
                    break true;
                }
            }
        };
        let Body { fields, declarations } = body;
        Some(Spec { name, name_span, doc, fields, declarations, truncated })
    }

    /// A field, or a parameter's or `let`'s declaration.
    fn part(&mut self, body: &mut Body<S>) {
        let place = body.fields.len() + body.declarations.len();
        let declares = self.is_word(0, "param") || self.is_word(0, "let");
        if declares && matches!(self.kind_at(1), Some(Kind::Ident(_))) {
            let is_let = self.is_word(0, "let");
            self.at += 1;
            body.declarations.extend(self.field(place).map(|field| Declaration {
                is_let,
                name: field.key,
                name_span: field.key_span,
                place,
                value: field.value,
            }));
        } else {
            body.fields.extend(self.field(place));
        }
    }

    /// The current word's text.
    fn bare(&self) -> &'t str {
        match self.kind() {
            Some(Kind::Ident(word)) => word,
            _ => "",
        }
    }

    fn field(&mut self, place: usize) -> Option<Field<S>> {
        let key_span = self.span();
        let key = match self.kind() {
            Some(Kind::Ident(key)) => key.clone(),
            Some(Kind::Punct(';')) => {
                self.at += 1;
                self.mistakes.push(Mistake::new(key_span, "a `;` with nothing before it", "one too many").suggest(
                    "remove it",
                    key_span,
                    "",
                ));
                return None;
            }
            Some(Kind::Doc(_)) => {
                self.at += 1;
                self.mistakes.push(
                    Mistake::new(key_span, "doc comments belong above the rule", "not inside its body")
                        .note("an ordinary `//` comment may stand anywhere"),
                );
                return None;
            }
            _ => {
                let found = self.found();
                self.mistakes.push(Mistake::new(key_span, format!("expected a key, found {found}"), "expected a key"));
                self.recover();
                return None;
            }
        };
        self.at += 1;
        if !self.eat(&Kind::Punct(':')) {
            let found = self.found();
            self.mistakes.push(
                Mistake::new(
                    self.previous().after(),
                    format!("expected `:` after `{key}`, found {found}"),
                    "expected `:`",
                )
                .suggest("put a colon between key and value", self.previous().after(), ":"),
            );
            self.eat(&Kind::Punct('='));
            if !matches!(self.kind(), Some(Kind::Ident(_) | Kind::Number(_) | Kind::Punct('-'))) {
                self.recover();
                return Some(Field { key, key_span, place, value: None });
            }
        }
        let value = self.value(&key);
        Some(Field { key, key_span, place, value })
    }

    fn value(&mut self, key: &str) -> Option<Value<S>> {
        let head_span = self.span();
        let head = match self.kind() {
            Some(Kind::Ident(word)) => {
                self.at += 1;
                Head::Word(word.clone())
            }
            Some(Kind::Number(_) | Kind::Punct('-')) => Head::Number(self.number()?),
            _ => {
                let found = self.found();
                self.mistakes.push(Mistake::new(
                    head_span,
                    format!("expected a value for `{key}`, found {found}"),
                    "expected a word or a number",
                ));
                self.recover();
                return None;
            }
        };
        let head_span = head_span.to(self.previous());
        let mut value = Value { head, head_span, storage: None, bound: None, formula: None };
        loop {
            let span = self.span();
            if self.eat(&Kind::Punct(';')) {
                return Some(value);
            }
            if self.is_word(0, "as") && value.storage.is_none() {
                self.at += 1;
                let Some(Kind::Ident(dtype)) = self.kind() else {
                    let found = self.found();
                    self.mistakes.push(Mistake::new(
                        self.span(),
                        format!("expected a dtype after `as`, found {found}"),
                        "expected `f32` or `bf16`",
                    ));
                    self.recover();
                    return None;
                };
                let dtype_span = self.span();
                self.at += 1;
                value.storage = Some(Storage { dtype: dtype.clone(), dtype_span, span: span.to(dtype_span) });
            } else if self.eat(&Kind::Punct('=')) {
                value.formula = Some(self.formula().map_or(Written::Unreadable, Written::Read));
                return Some(value);
            } else if self.is_word(0, "in") && value.bound.is_none() {
                self.at += 1;
                value.bound = Some(self.interval(span)?);
            } else {
                return self.after_value(value);
            }
        }
    }

    /// Whether what stands here can only belong to what follows a field.
    pub(crate) fn at_next_part(&self) -> bool {
        let word = matches!(self.kind(), Some(Kind::Ident(_)));
        let declares =
            (self.is_word(0, "param") || self.is_word(0, "let")) && matches!(self.kind_at(1), Some(Kind::Ident(_)));
        let next_field = declares || word && self.kind_at(1) == Some(&Kind::Punct(':'));
        next_field || self.at_rule() || self.at_end_of_body()
    }

    /// Whether the rule's body ends here: its last field needs no `;`.
    pub(crate) fn at_end_of_body(&self) -> bool {
        matches!(self.kind(), None | Some(Kind::Close('}')))
    }

    /// What stands after a complete value is not its `;`.
    fn after_value(&mut self, value: Value<S>) -> Option<Value<S>> {
        if self.at_end_of_body() {
            return Some(value);
        }
        let after = self.previous().after();
        if self.at_next_part() {
            self.mistakes.push(Mistake::new(after, "expected `;` after the value", "expected `;`").suggest(
                "end the field",
                after,
                ";",
            ));
            return Some(value);
        }
        if self.kind() == Some(&Kind::Punct(',')) {
            let span = self.span();
            self.mistakes.push(Mistake::new(span, "fields end with `;`, not `,`", "expected `;`").suggest(
                "write a semicolon",
                span,
                ";",
            ));
            self.at += 1;
            return Some(value);
        }
        let repeated = self.is_word(0, "as") || self.is_word(0, "in");
        let found = self.found();
        self.mistakes.push(if repeated {
            Mistake::new(self.span(), format!("{found} is given twice"), "already given")
        } else {
            Mistake::new(self.span(), format!("expected `;`, found {found}"), "expected `;`")
                .note("a value is a word or a number, then `as DTYPE` and `in [LOWER, UPPER]` where they apply")
        });
        self.recover();
        Some(value)
    }

    fn interval(&mut self, start: S) -> Option<Interval<S>> {
        self.expect_in_interval(&Kind::Open('['))?;
        let lower = self.number()?;
        self.expect_in_interval(&Kind::Punct(','))?;
        let upper = self.number()?;
        self.expect_in_interval(&Kind::Close(']'))?;
        Some(Interval { lower, upper, span: start.to(self.previous()) })
    }

    fn expect_in_interval(&mut self, kind: &Kind) -> Option<()> {
        if self.eat(kind) {
            return Some(());
        }
        let (wanted, found) = (kind.describe(), self.found());
        self.mistakes.push(
            Mistake::new(self.span(), format!("expected {wanted}, found {found}"), format!("expected {wanted}"))
                .note("a bound is written `in [LOWER, UPPER]`, as in `in [-5, 0]`"),
        );
        self.recover();
        None
    }

    fn number(&mut self) -> Option<String> {
        let minus = self.eat(&Kind::Punct('-'));
        if let Some(Kind::Number(text)) = self.kind() {
            self.at += 1;
            return Some(if minus { format!("-{text}") } else { text.clone() });
        }
        let found = self.found();
        self.mistakes.push(Mistake::new(self.span(), format!("expected a number, found {found}"), "expected a number"));
        self.recover();
        None
    }

    /// Skips past the next `;`, or up to the `}` that ends the body, whichever comes first; whole groups at a time.
    pub(crate) fn recover(&mut self) {
        let mut depth = 0usize;
        while let Some(kind) = self.kind() {
            match kind {
                // A semicolon ends the field even inside an unclosed `[`.
                Kind::Punct(';') if depth == 0 => {
                    self.at += 1;
                    return;
                }
                Kind::Close('}') if depth == 0 => return,
                Kind::Open('{') => depth += 1,
                Kind::Close('}') => depth -= 1,
                Kind::Ident(_) if self.at_rule() => return,
                _ => {}
            }
            self.at += 1;
        }
    }
}
