//! `gdn2 tune --explain-illegal`: the candidates that are not legal, by what refuses them.

use std::collections::BTreeMap;

use gdn2_codegen::arch::Arch;
use gdn2_codegen::bind;
use gdn2_codegen::kernel::Pass;
use gdn2_codegen::schedule::Schedule;
use gdn2_codegen::space::space;
use gdn2_dsl::Rule;
use gdn2_tune::job::Job;

use crate::error::CliError;
use crate::{Verdict, grid, write};

/// What one limit of one field refuses.
struct Group {
    /// Values that were refused, each once, in the order of the space.
    values: Vec<String>,
    candidates: usize,
    example: Schedule,
}

/// Values of a group that are printed; the others are counted.
const VALUES: usize = 6;

/// Prints the candidates of each rule and pass that are not legal, grouped by field and limit, most of them first.
pub(super) fn explain(jobs: &[Job]) -> Result<Verdict, CliError> {
    let mut told: Vec<(&Rule, Pass)> = Vec::new();
    for Job { rule, pass, arch, .. } in jobs {
        if told.contains(&(rule, *pass)) {
            continue;
        }
        told.push((rule, *pass));
        let text = table(rule, *pass, *arch)?;
        let name = if jobs.len() > 1 { format!("{} {pass}\n", rule.name) } else { String::new() };
        write::stdout(format!("{name}{text}").as_bytes())?;
    }
    Ok(Verdict::Good)
}

fn table(rule: &Rule, pass: Pass, arch: Arch) -> Result<String, CliError> {
    let candidates = space(rule, pass, arch)?;
    let mut groups: BTreeMap<(String, String), Group> = BTreeMap::new();
    for schedule in &candidates {
        let Err(refusal) = bind(rule, pass, *schedule, arch) else { continue };
        let key = (refusal.field.to_string(), refusal.limit);
        let group = groups.entry(key).or_insert(Group { values: Vec::new(), candidates: 0, example: *schedule });
        group.candidates += 1;
        if !group.values.contains(&refusal.got) {
            group.values.push(refusal.got);
        }
    }
    let mut table = grid::with_schedules(["field", "limit", "values", "candidates", "such as"], 4);
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, group)| std::cmp::Reverse(group.candidates));
    for ((field, limit), group) in &groups {
        let mut values = group.values.iter().take(VALUES).cloned().collect::<Vec<_>>().join(", ");
        if group.values.len() > VALUES {
            values += &format!(" and {} more", group.values.len() - VALUES);
        }
        table.add_row([field.clone(), limit.clone(), values, group.candidates.to_string(), group.example.to_string()]);
    }
    let illegal: usize = groups.iter().map(|(_, group)| group.candidates).sum();
    Ok(format!("{table}\n{illegal} of {} candidates are not legal on {arch}\n", candidates.len()))
}
