//! Ordering statements on the wrong side of what they order: each moved across the nearest neighbour that its kind is about.

use super::flow::{Flow, Item, Place};
use super::{Kind, Mutant, name, operands, ordering};
use std::ops::Range;

/// What an ordering statement's neighbours are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    /// A barrier of threads, waited at.
    Barrier,
    /// One of a warp's lanes.
    Warp,
    /// An arrival at one.
    Arrival,
    /// The end of a group of copies, and the wait for one.
    CopyGroup,
    CopyWait,
    /// A fence between the views of generic and asynchronous instructions.
    ProxyFence,
    /// A fence behind initialised mbarriers.
    InitFence,
    /// A fence between threads of the device.
    Fence,
    /// An mbarrier begun, arrived at, arrived at by copies, waited at.
    Init,
    Arrive,
    CopyArrive,
    Wait,
    /// What lies around asynchronous products.
    ProductFence,
    ProductGroup,
    ProductWait,
}

impl Family {
    fn of(statement: &str) -> Option<Family> {
        let name = name(statement);
        let starts = |any: &[&str]| any.iter().any(|start| name.starts_with(start));
        Some(match () {
            () if starts(&["bar.arrive", "barrier.arrive"]) => Self::Arrival,
            () if starts(&["bar.warp"]) => Self::Warp,
            () if starts(&["bar.", "barrier."]) => Self::Barrier,
            () if starts(&["cp.async.commit_group", "cp.async.bulk.commit_group"]) => Self::CopyGroup,
            () if starts(&["cp.async.wait", "cp.async.bulk.wait"]) => Self::CopyWait,
            () if starts(&["cp.async.mbarrier.arrive"]) => Self::CopyArrive,
            () if starts(&["fence.proxy"]) => Self::ProxyFence,
            () if starts(&["fence.mbarrier_init"]) => Self::InitFence,
            () if starts(&["fence.", "membar."]) => Self::Fence,
            () if starts(&["mbarrier.init"]) => Self::Init,
            () if starts(&["mbarrier.arrive"]) => Self::Arrive,
            () if starts(&["mbarrier.try_wait", "mbarrier.test_wait"]) => Self::Wait,
            () if starts(&["wgmma.fence"]) => Self::ProductFence,
            () if starts(&["wgmma.commit"]) => Self::ProductGroup,
            () if starts(&["wgmma.wait"]) => Self::ProductWait,
            () => return None,
        })
    }

    /// Statements of families that this one never passes, as it would mean the same or another thing altogether.
    fn stops_at(self, other: Family) -> bool {
        match self {
            Self::Init => false,
            Self::Warp => matches!(other, Self::Warp | Self::Barrier | Self::Arrival | Self::Wait),
            Self::Barrier | Self::Arrival => matches!(other, Self::Barrier | Self::Arrival | Self::Wait),
            _ => self == other,
        }
    }

    /// Whether an item that stands before a statement of this family, or behind it, is what the statement is about; or,
    /// `or_else`, what it is about where there is nothing of the first kind.
    fn is_about(self, item: &Item, down: bool, or_else: bool) -> bool {
        let is = |any: &[Family]| family(item).is_some_and(|family| any.contains(&family));
        let text = item.text.as_str();
        let has = |what: &[&str]| what.iter().any(|what| text.contains(what));
        let (copy, product) = (copies(text), text.contains("wgmma.mma_async"));
        match (self, down, or_else) {
            // What was written is read: or what was read is written. A wait for copies that stands before a barrier moves
            // behind it by itself.
            (Self::Barrier | Self::Arrival, false, false) => writes(text) || is(&[Self::InitFence, Self::Init]),
            (Self::Warp, false, false) => writes(text),
            (Self::Barrier, true, false) => reads(text) || product,
            (Self::Warp, true, false) => reads(text) || is(&[Self::Arrive]),
            (Self::Barrier | Self::Arrival | Self::Warp, false, true) => reads(text),
            (Self::Barrier | Self::Warp, true, true) => writes(text) || copy,
            (Self::Wait, true, false) => reads(text) || copy || product,
            (Self::Wait, true, true) => writes(text),
            (Self::CopyGroup | Self::CopyArrive, false, false) => copy,
            (Self::CopyGroup, true, false) => is(&[Self::CopyWait]),
            (Self::CopyWait, false, false) => is(&[Self::CopyGroup]),
            (Self::CopyWait, true, false) => is(&[Self::Barrier, Self::Arrive]),
            (Self::CopyWait, true, true) => reads(text),
            (Self::ProxyFence, false, false) => writes(text),
            // Behind a barrier it is as good as before it, for threads that pass both.
            (Self::ProxyFence, true, false) => (is(&[Self::Arrive]) && !text.contains("expect_tx")) || copy || product,
            (Self::InitFence, false, false) => is(&[Self::Init]),
            (Self::InitFence | Self::Init, true, false) => is(&[Self::Barrier, Self::Arrive, Self::Wait]),
            (Self::Fence, false, false) => has(&["st.global", "ld.global"]),
            (Self::Fence, true, false) => has(&["st.global", "red.", "atom."]),
            (Self::Arrive, false, false) => {
                reads(text)
                    || writes(text)
                    || copy
                    || is(&[Self::Barrier, Self::Warp, Self::ProxyFence, Self::ProductWait, Self::CopyWait, Self::Wait])
            }
            (Self::ProductFence, true, false) => is(&[Self::ProductGroup]),
            (Self::ProductGroup, false, false) => product,
            (Self::ProductGroup, true, false) => is(&[Self::ProductWait]),
            (Self::ProductWait, false, false) => is(&[Self::ProductGroup]),
            (Self::ProductWait, true, false) => is(&[Self::Barrier, Self::Arrive]),
            _ => false,
        }
    }
}

/// The family of an item's ordering statement.
fn family(item: &Item) -> Option<Family> {
    let lone = ordering(&item.text).and_then(Family::of);
    lone.or_else(|| item.text.contains("mbarrier.try_wait").then_some(Family::Wait))
}

/// A copy in the background, not what orders copies.
fn copies(text: &str) -> bool {
    let copies = ["cp.async.c", "cp.async.bulk.", "cp.reduce.async"].iter().any(|what| text.contains(what));
    copies && !text.contains("_group")
}

/// Shared memory is read, or written, where others may see it.
fn reads(text: &str) -> bool {
    ["ld.shared", "ld.volatile.shared", "ldmatrix"].iter().any(|what| text.contains(what))
}

fn writes(text: &str) -> bool {
    ["st.shared", "st.volatile.shared", "stmatrix", "atom.shared", "red.shared"].iter().any(|what| text.contains(what))
}

/// Registers that a text names.
fn registers(text: &str) -> Vec<&str> {
    let starts = text.match_indices('%').map(|(at, _)| &text[at..]);
    let end = |from: &&str| from[1..].find(|c: char| !c.is_ascii_alphanumeric()).map_or(from.len(), |end| end + 1);
    starts.map(|from| &from[..end(&from)]).filter(|name| name.ends_with(|c: char| c.is_ascii_digit())).collect()
}

/// Whether an item may change one of these registers: its first operand is one, or it is a group that names one.
fn changes(item: &Item, registers_of: &[&str]) -> bool {
    let statement = item.statement();
    let stores = ["st.", "bra", "bar", "red", "cp.", "stmatrix"].iter().any(|start| statement.starts_with(start));
    let rest = &statement[name(statement).len()..];
    let written = match rest.trim_start().strip_prefix('{') {
        _ if statement.starts_with('{') => statement,
        Some(several) => several.split('}').next().unwrap_or(several),
        None => rest.split(',').next().unwrap_or(rest),
    };
    !stores && registers(written).iter().any(|register| registers_of.contains(register))
}

/// Where a statement goes to pass the nearest neighbour that it is about. A fence for several mbarriers passes all of them,
/// and a wait for copies all reads, where no barrier says which of them are read.
/// `more` are registers that it is about as well.
fn across(flow: &Flow, places: &[Place], of: Family, statement: &str, down: bool, more: &[&str]) -> Option<Place> {
    let own = registers(statement);
    let nearest = |or_else: bool| {
        let mut found = None;
        for place in places {
            let items = || place.passes.iter().map(|at| &flow.items[*at]);
            if items().any(|item| changes(item, &own)) {
                break;
            }
            if items().any(|item| of.is_about(item, down, or_else) || names(item, more)) {
                found = Some(place.clone());
                let all = [(Family::InitFence, false, false), (Family::CopyWait, true, true)];
                if !all.contains(&(of, down, or_else)) {
                    break;
                }
            } else if items().filter_map(family).any(|other| of.stops_at(other)) {
                break;
            }
        }
        found
    };
    nearest(false).or_else(|| nearest(true))
}

fn names(item: &Item, of: &[&str]) -> bool {
    !of.is_empty() && registers(&item.text).iter().any(|register| of.contains(register))
}

/// Registers of the products nearest above an item: those that they sum in.
fn sums(flow: &Flow, item: usize) -> Vec<&str> {
    let above = flow.items[..item].iter().rev().take(400);
    let product = above.map(|item| item.text.as_str()).find_map(|text| text.split("wgmma.mma_async").nth(1));
    let operand = product.and_then(|text| text.split_once('{')?.1.split('}').next());
    operand.map(registers).unwrap_or_default()
}

/// A text with line `from` replaced and a statement added at a place, the number of lines kept.
fn with_moved(ptx: &str, from: usize, left: &str, to: &Place, statement: &str) -> String {
    let line = |(at, line): (usize, &str)| {
        let own = if at == from { left } else { line };
        match to.at {
            (place, true) if place == at => format!("{statement} {own}"),
            // A comment would hide what stands behind it.
            (place, false) if place == at => format!("{} {statement}", own.split("//").next().unwrap_or("")),
            _ => own.to_owned(),
        }
    };
    ptx.lines().enumerate().map(line).collect::<Vec<_>>().join("\n")
}

/// Every statement of a kernel moved up and down, where there is something in that direction that it is about.
pub(super) fn moved(ptx: &str, kernel: Range<usize>) -> Vec<Mutant> {
    let flow = Flow::of(ptx, kernel);
    let mut mutants = Vec::new();
    for (at, item) in flow.items.iter().enumerate() {
        let mut push = |kind: Kind, line: usize, statement: &str, text: &str, left: &str, to: &Place| {
            let ptx = with_moved(ptx, line, left, to, text);
            mutants.push(Mutant { line, to: Some(to.at.0), kind, statement: statement.to_owned(), ptx });
        };
        if let Some((line, statement)) = wait(ptx, item) {
            // The wait for a phase is a loop: it is over at once, and comes again behind what follows.
            let [over, barrier, parity] = operands(statement)[..] else { continue };
            let again = format!(
                "moved{line}: {{ .reg .pred {over}; {} {over}, {barrier}, {parity}; @!{over} bra moved{line}; }}",
                name(statement)
            );
            let left = format!("setp.ne.u32 {over}, 1, 0;");
            let to = across(&flow, &flow.places_behind_the_loop(at), Family::Wait, statement, true, &[]);
            to.iter().for_each(|to| push(Kind::MovedDown, line, statement, &again, &left, to));
            continue;
        }
        let Some((statement, own)) = ordering(&item.text).and_then(|own| Some((own, Family::of(own)?))) else {
            continue;
        };
        for (down, kind) in [(false, Kind::MovedUp), (true, Kind::MovedDown)] {
            let more = if own == Family::ProductWait && down { sums(&flow, at) } else { Vec::new() };
            let to = across(&flow, &flow.places(at, down), own, &item.text, down, &more);
            to.iter().for_each(|to| push(kind, item.lines.start, statement, &item.text, "", to));
        }
    }
    mutants
}

/// The line of a wait for a phase that an item holds, and the statement.
fn wait<'a>(ptx: &'a str, item: &Item) -> Option<(usize, &'a str)> {
    let within = ptx.lines().enumerate().skip(item.lines.start).take(item.lines.len());
    within
        .filter_map(|(line, text)| Some((line, ordering(text)?)))
        .find(|(_, text)| Family::of(text) == Some(Family::Wait))
}
