//! The tables: for a terminal, in Markdown and in HTML.

use gdn2_vm::Place;

use comfy_table::CellAlignment;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::row::Row;
use super::times::Time;
use crate::grid;

/// What is shown.
pub struct Page<'a> {
    /// Calls.
    pub rows: &'a [Row],
    /// Times.
    pub times: &'a [Time],
    /// Seed of the inputs of ours.
    pub seed: u64,
}

/// A table as text: columns from the first of numbers on are aligned to the right.
struct Grid {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    numbers: usize,
}

const CALLS: &str = "Per token and value head on the virtual machine, every check on: warp instructions of the PTX, bytes \
                     of device memory asked for, and as multiples of the least that must cross memory; passes over the \
                     banks of shared memory. The error is RMSE / RMS of the float64 recurrence, of the result that comes \
                     closest to its bar.";
const TIMES: &str = "Published by others; predicted, not measured, by the clock: their kernels with constants that were \
                     fitted without them, ours from and to.";

impl Page<'_> {
    fn calls(&self) -> Grid {
        let rows = self.rows.iter().map(|row| {
            let (tensor, error, bar) = match (&row.stopped, row.worst()) {
                (Some(why), _) => (why.clone(), String::new(), String::new()),
                (None, None) => ("nothing to judge".to_owned(), String::new(), String::new()),
                (None, Some(worst)) => {
                    let mark = if row.results.iter().all(|one| one.passed) { "" } else { " WRONG" };
                    (worst.tensor.clone(), format!("{:.4}{mark}", worst.error), format!("{:.3}", worst.bar))
                }
            };
            let found =
                match (row.findings.len() as u64 + row.left_out, row.findings.iter().all(|one| one.argued.is_some())) {
                    (0, _) => "none".to_owned(),
                    (n, true) => format!("{n}, argued"),
                    (n, false) => format!("{n}, NOT ARGUED"),
                };
            let cost = row.cost;
            let over = |bytes: f64| format!("{:.2}", bytes / cost.floor);
            vec![
                row.by.clone(),
                row.call.clone(),
                row.shape.clone(),
                tensor,
                found,
                error,
                bar,
                row.launches.to_string(),
                format!("{:.0}", cost.instructions),
                format!("{:.0}", cost.bytes),
                over(cost.bytes),
                over(cost.distinct),
                format!("{:.0}", cost.wavefronts),
            ]
        });
        let head = vec![
            "by",
            "call",
            "shape",
            "worst",
            "findings",
            "error",
            "bar",
            "launches",
            "instructions",
            "bytes",
            "× floor",
            "distinct × floor",
            "wavefronts",
        ];
        Grid { head, rows: rows.collect(), numbers: 5 }
    }

    fn prices(&self) -> Grid {
        let rows = self.times.iter().map(|time| {
            let ours = match &time.ours {
                Ok((low, high)) => format!("{low:.3} to {high:.3}"),
                Err(why) => why.clone(),
            };
            vec![
                time.by.clone(),
                time.rule.clone(),
                time.pass.to_string(),
                time.gpu.clone(),
                time.shape.clone(),
                format!("{:.3}", time.published),
                time.theirs.map_or_else(|| "not compiled".to_owned(), |ms| format!("{ms:.3}")),
                ours,
            ]
        });
        let head = vec!["by", "rule", "pass", "GPU", "shape", "published ms", "theirs, predicted", "ours, predicted"];
        Grid { head, rows: rows.collect(), numbers: 5 }
    }

    /// What was found: a paragraph for each kernel, rule and argument, with all the places.
    fn findings(&self) -> Vec<String> {
        let each = self.rows.iter().flat_map(|row| row.findings.iter().map(move |found| (row, found)));
        let mut together: BTreeMap<[String; 4], (u64, Vec<String>)> = BTreeMap::new();
        for (row, found) in each {
            let why = found.argued.as_deref().unwrap_or("NOT ARGUED");
            let key = [row.call.clone(), found.entry.clone(), found.finding.rule.to_string(), why.to_owned()];
            let (times, places) = together.entry(key).or_default();
            *times += found.finding.times;
            places.extend(found.finding.place.as_ref().map(line));
        }
        let told = together.into_iter().map(|([call, entry, rule, why], (times, places))| {
            format!("{call}, {entry}: {rule}, {times} times, at {}. {why}", places.join(", "))
        });
        told.collect()
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n", self.calls().text());
        for finding in self.findings() {
            let _ = writeln!(text, "{finding}");
        }
        if !self.times.is_empty() {
            let _ = write!(text, "\n{}\n", self.prices().text());
        }
        let wrong = self.rows.iter().filter(|row| !row.good()).count();
        let _ = writeln!(text, "\n{} calls, {wrong} to be looked at; seed {}", self.rows.len(), self.seed);
        text
    }

    /// In Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("# Kernels side by side\n\n{CALLS}\n\n{}", self.calls().markdown());
        if !self.findings().is_empty() {
            text += "\nWhat the checks found:\n\n";
        }
        for finding in self.findings() {
            let _ = writeln!(text, "- {finding}");
        }
        if !self.times.is_empty() {
            let _ = write!(text, "\n{TIMES}\n\n{}", self.prices().markdown());
        }
        text
    }

    /// As a page that fetches nothing.
    pub fn html(&self) -> String {
        let mut body = format!("<p>{CALLS}</p>\n{}", self.calls().html());
        if !self.findings().is_empty() {
            body += "<h2>Findings</h2>\n<ul>\n";
            for finding in self.findings() {
                let _ = writeln!(body, "<li>{}</li>", escaped(&finding));
            }
            body += "</ul>\n";
        }
        if !self.times.is_empty() {
            let _ = write!(body, "<h2>Times</h2>\n<p>{TIMES}</p>\n{}", self.prices().html());
        }
        include_str!("page.html").replace("BODY", &body)
    }
}

impl Grid {
    fn text(self) -> String {
        let mut table = grid::table(self.head);
        for row in self.rows {
            table.add_row(row);
        }
        for column in table.column_iter_mut().skip(self.numbers) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.trim_fmt()
    }

    fn markdown(&self) -> String {
        let rule = |at: usize| if at < self.numbers { "---" } else { "---:" };
        let mut text = format!("| {} |\n|", self.head.join(" | "));
        (0..self.head.len()).for_each(|at| text += &format!("{}|", rule(at)));
        text.push('\n');
        for row in &self.rows {
            let _ = writeln!(text, "| {} |", row.join(" | ").replace('\n', " "));
        }
        text
    }

    fn html(&self) -> String {
        let class = |at: usize| if at < self.numbers { "" } else { " class=\"n\"" };
        let mut text = "<div class=\"scroll\"><table><thead><tr>".to_owned();
        for (at, name) in self.head.iter().enumerate() {
            let _ = write!(text, "<th{}>{name}</th>", class(at));
        }
        text += "</tr></thead><tbody>\n";
        for row in &self.rows {
            text += "<tr>";
            for (at, cell) in row.iter().enumerate() {
                let _ = write!(text, "<td{}>{}</td>", class(at), escaped(cell));
            }
            text += "</tr>\n";
        }
        text + "</tbody></table></div>\n"
    }
}

/// A place without the folders of the machine that compiled it.
fn line(place: &Place) -> String {
    match &place.source {
        Some(source) => format!("{}:{}", source.file.rsplit('/').next().unwrap_or_default(), source.line),
        None => format!("PTX line {} `{}`", place.ptx_line, place.instruction),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
