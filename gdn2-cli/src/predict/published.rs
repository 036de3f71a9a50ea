//! Predictions of times that others published, and how far off they are.

use comfy_table::{CellAlignment, Table, presets};
use gdn2_clock::gpu::Explanation;
use gdn2_tune::model::Constants;
use gdn2_tune::published::{Errors, Held, Judged, Kind, errors};

use super::Args;
use crate::error::CliError;
use crate::{Verdict, write};

/// Whether a row says something of the clock: those on memory's floor test only the floor.
fn tells(held: &&Held) -> bool {
    held.predicted.kind != Kind::Memory
}

fn percent(part: f64) -> String {
    format!("{:.1} %", 100.0 * part)
}

fn table(held: &[&Held]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "by",
        "rule",
        "pass",
        "GPU",
        "shape",
        "published ms",
        "predicted",
        "ratio",
        "on the pipe",
        "in a chain",
        "family left out",
        "by memory",
    ]);
    for one in held {
        let number = |value: f64| format!("{value:.3}");
        let mut cells = one.row.about.to_vec();
        cells.extend([
            number(one.milliseconds()),
            number(one.predicted.milliseconds),
            format!("{:.2}", one.predicted.milliseconds / one.milliseconds()),
            number(one.predicted.pipe),
            number(one.predicted.chain),
            number(one.left_out.milliseconds),
            format!("{:.0} %", 100.0 * one.predicted.by_memory),
        ]);
        table.add_row(cells);
    }
    for column in table.column_iter_mut().skip(5) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A family's errors: with the constants of all rows, and with those fitted without it.
fn families(judged: &Judged) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "family",
        "rows",
        "factor",
        "median",
        "worst",
        "left out: surplus",
        "again",
        "factor",
        "median",
        "worst",
    ]);
    for (family, fit) in &judged.without {
        let rows: Vec<&Held> = judged.rows.iter().filter(|held| held.family() == family && held.fitted()).collect();
        if rows.is_empty() {
            continue;
        }
        let with = errors(rows.iter().map(|held| held.pair()));
        let without = errors(rows.iter().map(|held| held.pair_left_out()));
        table.add_row([
            family.clone(),
            with.rows.to_string(),
            format!("x{:.2}", with.factor),
            percent(with.median),
            percent(with.worst),
            format!("{:.2}", fit.wgmma_surplus),
            format!("{:.2}", fit.again),
            format!("x{:.2}", without.factor),
            percent(without.median),
            percent(without.worst),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

pub(super) fn run(args: &Args) -> Result<Verdict, CliError> {
    let judged = Judged::new(|gpu| Constants::of(gpu, Some(&args.records)))?;
    let (fitted, others): (Vec<&Held>, Vec<&Held>) = judged.rows.iter().partition(|held| held.fitted());
    let of = |rows: &[&Held]| errors(rows.iter().map(|held| held.pair()));
    let all = of(&fitted);
    let left_out = errors(fitted.iter().map(|held| held.pair_left_out()));
    let (told, floor): (Vec<&Held>, Vec<&Held>) = fitted.iter().copied().partition(tells);
    let each: [(&str, Errors); 2] = [
        ("on the pipe", errors(fitted.iter().map(|held| (held.predicted.pipe, held.milliseconds())))),
        ("in a chain", errors(fitted.iter().map(|held| (held.predicted.chain, held.milliseconds())))),
    ];
    if args.json {
        let row = |held: &&Held| {
            let [by, rule, pass, gpu, shape] = &held.row.about;
            serde_json::json!({
                "by": by, "rule": rule, "pass": pass, "gpu": gpu, "shape": shape, "fitted": held.fitted(),
                "published_ms": held.milliseconds(), "predicted": held.predicted, "family_left_out": held.left_out,
            })
        };
        let rows: Vec<_> = fitted.iter().chain(&others).map(row).collect();
        let json = serde_json::json!({
            "published": rows, "fit": judged.fit, "bands": judged.learnt().bands, "errors": all, "left_out": left_out,
            "floor": of(&floor), "beyond_the_floor": of(&told),
        });
        write::stdout(format!("{json:#}\n").as_bytes())?;
        return Ok(Verdict::Good);
    }
    let mut text = format!("{}\n\n", table(&fitted));
    if !others.is_empty() {
        text += &format!("fitted to none of these:\n{}\n\n", table(&others));
    }
    let [pipe, chain] = Explanation::both(judged.fit.wgmma_surplus);
    text += &format!(
        "two constants fitted: products of a warpgroup take {pipe} or {chain}; launches that read memory again get {:.2} of a \
         copy's rate\n\n{}\n\n",
        judged.fit.again,
        families(&judged)
    );
    for (how, errors) in each {
        text += &format!("products slower {how}: {errors}\n");
    }
    text += &format!("each family by constants fitted without it: {left_out}\n");
    text += &format!("on memory's floor: {}\nbeyond it: {}\n", of(&floor), of(&told));
    text += &format!("{all}\n");
    write::stdout(text.as_bytes())?;
    Ok(Verdict::Good)
}
