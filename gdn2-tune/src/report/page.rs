//! The HTML page: one template, filled once.

use super::plot::{self, Mark};
use super::{Findings, ReportError, micros};
use crate::model::{Clocked, busiest, longest};
use gdn2_codegen::schedule::{Backward, Decode, Forward, Schedule};
use handlebars::Handlebars;
use serde_json::{Value, json};

const PAGE: &str = include_str!("page.html.hbs");

/// Rows of the table of candidates.
const ROWS: usize = 20;

/// The report as one page that fetches nothing.
pub fn html(findings: &Findings) -> Result<String, ReportError> {
    let mut registry = Handlebars::new();
    registry.set_strict_mode(true);
    let view = view(findings)?;
    registry.render_template(PAGE, &view).map_err(|error| ReportError::Page(error.to_string()))
}

fn view(findings: &Findings) -> Result<Value, ReportError> {
    let winner = findings.podium()?.winner.0;
    let (legend, strips) = strips(findings, winner);
    let reasons: Vec<(String, usize)> =
        findings.reasons().into_iter().map(|(reason, count)| (reason.name().to_owned(), count)).collect();
    let facts: Vec<Value> =
        findings.facts().into_iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    let clocks =
        |value: f64| if value >= 1e6 { format!("{:.1} M", value / 1e6) } else { format!("{:.1} k", value / 1e3) };
    let best = findings.ranking[0].1.time.micros;
    let known = findings.constants.as_ref();
    let rows: Vec<Value> = findings
        .ranking
        .iter()
        .take(ROWS)
        .map(|(schedule, sample)| {
            let clocked = longest(&sample.launches);
            let launch = clocked.map_or(sample.launches.first(), |(launch, _)| Some(launch));
            let of = |say: &dyn Fn(&Clocked) -> String| clocked.map_or(String::new(), |(_, clocked)| say(clocked));
            let role = if *schedule == winner {
                "winner"
            } else if *schedule == findings.built_in {
                "built-in"
            } else if findings.correct.iter().all(|(ran, _)| ran != schedule) {
                "not run"
            } else {
                ""
            };
            json!({
                // A narrow column breaks between fields.
                "schedule": schedule.to_string().replace(',', ",\u{200b}"), "role": role,
                "time": micros(sample.time.micros),
                "ratio": format!("{:.2}", sample.time.micros / best),
                "registers": launch.map_or(String::new(), |launch| launch.registers.to_string()),
                "shared": launch.map_or(String::new(), |launch| format!("{:.0} KB", f64::from(launch.shared_bytes) / 1024.0)),
                "blocks": launch.map_or(String::new(), |launch| launch.blocks.to_string()),
                "resident": of(&|clocked| clocked.resident.to_string()),
                "waves": of(&|clocked| clocked.waves.to_string()),
                "chain": clocked.zip(known).map_or(String::new(), |((_, clocked), known)| {
                    clocks(clocked.micros * known.get("clock"))
                }),
                "busiest": launch.zip(known).map_or(String::new(), |(launch, known)| clocks(busiest(launch, known).1)),
                "bound": of(&|clocked| clocked.decided.clone()),
            })
        })
        .collect();
    Ok(json!({
        "title": findings.title(),
        "conclusion": findings.conclusion()?,
        "facts": facts,
        "legend": legend,
        "strips": strips,
        "roofline": roofline(findings, winner),
        "bars": plot::bars(&reasons),
        "rejections": rejections(findings),
        "rows": rows,
        "shown": rows.len(),
        "correct": findings.correct.len(),
        "timed": findings.ranking.len(),
    }))
}

/// The fields of a schedule in order, those too that are not written where they are as ever.
fn fields(schedule: Schedule) -> Vec<(String, String)> {
    let text = schedule.to_string();
    let written = |name: &str| {
        let mut parts = text.split(',').filter_map(|part| part.split_once('='));
        parts.find(|(field, _)| *field == name).map(|(_, value)| value.to_owned())
    };
    let field = |name: &&str| {
        let value = written(name).or_else(|| match *name {
            "matrix" => Some("mma".to_owned()),
            "segments" => Some("1".to_owned()),
            _ => None,
        });
        value.map(|value| ((*name).to_owned(), value))
    };
    match schedule {
        Schedule::Forward(_) => Forward::FIELDS.iter().filter_map(field).collect(),
        Schedule::Backward(_) => Backward::FIELDS.iter().filter_map(field).collect(),
        Schedule::Decode(_) => Decode::FIELDS.iter().filter_map(field).collect(),
    }
}

/// Time against every field that takes more than one value; coloured by value split, which is what most often
/// separates candidates of one chunk length, or by the first field where there is none.
fn strips(findings: &Findings, winner: Schedule) -> (String, Vec<String>) {
    let all: Vec<Vec<(String, String)>> = findings.ranking.iter().map(|(schedule, _)| fields(*schedule)).collect();
    let names: Vec<String> = all.first().into_iter().flatten().map(|(name, _)| name.clone()).collect();
    let levels = |field: usize| {
        let mut levels: Vec<&String> = all.iter().filter_map(|row| row.get(field)).map(|(_, value)| value).collect();
        levels.sort_by_key(|value| (value.parse::<u64>().unwrap_or(0), (*value).clone()));
        levels.dedup();
        levels.into_iter().cloned().collect::<Vec<String>>()
    };
    let colour = names.iter().position(|name| name == "value_split").unwrap_or(0);
    let series = levels(colour);
    let mut strips = Vec::new();
    for (field, name) in names.iter().enumerate() {
        let levels = levels(field);
        if levels.len() < 2 {
            continue;
        }
        let place = |levels: &[String], row: &[(String, String)], field: usize| {
            levels.iter().position(|level| row.get(field).is_some_and(|(_, value)| value == level)).unwrap_or(0)
        };
        let marks: Vec<Mark> = findings
            .ranking
            .iter()
            .zip(&all)
            .map(|((schedule, sample), row)| Mark {
                x: place(&levels, row, field) as f64,
                y: sample.time.micros,
                series: place(&series, row, colour),
                ringed: *schedule == winner,
                label: format!("{schedule}: {}", micros(sample.time.micros)),
            })
            .collect();
        // A floor far below would squeeze the dots together; the conclusion above states it.
        let floor = Some(findings.search.floor_micros).filter(|floor| *floor * 4.0 > findings.ranking[0].1.time.micros);
        strips.push(plot::strip(name, &levels, &marks, field != colour, floor));
    }
    (plot::legend(names.get(colour).map_or("", String::as_str), &series), strips)
}

fn roofline(findings: &Findings, winner: Schedule) -> String {
    let Some(constants) = &findings.constants else {
        return "<p>Nothing is known of this GPU but what it measured: it has no roofs.</p>".to_owned();
    };
    let bytes = findings.search.job.compulsory_bytes();
    let marks: Vec<Mark> = findings
        .ranking
        .iter()
        .filter_map(|(schedule, sample)| {
            let work =
                |launch: &crate::model::LaunchLoad| 2.0 * (launch.load.mma + launch.load.wgmma) * launch.blocks as f64;
            // Candidates without matrix work (decode) do the recurrence's own multiply-adds.
            let flop: f64 = sample.launches.iter().map(work).sum();
            let flop = if flop > 0.0 { flop } else { 2.0 * findings.search.job.multiply_adds() };
            let decided = longest(&sample.launches).map(|(_, clocked)| clocked.decided.as_str());
            (!sample.launches.is_empty()).then(|| Mark {
                x: flop / bytes,
                y: flop / sample.time.micros / 1e6,
                series: match decided {
                    Some("memory") => 1,
                    Some("wgmma" | "mma") => 2,
                    _ => 0,
                },
                ringed: *schedule == winner,
                label: format!("{schedule}: {}", micros(sample.time.micros)),
            })
        })
        .collect();
    if marks.is_empty() {
        return "<p>No candidate of this log carries counts.</p>".to_owned();
    }
    let rate = |name: &str| 2.0 * constants.get(name) * constants.get("sms") * constants.get("clock") / 1e6;
    let mut roofs = vec![("warp matrix instructions".to_owned(), rate("mma"))];
    if findings.search.job.arch.limits().wgmma.is_some() {
        roofs.push(("warpgroup matrix instructions".to_owned(), rate("wgmma")));
    }
    let legend = plot::legend("decided by", &["instructions and waits", "memory", "matrix units"].map(str::to_owned));
    format!("{}{legend}", plot::roofline(&marks, constants.get("dram_bytes") * 1e9, &roofs))
}

/// Rejections grouped by what they say, numbers aside.
fn rejections(findings: &Findings) -> Vec<Value> {
    let mut groups: Vec<(String, String, usize, String)> = Vec::new();
    for (schedule, reason, detail) in &findings.rejected {
        let pattern: String = detail.chars().filter(|c| !c.is_ascii_digit()).collect();
        match groups.iter_mut().find(|(name, known, ..)| name == reason.name() && *known == pattern) {
            Some((_, _, count, _)) => *count += 1,
            None => groups.push((reason.name().to_owned(), pattern, 1, format!("{schedule}: {detail}"))),
        }
    }
    groups.sort_by(|a, b| b.2.cmp(&a.2).then_with(|| a.0.cmp(&b.0)));
    let row = |(reason, _, count, example)| json!({ "reason": reason, "count": count, "example": example });
    groups.into_iter().map(row).collect()
}
