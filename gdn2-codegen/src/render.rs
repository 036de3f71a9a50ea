//! Kernel → CUDA text. Thin templates over views of ready strings; the device code they need is inlined, so the text
//! includes no file.

use crate::kernel::{CudaSource, Kernel};
use crate::schedule::{Matrix, Schedule};
use handlebars::Handlebars;
use serde_json::Value;
use std::cell::RefCell;

/// Prints a bound kernel. The text is a function of the kernel alone.
pub fn render(kernel: &Kernel) -> CudaSource {
    let text = kernel.launches.iter().map(|launch| {
        let (template, view) = match kernel.schedule {
            Schedule::Forward(numbers) => match numbers.matrix {
                Matrix::Mma => crate::forward_view::view(kernel, numbers, launch),
                Matrix::Wgmma => crate::warpgroup_view::view(kernel, numbers, launch),
            },
            Schedule::Decode(numbers) => crate::decode_view::view(kernel, numbers, launch),
            Schedule::Backward(numbers) => crate::backward_view::view(kernel, numbers, launch),
        };
        fill(template, &view)
    });
    CudaSource::new(text.collect::<Vec<_>>().join("\n"))
}

thread_local! {
    /// Templates that were filled before: reading one takes longer than filling it, and a macro fills each many times.
    static READ: RefCell<Handlebars<'static>> = RefCell::new(registry());
}

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
    READ.with_borrow_mut(|registry| {
        if !registry.has_template(template) {
            registry.register_template_string(template, template)?;
        }
        registry.render(template, view)
    })
    .unwrap_or_else(|error: handlebars::RenderError| format!("#error \"template: {error}\"\n"))
}
