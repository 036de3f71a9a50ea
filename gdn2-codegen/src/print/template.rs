//! Fills templates from views of ready strings.

use handlebars::{Context, Handlebars, RenderError};
use serde_json::Value;
use std::sync::{LazyLock, PoisonError, RwLock};

/// Pieces of templates that were filled before: reading one takes longer than filling it, and a macro fills each many
/// times, an editor's from many threads.
static READ: LazyLock<RwLock<Handlebars<'static>>> = LazyLock::new(|| RwLock::new(registry()));

/// Strict mode: a misspelt field is an error.
fn registry() -> Handlebars<'static> {
    let mut registry = Handlebars::new();
    registry.set_strict_mode(true);
    registry.register_escape_fn(handlebars::no_escape);
    registry
}

/// Templates and views are fixed at build time and tested over every rule, so an error here is a bug; it becomes a line
/// no CUDA compiler accepts rather than a panic.
pub(crate) fn fill(template: &str, view: &Value) -> String {
    filled(template, view).unwrap_or_else(|error| format!("#error \"template: {error}\"\n"))
}

fn filled(template: &str, view: &Value) -> Result<String, RenderError> {
    let context = Context::wraps(view)?;
    let mut text = String::new();
    for piece in Pieces(template) {
        if !piece.contains("{{") {
            text += piece;
            continue;
        }
        let known = READ.read().unwrap_or_else(PoisonError::into_inner).has_template(piece);
        if !known {
            READ.write().unwrap_or_else(PoisonError::into_inner).register_template_string(piece, piece)?;
        }
        text += &READ.read().unwrap_or_else(PoisonError::into_inner).render_with_context(piece, &context)?;
    }
    Ok(text)
}

/// A template's lines that say something, and the runs between them. To the parser of templates the runs are costly, and
/// what it costs grows with the square of a template's length; unoptimised, as macros are built, that is felt.
struct Pieces<'t>(&'t str);

impl<'t> Iterator for Pieces<'t> {
    type Item = &'t str;

    fn next(&mut self) -> Option<&'t str> {
        let mut lines = self.0.split_inclusive('\n');
        let first = lines.next()?;
        let depth = |line: &str| line.matches("{{#").count() as isize - line.matches("{{/").count() as isize;
        let (mut end, mut open) = (first.len(), depth(first));
        for line in lines {
            let more = if first.contains("{{") { open > 0 } else { !line.contains("{{") };
            if !more {
                break;
            }
            (end, open) = (end + line.len(), open + depth(line));
        }
        let (piece, rest) = self.0.split_at(end);
        self.0 = rest;
        Some(piece)
    }
}
