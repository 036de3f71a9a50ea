//! What is reported of a launch: findings that one statement in one place would put right are one.

use super::{Full, Key, Raw, Side};
use crate::isa::entry::Entry;
use crate::isa::hopper::Async;
use crate::isa::inst::{Flow, Inst, Op, WarpOp};
use crate::report::finding::{Finding, MOST, Pair, Party, Rule};
use crate::report::place::{Place, Sources};

/// Findings that stand or fall together, and where in the text what is missing may stand.
#[derive(Debug)]
struct Group {
    rule: Rule,
    found: Vec<(Key, Raw)>,
    span: Option<Span>,
}

/// Where a statement that orders two accesses may stand: after one instruction and before another, or, in a loop that
/// orders them so already, after the last of them and before the first comes round again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    low: u32,
    high: u32,
    around: bool,
}

impl Span {
    /// Two accesses that nothing orders came in the order that the machine ran its warps in: which was first says nothing.
    /// None where there is no one place to name.
    fn of(rule: Rule, raw: &Raw, entry: &Entry) -> Option<Span> {
        let pc = [raw.side.at.pc, raw.other.as_ref()?.0.at.pc];
        let (low, high) = (pc[0].min(pc[1]), pc[0].max(pc[1]));
        let fence = matches!(rule, Rule::MissingProxyFence | Rule::MissingWgmmaFence);
        if fence {
            // What was written comes first.
            return (pc[1] < pc[0]).then_some(Span { low, high, around: false });
        }
        if low == high || !matches!(rule, Rule::SharedRace | Rule::GlobalRace | Rule::MissingSyncwarp) {
            return None;
        }
        let orders = |op: &Op| match op {
            Op::Warp(WarpOp::SyncWarp { .. }) => rule == Rule::MissingSyncwarp,
            Op::Warp(WarpOp::Bar { .. } | WarpOp::BarRed { .. }) => true,
            _ => false,
        };
        let between = &entry.insts[low as usize..high as usize];
        if between.iter().any(|inst| matches!(inst.op, Op::Async(Async::MbarWait { .. }))) {
            return None;
        }
        let around = between.iter().any(|inst| orders(&inst.op));
        let back = |(from, inst): (u32, &Inst)| match inst.op {
            Op::Flow(Flow::Bra { target, .. }) => target <= low && from >= high,
            _ => false,
        };
        (!around || (0..).zip(&entry.insts).any(back)).then_some(Span { low, high, around })
    }

    /// The places that serve both.
    fn meet(self, other: Span) -> Option<Span> {
        let (low, high) = (self.low.max(other.low), self.high.min(other.high));
        if self.around != other.around {
            return None;
        }
        if self.around {
            // In loops that are one, what is within one pair's ends is within the other's.
            let (low, high) = (self.low.min(other.low), self.high.max(other.high));
            let overlap = self.low.max(other.low) <= self.high.min(other.high);
            return overlap.then_some(Span { low, high, around: true });
        }
        (low < high).then_some(Span { low, high, around: false })
    }
}

/// As few statements as put all of these right, each with what it would settle: of spans in order of their ends, the
/// first one's end serves every other that it lies in.
fn grouped(found: impl Iterator<Item = (Key, Raw)>, entry: &Entry) -> Vec<Group> {
    let spans = found.map(|(key, raw)| (Span::of(key.1, &raw, entry), key, raw));
    let mut found: Vec<(Option<Span>, Key, Raw)> = spans.collect();
    found.sort_by_key(|(span, _, raw)| span.map_or(raw.side.at.pc, |span| span.high));
    let mut groups: Vec<Group> = Vec::new();
    for (span, key, raw) in found {
        let met = |group: &Group| {
            let alike = group.rule == key.1 && group.found.iter().any(|(_, one)| one.fix == raw.fix);
            group.span.filter(|_| alike)?.meet(span?)
        };
        match groups.iter_mut().find_map(|group| met(group).map(|met| (group, met))) {
            Some((group, met)) => {
                group.span = Some(met);
                group.add(key, raw);
            }
            None => groups.push(Group { rule: key.1, found: vec![(key, raw)], span }),
        }
    }
    // What no one has written yet because the writer may come later is a race, told once.
    let races: Vec<u32> = groups
        .iter()
        .filter(|group| group.rule == Rule::SharedRace)
        .flat_map(|group| &group.found)
        .flat_map(|(key, _)| [Some(key.0), key.2])
        .flatten()
        .collect();
    groups.retain(|group| {
        let early = |(key, _): &(Key, Raw)| key.1 == Rule::UninitialisedShared && races.contains(&key.0);
        !group.found.iter().all(early)
    });
    let (lanes, mut groups): (Vec<Group>, Vec<Group>) =
        groups.into_iter().partition(|group| group.rule == Rule::MissingSyncwarp);
    // A barrier of the block is one of each warp.
    for within in lanes {
        let races = groups.iter_mut().filter(|group| group.rule == Rule::SharedRace || group.rule == Rule::GlobalRace);
        let met = |group: &Group| group.span?.meet(within.span?);
        match races.map(|group| (met(group), group)).find_map(|(met, group)| Some((met?, group))) {
            Some((met, group)) => {
                group.span = Some(met);
                within.found.into_iter().for_each(|(key, raw)| group.add(key, raw));
            }
            None => groups.push(within),
        }
    }
    // What was met most often is told first of each.
    for group in &mut groups {
        group.found.sort_by_key(|(key, raw)| (key.1 != group.rule, std::cmp::Reverse(raw.times)));
    }
    groups.sort_by_key(|group| group.span.map_or(u32::MAX, |span| span.high));
    groups
}

impl Group {
    /// One more; the same two lines the other way about, or in lanes of one warp, are no other pair.
    fn add(&mut self, key: Key, raw: Raw) {
        let about =
            |known: &Key| known.2 == Some(key.0) && key.2 == Some(known.0) || (known.0, known.2) == (key.0, key.2);
        match self.found.iter_mut().find(|(known, _)| about(known)) {
            Some((_, known)) => known.times += raw.times,
            None => self.found.push((key, raw)),
        }
    }
}

/// Looks up places.
struct Sites<'a> {
    entry: &'a Entry,
    sources: &'a Sources,
}

impl Sites<'_> {
    fn place(&self, side: &Side) -> Place {
        let site = &self.entry.sites[side.at.pc as usize];
        Place {
            entry: self.entry.name.clone(),
            ptx_line: site.ptx_line,
            instruction: site.text.clone(),
            source: site.loc.map(|loc| self.sources.line(loc)),
            called_from: site.loc.and_then(|loc| self.sources.calls(loc).next()),
            block: side.block,
            warp: side.at.warp,
            lane: side.lane,
        }
    }

    fn pair(&self, raw: &Raw) -> Pair {
        let party = |(side, who, wrote): &(Side, String, bool)| Party {
            who: who.clone(),
            wrote: *wrote,
            place: self.place(side),
        };
        Pair { place: self.place(&raw.side), other: raw.other.as_ref().map(party), times: raw.times }
    }

    /// Where a statement would be put that is to stand before or after this: the line, or that of the call.
    fn anchor(&self, pc: u32) -> String {
        let site = &self.entry.sites[pc as usize];
        match site.loc.map(|loc| self.sources.calls(loc).next().map_or(loc.line, |call| call.line)) {
            Some(line) => format!("line {line}"),
            None => format!("PTX line {}", site.ptx_line),
        }
    }

    /// The likeliest remedy first.
    fn remedy(&self, group: &Group, first: &Raw) -> String {
        let races = matches!(group.rule, Rule::SharedRace | Rule::GlobalRace);
        let (at, other) = (self.place(&first.side), first.other.as_ref());
        // One line that touches one word from several warps: order alone would not say whose value it is to have.
        let same_line = other.filter(|_| races && group.found.len() == 1).filter(|(side, ..)| {
            let other = self.place(side);
            other.line() == at.line() && other.called_from == at.called_from
        });
        if let Some((other, ..)) = same_line {
            let whose = if other.at.pc == first.side.at.pc {
                "let one warp alone write these bytes, or give each its own"
            } else {
                "an atomic operation, if several warps are to update one word"
            };
            return format!("{whose}; else {}", first.fix);
        }
        let Some(span) = group.span else { return first.fix.to_owned() };
        let (low, high) = (self.anchor(span.low), self.anchor(span.high));
        match (races || group.rule == Rule::MissingSyncwarp, span.around) {
            (true, _) if low == high => first.fix.to_owned(),
            (true, true) => format!("{}: after {high}, before {low} comes round again", first.fix),
            (true, false) => format!("{}: after {low} and before {high}", first.fix),
            (false, _) => format!("{} ({low})", first.fix),
        }
    }
}

impl Full {
    /// The findings with their places, in the order of the text, and how many more there are.
    pub(crate) fn report(self, entry: &Entry, sources: &Sources) -> (Vec<Finding>, u64) {
        let left_out = self.left_out;
        let sites = Sites { entry, sources };
        let groups = grouped(self.found.into_iter(), entry);
        let finding = |group: Group| {
            let ((_, first), rest) = group.found.split_first()?;
            let Pair { place, other, .. } = sites.pair(first);
            Some(Finding {
                rule: group.rule,
                what: first.what.clone(),
                place: Some(place),
                other,
                also: rest.iter().map(|(_, raw)| sites.pair(raw)).collect(),
                fix: sites.remedy(&group, first),
                times: group.found.iter().map(|(_, raw)| raw.times).sum(),
            })
        };
        let mut all: Vec<Finding> = groups.into_iter().filter_map(finding).collect();
        let more = all.len().saturating_sub(MOST) as u64 + left_out;
        all.truncate(MOST);
        (all, more)
    }
}
