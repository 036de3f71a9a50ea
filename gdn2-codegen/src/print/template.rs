//! Fills templates from views of ready strings: `{{field}}`, and `{{#each list}}…{{/each}}`, in which `{{this}}` or fields of
//! each item stand. A tag of `each` that has a line to itself takes the line along.

use std::borrow::Cow;

/// What a template is filled from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum View {
    Text(String),
    List(Vec<View>),
    /// By name; of two fields of one name the later counts.
    Fields(Vec<(&'static str, View)>),
}

/// Fields of a view, each a name and what can be shown.
macro_rules! fields {
    ($($name:literal: $value:expr),* $(,)?) => {
        $crate::print::template::View::Fields(vec![$(($name, $crate::print::template::Show::view(&$value))),*])
    };
}
pub(crate) use fields;

/// What a view can be made of.
pub(crate) trait Show {
    fn view(&self) -> View;
}

impl Show for View {
    fn view(&self) -> View {
        self.clone()
    }
}

impl Show for str {
    fn view(&self) -> View {
        View::Text(self.to_owned())
    }
}

impl Show for String {
    fn view(&self) -> View {
        self.as_str().view()
    }
}

impl Show for u32 {
    fn view(&self) -> View {
        View::Text(self.to_string())
    }
}

impl<T: Show> Show for [T] {
    fn view(&self) -> View {
        View::List(self.iter().map(Show::view).collect())
    }
}

impl<T: Show> Show for Vec<T> {
    fn view(&self) -> View {
        self.as_slice().view()
    }
}

impl<T: Show, const N: usize> Show for [T; N] {
    fn view(&self) -> View {
        self.as_slice().view()
    }
}

impl<T: Show + ?Sized> Show for &T {
    fn view(&self) -> View {
        (**self).view()
    }
}

/// Templates and views are fixed at build time and tested over every rule, so an error here is a bug; it becomes a line
/// no CUDA compiler accepts rather than a panic.
pub(crate) fn fill(template: &str, view: &View) -> String {
    let mut text = String::with_capacity(2 * template.len());
    match append(template, view, &mut text) {
        Ok(()) => text,
        Err(error) => format!("#error \"template: {error}\"\n"),
    }
}

const END: &str = "{{/each}}";

fn append(template: &str, view: &View, text: &mut String) -> Result<(), String> {
    let mut at = 0;
    while let Some(open) = template[at..].find("{{").map(|found| at + found) {
        let close = template[open..].find("}}").ok_or("a tag without an end")? + open;
        let (tag, after) = (&template[open + 2..close], close + 2);
        let Some(list) = tag.strip_prefix("#each ") else {
            text.push_str(&template[at..open]);
            text.push_str(&view.text(tag)?);
            at = after;
            continue;
        };
        let end = template[after..].find(END).ok_or_else(|| format!("`{tag}` has no end"))? + after;
        let ((before, body), (last, next)) = (line(template, open, after), line(template, end, end + END.len()));
        text.push_str(template.get(at..before).unwrap_or_default());
        for item in view.list(list)? {
            append(template.get(body..last).unwrap_or_default(), item, text)?;
        }
        at = next;
    }
    text.push_str(&template[at..]);
    Ok(())
}

/// Where a tag begins and ends; with its line where nothing else stands there.
fn line(template: &str, open: usize, close: usize) -> (usize, usize) {
    let start = template[..open].rfind('\n').map_or(0, |end| end + 1);
    let end = template[close..].find('\n').map_or(template.len(), |end| close + end + 1);
    let alone = template[start..open].trim().is_empty() && template[close..end].trim().is_empty();
    if alone { (start, end) } else { (open, close) }
}

impl View {
    fn field(&self, name: &str) -> Result<&View, String> {
        match self {
            View::Fields(fields) => fields.iter().rev().find(|(known, _)| *known == name).map(|(_, view)| view),
            View::Text(_) | View::List(_) => None,
        }
        .ok_or_else(|| format!("no field `{name}`"))
    }

    /// A field, or the view itself, as text; a list as its items in brackets, as the heads of gradients have it.
    pub(crate) fn text(&self, name: &str) -> Result<Cow<'_, str>, String> {
        match if name == "this" { self } else { self.field(name)? } {
            View::Text(text) => Ok(Cow::Borrowed(text)),
            View::List(list) => {
                let items = list.iter().map(|item| item.text("this")).collect::<Result<Vec<_>, _>>()?;
                Ok(Cow::Owned(format!("[{}]", items.join(", "))))
            }
            View::Fields(_) => Err(format!("`{name}` is no text")),
        }
    }

    fn list(&self, name: &str) -> Result<&[View], String> {
        match self.field(name)? {
            View::List(list) => Ok(list),
            View::Text(_) | View::Fields(_) => Err(format!("`{name}` is no list")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_lists_are_filled_in() {
        let parts = ["x", "y"].map(|name| fields! { "name": name, "size": 3 });
        let view =
            fields! { "name": "one", "parts": parts, "words": ["a", "b"], "none": Vec::<String>::new(), "name": "two" };
        let filled = |template: &str| fill(template, &view);
        assert_eq!(filled("{ {{name}}}\n"), "{ two}\n");
        assert_eq!(filled("a\n  {{#each parts}}\n  {{name}} = {{size}},\n  {{/each}}\nb"), "a\n  x = 3,\n  y = 3,\nb");
        assert_eq!(filled("f({{#each words}}{{this}}, {{/each}}0);\n"), "f(a, b, 0);\n");
        assert_eq!(filled("{{#each none}}\n{{this}}\n{{/each}}\nend"), "end");
        assert_eq!(filled("{{words}}, {{none}}"), "[a, b], []");
        assert_eq!(filled("{{name}} {{#each words}}\n{{this}}{{/each}}\n"), "two \na\nb\n");
    }

    #[test]
    fn what_does_not_fit_is_no_cuda() {
        let view = fields! { "name": "one", "words": ["a"] };
        for template in [
            "{{nam}}",
            "{{#each words}}{{this}}",
            "{{#each name}}{{/each}}",
            "{{#each words}}{{name}}{{/each}}",
            "{{#each words}}",
            "{{",
        ] {
            let text = fill(template, &view);
            assert!(text.starts_with("#error \"template: "), "{template}: {text}");
        }
    }
}
