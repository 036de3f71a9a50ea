//! A PTX text with each of its ordering statements removed or weakened, one at a time.

/// Statements that order something, by how they start.
const ORDERING: [&str; 13] = [
    "bar.sync",
    "bar.arrive",
    "barrier.",
    "bar.warp.sync",
    "cp.async.commit_group",
    "cp.async.wait_group",
    "cp.async.wait_all",
    "cp.async.bulk.commit_group",
    "cp.async.bulk.wait_group",
    "fence.",
    "membar.",
    "mbarrier.",
    "wgmma.",
];

/// A text with one statement changed.
pub struct Mutant {
    /// Line of the statement, from 0.
    pub line: usize,
    /// What was done to it.
    pub what: String,
    /// The changed text.
    pub ptx: String,
}

/// The ordering statement of a PTX line, its guard left out.
pub fn ordering(line: &str) -> Option<&str> {
    let statement = line.trim();
    let statement = match statement.strip_prefix('@') {
        Some(guarded) => guarded.split_once(char::is_whitespace)?.1.trim_start(),
        None => statement,
    };
    let orders = ORDERING.iter().any(|start| statement.starts_with(start)) && !statement.starts_with("wgmma.mma");
    orders.then_some(statement)
}

/// The text with line `at` replaced.
pub fn with_line(ptx: &str, at: usize, by: &str) -> String {
    ptx.lines().enumerate().map(|(i, line)| if i == at { by } else { line }).collect::<Vec<_>>().join("\n")
}

/// What a statement may be weakened to, where there is something.
fn weaker(statement: &str) -> Option<String> {
    let one_more = |kind: &str| {
        let groups = statement.strip_prefix(kind)?.trim().trim_end_matches(';').parse::<u32>().ok()?;
        Some(format!("{kind} {};", groups + 1))
    };
    let waits = ["cp.async.wait_group", "cp.async.bulk.wait_group.read", "cp.async.bulk.wait_group"];
    let barrier = statement.starts_with("bar.sync") || statement.starts_with("barrier.sync");
    let in_warp = || barrier.then(|| "bar.warp.sync 0xffffffff;".to_owned());
    waits.into_iter().chain(["wgmma.wait_group.sync.aligned"]).find_map(one_more).or_else(in_warp)
}

/// What stands for a wait that is over at once: without the wait, the loop around it would never end.
fn passed(statement: &str) -> Option<String> {
    let over = statement.strip_prefix("mbarrier.try_wait")?.split_whitespace().nth(1)?;
    Some(format!("setp.eq.u32 {over} 0, 0;"))
}

/// Every mutant of a text whose line `wanted` takes.
pub fn mutants(ptx: &str, wanted: impl Fn(usize) -> bool) -> Vec<Mutant> {
    let mut mutants = Vec::new();
    for (line, text) in ptx.lines().enumerate().filter(|(line, _)| wanted(*line)) {
        let Some(statement) = ordering(text) else { continue };
        if let Some(passed) = passed(statement) {
            mutants.push(Mutant { line, what: format!("passing `{statement}`"), ptx: with_line(ptx, line, &passed) });
            continue;
        }
        mutants.push(Mutant { line, what: format!("without `{statement}`"), ptx: with_line(ptx, line, "") });
        if let Some(weaker) = weaker(statement) {
            let what = format!("`{statement}` weakened to `{weaker}`");
            mutants.push(Mutant { line, what, ptx: with_line(ptx, line, &text.replace(statement, &weaker)) });
        }
    }
    mutants
}
