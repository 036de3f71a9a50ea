//! From source lines to stages: functions of the generated CUDA, one in another as they are called.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table};
use gdn2_codegen::part::{Part, part_of};
use gdn2_vm::{Class, InstructionCount};
use serde::Serialize;

use super::sum::Sum;
use crate::grid;

/// Columns of a terminal that all numbers of a stage fit in.
const WIDE: u16 = 120;
/// Numbers that are shown on any.
const ALWAYS: usize = 6;

/// The function that each line of a generated text is of.
pub struct Functions(Vec<String>);

impl Functions {
    /// `entries`: names of the kernels.
    pub fn of(lines: &[&str], entries: &[&str]) -> Functions {
        let mut names: Vec<String> = Vec::with_capacity(lines.len());
        let (mut owner, mut name) = ("?".to_owned(), "elsewhere".to_owned());
        for (at, text) in lines.iter().enumerate() {
            if let Some((_, rest)) = text.split_once("struct ") {
                let word = rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next();
                owner = word.unwrap_or("?").to_owned();
            }
            if text.contains("METHOD ") && !text.starts_with("#define") {
                name = format!("{owner}::{}", named(text).unwrap_or_default());
            } else if text.starts_with("DEVICE ") {
                name = named(text).unwrap_or_default();
            } else if text.contains("__global__") {
                // The name may stand behind the bounds, on a line of its own.
                let near = &lines[at..lines.len().min(at + 4)];
                let entry = entries.iter().find(|entry| near.iter().any(|line| line.contains(&format!("{entry}("))));
                name = entry.map_or("kernel", |entry| entry).to_owned();
            }
            names.push(name.clone());
        }
        Functions(names)
    }

    /// The function of a line, from 1.
    pub fn at(&self, line: u32) -> &str {
        (line as usize).checked_sub(1).and_then(|at| self.0.get(at)).map_or("elsewhere", String::as_str)
    }
}

/// Work by the parts of the plan. What serves several, such as loading a block, is its caller's.
#[derive(Debug, Default)]
pub struct Parts(BTreeMap<Option<Part>, Sum>);

impl Parts {
    pub fn add(&mut self, functions: &Functions, i: &InstructionCount) {
        let lines = i.source.iter().chain(&i.called_from).map(|source| source.line);
        let part = lines.map(|line| functions.at(line)).find_map(part_of);
        self.0.entry(part).or_default().add(i);
    }

    /// By name, in the order of a chunk's work.
    pub fn named(&self) -> impl Iterator<Item = (String, &Sum)> {
        let named =
            |(part, sum): (&Option<Part>, _)| (part.map_or("elsewhere".to_owned(), |part| part.to_string()), sum);
        self.0.iter().filter(|(part, _)| part.is_some()).chain(self.0.get_key_value(&None)).map(named)
    }

    pub fn table(&self, all: &Sum) -> Table {
        let mut table = grid::table(HEADER);
        for (name, sum) in self.named() {
            table.add_row(cells(name, sum, all));
        }
        fit(&mut table);
        table
    }
}

/// The name before the first `(`.
fn named(text: &str) -> Option<String> {
    let head = text.split_once('(')?.0;
    let name = head.rsplit(|c: char| !(c.is_alphanumeric() || c == '_')).next()?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// A function with all that it calls.
#[derive(Debug, Default, Serialize)]
pub struct Stage {
    /// All of it, what it calls included.
    #[serde(flatten)]
    sum: Sum,
    /// What it calls, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    calls: BTreeMap<String, Stage>,
}

impl Stage {
    pub fn add(&mut self, functions: &Functions, i: &InstructionCount) {
        self.sum.add(i);
        let lines = i.called_from.iter().rev().chain(&i.source).map(|source| source.line);
        let (mut stage, mut last) = (self, "");
        for name in lines.map(|line| functions.at(line)) {
            // What a function hands on to be called there is its own.
            if name == last {
                continue;
            }
            stage = stage.calls.entry(name.to_owned()).or_default();
            stage.sum.add(i);
            last = name;
        }
    }

    /// Of all calls.
    pub fn total(&self) -> &Sum {
        &self.sum
    }

    /// Stages that are at least a hundredth of all, down to so many in one another. A narrow terminal gets less of each.
    pub fn table(&self, depth: usize) -> Table {
        let mut table = grid::table(HEADER);
        self.rows(&mut table, self, 0, depth);
        fit(&mut table);
        table
    }

    fn rows(&self, table: &mut Table, all: &Stage, level: usize, depth: usize) {
        let mut order: Vec<(&String, &Stage)> = self.calls.iter().collect();
        order.sort_by_key(|(_, stage)| std::cmp::Reverse(stage.sum.instructions));
        for (name, stage) in order {
            let Stage { sum, .. } = stage;
            if sum.instructions * 100 < all.sum.instructions && sum.path * 100 < all.sum.path {
                continue;
            }
            table.add_row(cells(format!("{}{name}", "  ".repeat(level)), sum, &all.sum));
            if level + 1 < depth {
                stage.rows(table, all, level + 1, depth);
            }
        }
    }
}

const HEADER: [&str; 11] =
    ["stage", "share", "path", "instr", "waves", "confl", "bytes", "integer", "float", "special", "matrix"];

/// A stage's row.
fn cells(name: String, sum: &Sum, all: &Sum) -> Vec<String> {
    let share = |part: u64, whole: u64| format!("{:.0} %", 100.0 * part as f64 / whole.max(1) as f64);
    let numbers = [
        sum.instructions,
        sum.shared_wavefronts,
        sum.bank_conflicts,
        sum.bytes(),
        sum.class(Class::Integer),
        sum.class(Class::Float),
        sum.class(Class::Special),
        sum.class(Class::Matrix),
    ];
    let shares = [share(sum.instructions, all.instructions), share(sum.path, all.path)];
    [name].into_iter().chain(shares).chain(numbers.map(|n| n.to_string())).collect()
}

/// Numbers to the right, and on a narrow terminal the first of them alone.
fn fit(table: &mut Table) {
    let narrow = table.width().is_some_and(|width| width < WIDE);
    table.set_content_arrangement(ContentArrangement::Disabled);
    for (at, column) in table.column_iter_mut().enumerate().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
        if narrow && at > ALWAYS {
            column.set_constraint(ColumnConstraint::Hidden);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Functions;

    #[test]
    fn lines_are_of_the_function_around_them() {
        let text = "struct Ring {\n  METHOD void wait(int n) {\n    x();\n  }\n};\nDEVICE float solve(int a) {\n  y();\n}\n\
                    extern \"C\" __global__ void\n__launch_bounds__(128) gdn_forward(int T) {\n  z();\n}";
        let lines: Vec<&str> = text.lines().collect();
        let functions = Functions::of(&lines, &["gdn_forward"]);
        assert_eq!([3, 7, 11].map(|line| functions.at(line)), ["Ring::wait", "solve", "gdn_forward"]);
        assert_eq!(functions.at(99), "elsewhere");
    }
}
