//! The control flow of one kernel's text: which places run equally often, and what lies between two of them.

use std::collections::HashMap;
use std::ops::Range;

/// One instruction, label or group in braces.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// Its lines.
    pub(super) lines: Range<usize>,
    /// Its text, without space around it, lines of a group joined.
    pub(super) text: String,
}

/// Items that run one after another.
#[derive(Clone, Debug, Default)]
struct Block {
    /// Indices of its items.
    items: Range<usize>,
    next: Vec<usize>,
    /// Some threads may end here.
    ends: bool,
}

/// A kernel's text as blocks.
#[derive(Debug)]
pub(super) struct Flow {
    /// In order of the text.
    pub(super) items: Vec<Item>,
    blocks: Vec<Block>,
    /// Of each block, those that every way to it passes, and those that every way from it passes.
    before: Vec<Vec<bool>>,
    after: Vec<Vec<bool>>,
    /// Of each block, the first blocks of the loops around it.
    loops: Vec<Vec<usize>>,
}

/// Where a statement may stand instead.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Items that it passes on its way from the place before.
    pub(super) passes: Vec<usize>,
    /// A line, and whether the statement stands before what is there, or behind.
    pub(super) at: (usize, bool),
}

impl Item {
    /// What a label is called.
    fn label(&self) -> Option<&str> {
        let name = self.text.strip_suffix(':')?;
        name.chars().all(|c| c.is_ascii_alphanumeric() || "_$".contains(c)).then_some(name)
    }

    /// The instruction without its guard.
    pub(super) fn statement(&self) -> &str {
        match self.text.strip_prefix('@') {
            Some(guarded) => guarded.split_once(char::is_whitespace).map_or("", |(_, rest)| rest.trim_start()),
            None => &self.text,
        }
    }

    /// It ends a block: where it goes, and whether what follows it may run as well.
    fn leaves(&self) -> Option<(Option<&str>, bool)> {
        let (statement, guarded) = (self.statement(), self.text.starts_with('@'));
        let word = statement.split([' ', '\t', ';']).next().unwrap_or("");
        match word {
            "bra" | "bra.uni" => Some((statement[word.len()..].trim().strip_suffix(';').map(str::trim), guarded)),
            "ret" | "exit" | "trap" | "ret.uni" => Some((None, guarded)),
            _ => None,
        }
    }
}

/// The items of a kernel, whose first line holds `.entry`.
fn items(text: &[&str], lines: Range<usize>) -> Vec<Item> {
    let (mut items, mut depth, mut open): (Vec<Item>, i32, Option<usize>) = (Vec::new(), 0, None);
    for (line, code) in text.iter().enumerate().skip(lines.start).take(lines.len()) {
        let code = code.split("//").next().unwrap_or("").trim();
        let before = depth;
        depth += code.matches('{').count() as i32 - code.matches('}').count() as i32;
        match (before, depth) {
            // The kernel's own braces, and parameters before them.
            (0, _) => {}
            (1, 0) => break,
            (1, 1) if code.is_empty() || code.starts_with('.') => {}
            (1, 1) => items.push(Item { lines: line..line + 1, text: code.to_owned() }),
            (1, _) => {
                open = Some(items.len());
                items.push(Item { lines: line..line + 1, text: code.to_owned() });
            }
            (_, now) => {
                if let Some(group) = open.and_then(|at| items.get_mut(at)) {
                    group.lines.end = line + 1;
                    group.text += " ";
                    group.text += code;
                }
                open = open.filter(|_| now > 1);
            }
        }
    }
    items
}

fn blocks(items: &[Item]) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut starts = true;
    for (at, item) in items.iter().enumerate() {
        let after_code = |block: &Block| items[block.items.clone()].iter().any(|item| item.label().is_none());
        starts |= item.label().is_some() && blocks.last().is_some_and(after_code);
        if starts {
            blocks.push(Block { items: at..at, ..Block::default() });
        }
        if let Some(block) = blocks.last_mut() {
            block.items.end = at + 1;
        }
        starts = item.leaves().is_some();
    }
    let mut labels: HashMap<&str, usize> = HashMap::new();
    for (at, block) in blocks.iter().enumerate() {
        labels.extend(items[block.items.clone()].iter().filter_map(|item| Some((item.label()?, at))));
    }
    let count = blocks.len();
    for (at, block) in blocks.iter_mut().enumerate() {
        let (to, falls) = items[block.items.end - 1].leaves().unwrap_or((None, true));
        block.ends = to.is_none() && items[block.items.end - 1].leaves().is_some();
        block.next.extend(to.and_then(|label| labels.get(label)));
        block.next.extend(Some(at + 1).filter(|next| falls && *next < count));
    }
    blocks
}

/// Of each node, the nodes that every way from `roots` to it passes, itself among them.
fn passed(edges_into: &[Vec<usize>], roots: &[bool]) -> Vec<Vec<bool>> {
    let count = edges_into.len();
    let mut all: Vec<Vec<bool>> = (0..count)
        .map(|node| if roots[node] { (0..count).map(|other| other == node).collect() } else { vec![true; count] })
        .collect();
    let mut changed = true;
    while changed {
        changed = false;
        for node in (0..count).filter(|node| !roots[*node]) {
            let common = |other: usize| other == node || edges_into[node].iter().all(|from| all[*from][other]);
            let now: Vec<bool> = (0..count).map(common).collect();
            changed |= now != all[node];
            all[node] = now;
        }
    }
    all
}

impl Flow {
    /// Of the kernel in these lines of a text.
    pub(super) fn of(text: &str, lines: Range<usize>) -> Flow {
        let all: Vec<&str> = text.lines().collect();
        let items = items(&all, lines);
        let blocks = blocks(&items);
        let count = blocks.len();
        let mut into = vec![Vec::new(); count];
        for (at, block) in blocks.iter().enumerate() {
            block.next.iter().for_each(|next| into[*next].push(at));
        }
        let out: Vec<Vec<usize>> = blocks.iter().map(|block| block.next.clone()).collect();
        let before = passed(&into, &(0..count).map(|at| at == 0).collect::<Vec<_>>());
        let after = passed(&out, &blocks.iter().map(|block| block.ends || block.next.is_empty()).collect::<Vec<_>>());
        let mut loops = vec![Vec::new(); count];
        for (from, head) in out.iter().enumerate().flat_map(|(from, next)| next.iter().map(move |head| (from, *head))) {
            if before[from][head] {
                for inside in reached(&into, from, head) {
                    loops[inside].push(head);
                }
            }
        }
        loops.iter_mut().for_each(|heads| {
            heads.sort_unstable();
            heads.dedup();
        });
        Flow { items, blocks, before, after, loops }
    }

    fn block_of(&self, item: usize) -> Option<usize> {
        self.blocks.iter().position(|block| block.items.contains(&item))
    }

    /// `b` runs exactly as often as `a`, which comes first.
    fn equally_often(&self, a: usize, b: usize) -> bool {
        a != b && self.before[b][a] && self.after[a][b] && self.loops[a] == self.loops[b]
    }

    /// The next block that runs as often as this one, or the last one before it that does.
    fn neighbour(&self, block: usize, down: bool) -> Option<usize> {
        let all = 0..self.blocks.len();
        let mut found = all.filter(|other| match down {
            true => self.equally_often(block, *other),
            false => self.equally_often(*other, block),
        });
        // The nearest is the one that all others lie behind.
        let first = found.next()?;
        Some(found.fold(first, |nearest, other| match down {
            true if self.equally_often(other, nearest) => other,
            false if self.equally_often(nearest, other) => other,
            _ => nearest,
        }))
    }

    /// Items of the blocks between two that run equally often.
    fn between(&self, first: usize, last: usize) -> Vec<usize> {
        let next: Vec<Vec<usize>> = self.blocks.iter().map(|block| block.next.clone()).collect();
        let mut blocks = Vec::new();
        for start in self.blocks[first].next.iter().filter(|start| **start != last) {
            blocks.extend(reached(&next, *start, last));
        }
        blocks.sort_unstable();
        blocks.dedup();
        blocks.retain(|block| *block != last && *block != first);
        blocks.into_iter().flat_map(|block| self.blocks[block].items.clone()).collect()
    }

    /// Where a statement that stands as item `from` could stand, nearest first, as far as it runs as often.
    pub(super) fn places(&self, from: usize, down: bool) -> Vec<Place> {
        let Some(block) = self.block_of(from) else { return Vec::new() };
        let mut places = Vec::new();
        self.walk(block, from, down, &mut places);
        places
    }

    /// Where a statement could stand that stood behind the loop of one block around item `from`; none where the item is in
    /// no such loop.
    pub(super) fn places_behind_the_loop(&self, from: usize) -> Vec<Place> {
        let Some(block) = self.block_of(from) else { return Vec::new() };
        let Block { next, .. } = &self.blocks[block];
        let Some(out) = next.iter().find(|to| **to != block).filter(|_| next.contains(&block)) else {
            return Vec::new();
        };
        let mut places = Vec::new();
        if !self.loops[*out].contains(&block) {
            let start = self.blocks[*out].items.start;
            self.within(*out, start..self.blocks[*out].items.end, true, &mut places);
            self.onward(*out, true, &mut places);
        }
        places
    }

    fn walk(&self, block: usize, from: usize, down: bool, places: &mut Vec<Place>) {
        let items = self.blocks[block].items.clone();
        let rest = if down { from + 1..items.end } else { items.start..from };
        self.within(block, rest, down, places);
        self.onward(block, down, places);
    }

    /// Places among these items of a block.
    fn within(&self, block: usize, items: Range<usize>, down: bool, places: &mut Vec<Place>) {
        let end = self.blocks[block].items.end;
        let passable =
            |at: &usize| self.items[*at].label().is_none() && (at + 1 < end || self.items[*at].leaves().is_none());
        let pass = |at: usize| {
            let lines = &self.items[at].lines;
            Place { passes: vec![at], at: if down { (lines.end - 1, false) } else { (lines.start, true) } }
        };
        let all = items.filter(passable);
        if down { places.extend(all.map(pass)) } else { places.extend(all.rev().map(pass)) }
    }

    /// Places in the blocks that follow and run as often.
    fn onward(&self, mut block: usize, down: bool, places: &mut Vec<Place>) {
        while let Some(next) = self.neighbour(block, down) {
            let between = if down { self.between(block, next) } else { self.between(next, block) };
            let items = self.blocks[next].items.clone();
            let at = if down {
                // Behind its labels.
                let first = items.clone().find(|at| self.items[*at].label().is_none());
                first.map_or((self.items[items.end - 1].lines.start, false), |at| (self.items[at].lines.start, true))
            } else {
                let last = &self.items[items.end - 1];
                if last.leaves().is_some() { (last.lines.start, true) } else { (last.lines.end - 1, false) }
            };
            places.push(Place { passes: between, at });
            self.within(next, items, down, places);
            block = next;
        }
    }
}

/// Nodes reached from one without passing another, which is among them where it is reached.
fn reached(edges: &[Vec<usize>], from: usize, but: usize) -> Vec<usize> {
    let (mut found, mut open) = (vec![false; edges.len()], vec![from]);
    while let Some(node) = open.pop() {
        if !std::mem::replace(&mut found[node], true) && node != but {
            open.extend(&edges[node]);
        }
    }
    (0..edges.len()).filter(|node| found[*node]).collect()
}

#[cfg(test)]
mod tests {
    use super::Flow;

    const TEXT: &str = ".visible .entry k(
.param .u64 x
)
{
.reg .b32 %r<9>;
st.shared.u32 [%r1], %r2;
@%p1 bra SKIP;
st.shared.u32 [%r3], %r2;
SKIP:
bar.sync 0;
mov.u32 %r4, 0;
LOOP:
{ .reg .pred p;
ld.shared.u32 %r5, [%r4]; }
add.u32 %r4, %r4, 1;
@%p2 bra LOOP;
ld.shared.u32 %r6, [%r1];
ret;
}";

    fn passed(down: bool) -> Vec<(Vec<String>, (usize, bool))> {
        let flow = Flow::of(TEXT, 0..TEXT.lines().count());
        let barrier = flow.items.iter().position(|item| item.text == "bar.sync 0;");
        let places = flow.places(barrier.unwrap_or_default(), down);
        let text = |at: &usize| flow.items[*at].text.split(' ').next().unwrap_or_default().to_owned();
        places.iter().map(|place| (place.passes.iter().map(text).collect(), place.at)).collect()
    }

    #[test]
    fn a_statement_passes_what_runs_as_often_and_what_is_skipped_or_repeated_in_between() {
        let text = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(passed(false), [(text(&["st.shared.u32"]), (6, true)), (text(&["st.shared.u32"]), (5, true))]);
        assert_eq!(
            passed(true),
            [
                (text(&["mov.u32"]), (10, false)),
                (text(&["LOOP:", "{", "add.u32", "@%p2"]), (16, true)),
                (text(&["ld.shared.u32"]), (16, false)),
            ]
        );
    }
}
