//! One mistake in a rule: plain data, with the place it was made and, where one is known, the edit that mends it.

/// A place in the source: a byte range of a file, or a token of a macro call.
pub trait SourceSpan: Copy {
    /// The span from the start of `self` to the end of `end`.
    fn to(self, end: Self) -> Self;
    /// The empty place just after `self`, where something is missing.
    fn after(self) -> Self;
}

/// A byte range of a rule file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ByteSpan {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

impl SourceSpan for ByteSpan {
    fn to(self, end: Self) -> Self {
        ByteSpan { start: self.start, end: end.end.max(self.end) }
    }

    fn after(self) -> Self {
        ByteSpan { start: self.end, end: self.end }
    }
}

impl SourceSpan for proc_macro2::Span {
    /// Compilers that cannot join macro spans get the first token.
    fn to(self, end: Self) -> Self {
        self.join(end).unwrap_or(self)
    }

    fn after(self) -> Self {
        self
    }
}

/// An edit that mends a mistake: put `replacement` in place of `span`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suggestion<S> {
    /// What the edit does, in words.
    pub message: String,
    /// What it replaces; empty where it inserts.
    pub span: S,
    /// The new text.
    pub replacement: String,
}

/// One mistake: what is wrong, where, why and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake<S> {
    /// What is wrong.
    pub message: String,
    /// Where.
    pub span: S,
    /// What to write under the place.
    pub label: String,
    /// A second place that explains the first, such as the first of two duplicates.
    pub related: Option<(S, String)>,
    /// What a reader should know.
    pub notes: Vec<String>,
    /// How to mend it.
    pub suggestion: Option<Suggestion<S>>,
}

impl<S> Mistake<S> {
    pub(crate) fn new(span: S, message: impl Into<String>, label: impl Into<String>) -> Self {
        Mistake {
            message: message.into(),
            span,
            label: label.into(),
            related: None,
            notes: Vec::new(),
            suggestion: None,
        }
    }

    pub(crate) fn related(mut self, span: S, label: impl Into<String>) -> Self {
        self.related = Some((span, label.into()));
        self
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    pub(crate) fn suggest(mut self, message: impl Into<String>, span: S, replacement: impl Into<String>) -> Self {
        self.suggestion = Some(Suggestion { message: message.into(), span, replacement: replacement.into() });
        self
    }

    /// The mistake as text, for places that cannot draw: message, notes and suggestion, a line each.
    pub fn in_words(&self) -> String {
        let mut text = self.message.clone();
        for note in &self.notes {
            text.push_str("\nnote: ");
            text.push_str(note);
        }
        if let Some(Suggestion { message, replacement, .. }) = &self.suggestion {
            text.push_str("\nhelp: ");
            text.push_str(message);
            let replacement = replacement.trim();
            if !replacement.is_empty() && !message.contains(replacement) {
                text.push_str(&format!(": `{replacement}`"));
            }
        }
        text
    }
}
