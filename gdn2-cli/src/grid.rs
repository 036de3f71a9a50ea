//! Tables for the terminal.

use comfy_table::{ContentArrangement, Row, Table, presets};

/// A table that folds at the width of a terminal, and nowhere else.
pub fn table(header: impl Into<Row>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(header);
    table
}

/// The same with schedules in a column, which fold between their fields.
pub fn with_schedules(header: impl Into<Row>, column: usize) -> Table {
    let mut table = table(header);
    if let Some(column) = table.column_mut(column) {
        column.set_delimiter(',');
    }
    table
}
