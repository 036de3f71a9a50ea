//! What `forward.cu.hbs` prints: every number, name, type and call of a forward kernel as a ready string.

use crate::kernel::Kernel;
use crate::schedule::Forward;
use serde_json::{Value, json};

const TEMPLATE: &str = include_str!("../templates/forward.cu.hbs");

/// The template and its view.
pub(crate) fn view(kernel: &Kernel, numbers: Forward) -> (&'static str, Value) {
    (TEMPLATE, json!({ "entry": kernel.launches.first().map_or("", |launch| &launch.entry), "chunk": numbers.chunk }))
}
