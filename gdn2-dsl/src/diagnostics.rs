//! Rule files: text to rules, and the mistakes of a file drawn over its source.

use std::collections::HashMap;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Patch, Renderer, Snippet};

use crate::check::check;
use crate::lex::lex;
use crate::mistake::{ByteSpan, Mistake};
use crate::parse::parse_items;
use crate::rule::Rule;

/// Every mistake of one rule file, in the order they stand in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} in the rule file, the first: {}", count(.mistakes.len()), .mistakes.first().map_or("", |m| m.message.as_str()))]
pub struct Diagnostics {
    /// The mistakes; never empty.
    pub mistakes: Vec<Mistake<ByteSpan>>,
}

/// Mistakes drawn at most; a file of noise has thousands.
const DRAWN: usize = 100;
/// Source lines longer than this are not drawn, only named by line.
const LONGEST_LINE: usize = 4096;

/// Bytes that a rule file may hold: a thousand rules with a page of documentation each.
pub const LARGEST_SOURCE: usize = 1 << 20;

/// Reads a rule file.
///
/// # Errors
/// All mistakes of the file at once; a text of more than [`LARGEST_SOURCE`] bytes is one.
pub fn parse_file(source: &str) -> Result<Vec<Rule>, Diagnostics> {
    let mut mistakes = Vec::new();
    let end = ByteSpan { start: source.len(), end: source.len() };
    if source.len() > LARGEST_SOURCE {
        let message = format!("a rule file holds at most {LARGEST_SOURCE} bytes, this one {}", source.len());
        let mistake = Mistake::new(end, message, "too much text for rules").note("divide it into several files");
        return Err(Diagnostics { mistakes: vec![mistake] });
    }
    let tokens = lex(source, &mut mistakes);
    let specs = parse_items(&tokens, end, &mut mistakes);
    if specs.is_empty() && mistakes.is_empty() {
        mistakes.push(
            Mistake::new(end, "this file holds no rule", "expected `rule NAME { … }`")
                .note("a rule is `rule NAME { decay: …; erase: …; write: …; key_dim: …; value_dim: …; dtype: …; }`"),
        );
    }
    let mut first: HashMap<&str, ByteSpan> = HashMap::new();
    for spec in &specs {
        if let Some(earlier) = first.get(spec.name.as_str()) {
            mistakes.push(
                Mistake::new(spec.name_span, format!("two rules are named `{}`", spec.name), "named again here")
                    .related(*earlier, "first named here"),
            );
        } else {
            first.insert(&spec.name, spec.name_span);
        }
    }
    let rules: Vec<Rule> = specs.iter().filter_map(|spec| check(spec, &mut mistakes)).collect();
    if mistakes.is_empty() {
        return Ok(rules);
    }
    mistakes.sort_by_key(|mistake| (mistake.span.start, mistake.span.end));
    Err(Diagnostics { mistakes })
}

impl Diagnostics {
    /// Draws the mistakes over `source`, the text they were found in, as rustc would; `color` adds ANSI colours.
    pub fn render(&self, path: &str, source: &str, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() }.decor_style(DecorStyle::Ascii);
        let mut text = String::new();
        for mistake in self.mistakes.iter().take(DRAWN) {
            text.push_str(&draw(&renderer, mistake, path, source));
            text.push_str("\n\n");
        }
        if let Some(more) = self.mistakes.len().checked_sub(DRAWN + 1) {
            text.push_str(&format!("… and {} more\n\n", more + 1));
        }
        text.push_str(&format!("error: {path}: {}\n", count(self.mistakes.len())));
        text
    }
}

fn count(mistakes: usize) -> String {
    format!("{mistakes} mistake{}", if mistakes == 1 { "" } else { "s" })
}

fn draw(renderer: &Renderer, mistake: &Mistake<ByteSpan>, path: &str, source: &str) -> String {
    let spans = [Some(mistake.span), mistake.related.as_ref().map(|related| related.0)];
    let excerpt = Excerpt::around(source, spans.into_iter().flatten());
    let title = Level::ERROR.primary_title(mistake.message.as_str());
    let mut group = if excerpt.is_drawable() {
        let mut snippet = Snippet::source(excerpt.text)
            .path(path)
            .line_start(excerpt.line)
            .annotation(AnnotationKind::Primary.span(excerpt.range(mistake.span)).label(mistake.label.as_str()));
        if let Some((span, label)) = &mistake.related {
            snippet = snippet.annotation(AnnotationKind::Context.span(excerpt.range(*span)).label(label.as_str()));
        }
        title.element(snippet)
    } else {
        title.element(Level::NOTE.message(format!("at {path}:{}", excerpt.line)))
    };
    for note in &mistake.notes {
        group = group.element(Level::NOTE.message(note.as_str()));
    }
    let mut report: Vec<Group<'_>> = vec![group];
    if let Some(suggestion) = &mistake.suggestion {
        let excerpt = Excerpt::around(source, [suggestion.span].into_iter());
        let title = Level::HELP.secondary_title(suggestion.message.as_str());
        report.push(if excerpt.is_drawable() {
            title.element(
                Snippet::source(excerpt.text)
                    .path(path)
                    .line_start(excerpt.line)
                    .patch(Patch::new(excerpt.range(suggestion.span), suggestion.replacement.as_str())),
            )
        } else {
            Group::with_title(title)
        });
    }
    renderer.render(&report)
}

/// The lines of the source that a drawing needs: a renderer that is given no more cannot be slow on a long file.
struct Excerpt<'s> {
    text: &'s str,
    start: usize,
    /// Number of the first line, from 1.
    line: usize,
}

impl<'s> Excerpt<'s> {
    fn around(source: &'s str, spans: impl Iterator<Item = ByteSpan> + Clone) -> Self {
        let first = spans.clone().map(|span| span.start).min().unwrap_or(0).min(source.len());
        let last = spans.map(|span| span.end).max().unwrap_or(0).clamp(first, source.len());
        // Spans come from the lexer and lie on character boundaries of the source they were found in.
        let start = source.get(..first).and_then(|before| before.rfind('\n')).map_or(0, |at| at + 1);
        let end = source.get(last..).and_then(|after| after.find('\n')).map_or(source.len(), |at| last + at);
        let line = 1 + source.as_bytes().iter().take(start).filter(|byte| **byte == b'\n').count();
        Excerpt { text: source.get(start..end).unwrap_or(""), start, line }
    }

    fn is_drawable(&self) -> bool {
        self.text.lines().all(|line| line.len() <= LONGEST_LINE)
    }

    fn range(&self, span: ByteSpan) -> std::ops::Range<usize> {
        let clamp = |at: usize| at.saturating_sub(self.start).min(self.text.len());
        clamp(span.start)..clamp(span.end).max(clamp(span.start))
    }
}
