//! A PTX text with each of its ordering statements removed, weakened, changed or moved, one at a time.

mod flow;
mod moved;

use std::fmt;
use std::ops::Range;

use moved::moved;

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

/// What is done to a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It is gone.
    Removed,
    /// A wait for one group fewer, a barrier for the warp alone.
    Weakened,
    /// A wait for a phase is over at once: without the wait, the loop around it would never end.
    Passed,
    /// A wait for the phase before.
    Parity,
    /// A barrier for one arrival more, or one warp more.
    MoreArrivals,
    /// A barrier for one arrival fewer, or one warp fewer.
    FewerArrivals,
    /// The mbarrier that lies behind.
    Id,
    /// An arrival that comes twice.
    Doubled,
    /// It is left to the odd warps.
    OddWarps,
    /// It is left to one lane of each warp.
    OneLane,
    /// It stands before the nearest thing above that it is about.
    MovedUp,
    /// It stands behind the nearest thing below that it is about.
    MovedDown,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Removed => "removed",
            Self::Weakened => "weakened",
            Self::Passed => "passed",
            Self::Parity => "parity",
            Self::MoreArrivals => "more arrivals",
            Self::FewerArrivals => "fewer arrivals",
            Self::Id => "id",
            Self::Doubled => "doubled",
            Self::OddWarps => "odd warps",
            Self::OneLane => "one lane",
            Self::MovedUp => "moved up",
            Self::MovedDown => "moved down",
        })
    }
}

/// A text with one statement changed.
pub struct Mutant {
    /// Line of the statement, from 0.
    pub line: usize,
    /// The line it moved to.
    pub to: Option<usize>,
    /// What was done to it.
    pub kind: Kind,
    /// The statement as it was.
    pub statement: String,
    /// The changed text.
    pub ptx: String,
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PTX line {}: `{}`, {}", self.line + 1, self.statement, self.kind)?;
        self.to.map_or(Ok(()), |to| write!(f, " to line {}", to + 1))
    }
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

/// A statement's name: what stands before its operands.
pub fn name(statement: &str) -> &str {
    statement.split([' ', '\t', ';']).next().unwrap_or(statement)
}

/// The text with line `at` replaced.
pub fn with_line(ptx: &str, at: usize, by: &str) -> String {
    ptx.lines().enumerate().map(|(i, line)| if i == at { by } else { line }).collect::<Vec<_>>().join("\n")
}

/// The operands of a statement.
fn operands(statement: &str) -> Vec<&str> {
    let all = statement[name(statement).len()..].trim().trim_end_matches(';');
    all.split(',').map(str::trim).filter(|operand| !operand.is_empty()).collect()
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

/// Everything a statement is changed to, by kind.
fn changes(statement: &str) -> Vec<(Kind, String)> {
    let (name, operands) = (name(statement), operands(statement));
    if name.starts_with("mbarrier.try_wait") {
        // The third operand is a phase, or its parity.
        let [over, barrier, parity] = operands[..] else { return Vec::new() };
        let before = format!("{{ .reg .b32 before; xor.b32 before, {parity}, 1; {name} {over}, {barrier}, before; }}");
        let behind = statement.replacen(']', "+8]", 1);
        return vec![(Kind::Passed, format!("setp.ne.u32 {over}, 1, 0;")), (Kind::Parity, before), (Kind::Id, behind)];
    }
    let mut all = vec![(Kind::Removed, String::new())];
    all.extend(weaker(statement).map(|by| (Kind::Weakened, by)));
    let counted = |more: i64, operand: usize| {
        let mut changed: Vec<String> = operands.iter().map(|&operand| operand.to_owned()).collect();
        let count = changed.get(operand)?;
        // A number or a register that holds it.
        let scratch = format!("{{ .reg .b32 n; add.s32 n, {count}, {more}; ");
        let number = count.parse::<i64>().ok().map(|count| (count + more).to_string());
        let before = if number.is_some() { "{ " } else { scratch.as_str() }.to_owned();
        changed[operand] = number.unwrap_or_else(|| "n".to_owned());
        Some(format!("{before}{name} {}; }}", changed.join(", ")))
    };
    let mut count = |operand: usize, by: i64| {
        all.extend(counted(by, operand).map(|by| (Kind::MoreArrivals, by)));
        all.extend(counted(-by, operand).map(|by| (Kind::FewerArrivals, by)));
    };
    if name.starts_with("mbarrier.init") {
        count(1, 1);
    }
    if name.starts_with("bar.sync") || name.starts_with("bar.arrive") {
        count(1, 32);
        let odd = "{ .reg .pred odd; .reg .b32 warp; mov.u32 warp, %tid.x; and.b32 warp, warp, 32; setp.ne.u32 odd, warp, 0; ";
        all.push((Kind::OddWarps, format!("{odd}@odd {statement} }}")));
    }
    if ["cp.async.mbarrier", "cp.async.wait"].iter().any(|by_lane| name.starts_with(by_lane)) {
        let first = "{ .reg .pred first; .reg .b32 lane; mov.u32 lane, %laneid; setp.eq.u32 first, lane, 0; ";
        all.push((Kind::OneLane, format!("{first}@first {statement} }}")));
    }
    if name.starts_with("mbarrier.arrive") || name.starts_with("cp.async.mbarrier.arrive") {
        all.push((Kind::Doubled, format!("{statement} {statement}")));
        all.push((Kind::Id, statement.replacen(']', "+8]", 1)));
    }
    all
}

/// Every mutant of a text whose statement is in one of these kernels.
pub fn mutants(ptx: &str, kernels: &[Range<usize>]) -> Vec<Mutant> {
    let wanted = |line: usize| kernels.iter().any(|lines| lines.contains(&line));
    let lines = ptx.lines().enumerate().filter(|(line, _)| wanted(*line));
    let of_line = |(line, text): (usize, &str)| {
        let Some(statement) = ordering(text) else { return Vec::new() };
        let mutant = |(kind, by): (Kind, String)| {
            // A guard stays before what replaces one statement.
            let by = if by.starts_with('{') { by } else { text.replace(statement, &by) };
            let by = if kind == Kind::Removed { String::new() } else { by };
            Mutant { line, to: None, kind, statement: statement.to_owned(), ptx: with_line(ptx, line, &by) }
        };
        changes(statement).into_iter().map(mutant).collect()
    };
    lines.flat_map(of_line).chain(kernels.iter().flat_map(|lines| moved(ptx, lines.clone()))).collect()
}
