//! Device code: files of templates/ as lists of declarations, and what is inlined of them.
//!
//! A kernel's template says `#include "chunk/solve.cuh"` as any CUDA file does. [`inline`] puts the file and what it
//! includes in its place, each once, and leaves out every declaration that no name on the way from the kernel's entry
//! reaches: the text includes nothing and says nothing that is not used.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../templates/", $name)))),*]
    };
}

/// Every device file.
const FILES: &[(&str, &str)] = files![
    "backward/gate_sums.cuh",
    "backward/gradient_anchored.cuh",
    "backward/gradient_channel_decay.cuh",
    "backward/gradient_erase.cuh",
    "backward/gradient_finish.cuh",
    "backward/gradient_keys.cuh",
    "backward/gradient_no_decay.cuh",
    "backward/gradient_pair_sums.cuh",
    "backward/gradient_pairs.cuh",
    "backward/gradient_straddle.cuh",
    "backward/gradient_token_decay.cuh",
    "backward/gradient_units.cuh",
    "backward/gradient_values.cuh",
    "backward/normed_heads.cuh",
    "backward/reverse.cuh",
    "backward/sum_heads.cuh",
    "backward/value_rows.cuh",
    "backward/write_tile.cuh",
    "backward/wgmma/channel_computed.cuh",
    "backward/wgmma/channel_halves.cuh",
    "backward/wgmma/channel_keys.cuh",
    "backward/wgmma/channel_levels.cuh",
    "backward/wgmma/channel_normed.cuh",
    "backward/wgmma/channel_pairs.cuh",
    "backward/wgmma/channel_tiles.cuh",
    "backward/wgmma/channel_values.cuh",
    "backward/wgmma/chunk_scores.cuh",
    "backward/wgmma/column_sums.cuh",
    "backward/wgmma/gate_gradients.cuh",
    "backward/wgmma/kept_tiles.cuh",
    "backward/wgmma/key_gradients.cuh",
    "backward/wgmma/normed_keys.cuh",
    "backward/wgmma/pair_gradients.cuh",
    "backward/wgmma/reverse.cuh",
    "backward/wgmma/short_work.cuh",
    "backward/wgmma/transposed.cuh",
    "backward/wgmma/value_gradients.cuh",
    "chunk/channel_decay.cuh",
    "chunk/erase_gates.cuh",
    "chunk/erase_operand.cuh",
    "chunk/factors.cuh",
    "chunk/kept.cuh",
    "chunk/kept_layout.cuh",
    "chunk/left_anchored.cuh",
    "chunk/left_tile.cuh",
    "chunk/no_erase.cuh",
    "chunk/scaled_ends.cuh",
    "chunk/scaled_operands.cuh",
    "chunk/scores_anchored.cuh",
    "chunk/scores_pair.cuh",
    "chunk/solve.cuh",
    "chunk/state.cuh",
    "chunk/token_decay.cuh",
    "chunk/token_gates.cuh",
    "chunk/unit.cuh",
    "chunk/values.cuh",
    "decode/computed.cuh",
    "decode/delta.cuh",
    "decode/gates.cuh",
    "decode/state_kv.cuh",
    "decode/state_vk.cuh",
    "decode/sums.cuh",
    "decode/tile.cuh",
    "decode/write.cuh",
    "formula/fixed.cuh",
    "formula/functions.cuh",
    "formula/gates.cuh",
    "formula/rows.cuh",
    "formula/tiles.cuh",
    "formula/value_rows.cuh",
    "forward/join_decay.cuh",
    "forward/join_matrix.cuh",
    "forward/longest_first.cuh",
    "forward/segment_maps.cuh",
    "forward/segment_part.cuh",
    "forward/segment_rows.cuh",
    "forward/segments.cuh",
    "forward/transition.cuh",
    "forward/wgmma/advance.cuh",
    "forward/wgmma/blocks.cuh",
    "forward/wgmma/channel_scores.cuh",
    "forward/wgmma/computed.cuh",
    "forward/wgmma/computed_decay.cuh",
    "forward/wgmma/computed_tokens.cuh",
    "forward/wgmma/computed_write.cuh",
    "forward/wgmma/copies.cuh",
    "forward/wgmma/erased.cuh",
    "forward/wgmma/exponents.cuh",
    "forward/wgmma/factors.cuh",
    "forward/wgmma/kept.cuh",
    "forward/wgmma/load.cuh",
    "forward/wgmma/pair_scores.cuh",
    "forward/wgmma/prepared.cuh",
    "forward/wgmma/products.cuh",
    "forward/wgmma/ring.cuh",
    "forward/wgmma/solve_rows.cuh",
    "forward/wgmma/state.cuh",
    "forward/wgmma/values.cuh",
    "forward/wgmma/vectors.cuh",
    "numbers.cuh",
    "ptx/base.cuh",
    "ptx/copy.cuh",
    "ptx/elements.cuh",
    "ptx/shared.cuh",
    "ptx/sums.cuh",
    "ptx/warp.cuh",
    "ptx/warp_uniform.cuh",
    "tile/columns.cuh",
    "tile/rows.cuh",
    "tile/tile.cuh",
    "work/chunk_work.cuh",
    "work/offsets.cuh",
    "work/sequence.cuh",
];

/// Stands for what a kernel's own text says; see the file.
const NUMBERS: &str = "numbers.cuh";

/// The same, taken apart.
static PARSED: LazyLock<BTreeMap<&str, Vec<Piece<'static>>>> =
    LazyLock::new(|| FILES.iter().map(|(name, text)| (*name, pieces(text))).collect());

/// Every name that device code declares, with its file.
pub(super) fn declarations() -> impl Iterator<Item = (&'static str, &'static str)> {
    let declarations = |(file, pieces): (&&'static str, &'static Vec<Piece<'static>>)| {
        let file: &'static str = file;
        let pieces = pieces.iter().filter(|piece| piece.kind == Kind::Declaration);
        pieces.flat_map(|piece| declared(piece.text)).map(move |name| (name, file))
    };
    PARSED.iter().flat_map(declarations)
}

/// A part of a file, lines and all.
#[derive(Clone, Copy)]
struct Piece<'t> {
    kind: Kind,
    text: &'t str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The comment that a file begins with.
    Head,
    /// A declaration with the comments above it.
    Declaration,
    /// `#include`.
    Include,
    /// The first or last line of a namespace.
    Namespace,
}

/// Takes a file apart. Declarations end on a line that closes what they opened with a brace or a semicolon.
fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut start, mut at, mut depth, mut has_code) = (0, 0, 0, false);
    for line in text.split_inclusive('\n') {
        let (begin, end) = (at, at + line.len());
        at = end;
        let code = without_comment(line).trim_end();
        let mut push = |kind, from: usize| pieces.push(Piece { kind, text: &text[from..end] });
        if depth == 0 && !has_code {
            let head = text[start..begin].trim();
            let whole = if code.starts_with("#include") {
                Some(Kind::Include)
            } else if code.starts_with("namespace ") || line.starts_with("}  // namespace ") {
                Some(Kind::Namespace)
            } else {
                None
            };
            if line.trim().is_empty() || code.starts_with("#pragma once") || whole.is_some() {
                if !head.is_empty() && pieces.is_empty() {
                    pieces.push(Piece { kind: Kind::Head, text: &text[start..begin] });
                    start = begin;
                }
                if let Some(kind) = whole {
                    pieces.push(Piece { kind, text: &text[begin..end] });
                }
                if whole.is_some() || code.starts_with("#pragma once") {
                    start = end;
                }
                continue;
            }
        }
        has_code |= !code.trim().is_empty();
        depth += depth_change(code);
        if has_code && depth == 0 && (code.ends_with(['}', ';']) || code.starts_with("#define")) {
            push(Kind::Declaration, start);
            (start, has_code) = (end, false);
        }
    }
    pieces
}

fn without_comment(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// Braces and parentheses that a line opens, less those that it closes; those in texts do not count.
fn depth_change(code: &str) -> i32 {
    let outside = code.split('"').step_by(2);
    let change = |c: char| match c {
        '{' | '(' => 1,
        '}' | ')' => -1,
        _ => 0,
    };
    outside.flat_map(str::chars).map(change).sum()
}

/// The code of a piece, word by word.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| without_comment(line).split(|c: char| !c.is_ascii_alphanumeric() && c != '_'))
}

/// The names that a declaration declares.
fn declared(text: &str) -> Vec<&str> {
    let mut rest = text;
    while let Some(line) = rest.lines().next().filter(|line| without_comment(line).trim().is_empty()) {
        rest = rest[line.len()..].trim_start_matches('\n');
    }
    while rest.starts_with("template") {
        rest = after_angles(rest).trim_start();
    }
    if rest.starts_with("enum") || rest.starts_with("constexpr") {
        let parts = rest.lines().flat_map(|line| {
            let parts: Vec<&str> = without_comment(line).split('=').collect();
            let named = parts.len() - 1;
            parts.into_iter().take(named)
        });
        return parts.filter_map(last_word).collect();
    }
    for word in ["struct ", "using ", "#define "] {
        if let Some(rest) = rest.strip_prefix(word) {
            return words(rest).find(|word| !word.is_empty()).into_iter().collect();
        }
    }
    // The name of a function is what the first parenthesis follows, that of an array what the first bracket does.
    let end = if rest.starts_with("extern") { '[' } else { '(' };
    rest.split(end).next().and_then(last_word).into_iter().collect()
}

fn last_word(text: &str) -> Option<&str> {
    text.trim_end().rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_').find(|word| !word.is_empty())
}

/// What follows the first `<…>`.
fn after_angles(text: &str) -> &str {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '<' => depth += 1,
            '>' => depth -= 1,
            _ => continue,
        }
        if depth == 0 {
            return &text[at + 1..];
        }
    }
    ""
}

/// The file that an `#include` line names.
fn included(line: &str) -> &str {
    line.split('"').nth(1).unwrap_or_default()
}

/// A launch's text with its includes in place and without what its entry does not reach.
pub(crate) fn inline(text: &str) -> String {
    let mut all = Vec::new();
    let mut seen = BTreeSet::from([NUMBERS]);
    for piece in pieces(text) {
        match piece.kind {
            Kind::Include => include(included(piece.text), &mut seen, &mut all),
            _ => all.push((piece, "")),
        }
    }
    let is_entry = |piece: &Piece<'_>| piece.kind == Kind::Declaration && piece.text.contains("__global__");
    let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, (piece, _)) in all.iter().enumerate() {
        if piece.kind == Kind::Declaration && !is_entry(piece) {
            declared(piece.text).into_iter().for_each(|name| by_name.entry(name).or_default().push(at));
        }
    }
    let mut names: BTreeSet<&str> = BTreeSet::new();
    let mut reached: BTreeSet<usize> =
        all.iter().enumerate().filter(|(_, (piece, _))| is_entry(piece)).map(|(at, _)| at).collect();
    let mut next: Vec<usize> = reached.iter().copied().collect();
    while let Some(at) = next.pop() {
        for word in used_words(all[at].0.text) {
            if names.insert(word) {
                let declarations = by_name.get(word).into_iter().flatten().copied();
                next.extend(declarations.filter(|declaration| reached.insert(*declaration)));
            }
        }
    }
    print(&all, &reached, &names)
}

/// A file's pieces after those of the files it includes, each file once.
fn include<'t>(file: &'t str, seen: &mut BTreeSet<&'t str>, all: &mut Vec<(Piece<'t>, &'t str)>) {
    if !seen.insert(file) {
        return;
    }
    let Some((name, pieces)) = PARSED.get_key_value(file) else {
        // A missing file is a bug of a template; it becomes a line no CUDA compiler accepts rather than a panic.
        all.push((Piece { kind: Kind::Namespace, text: "#error \"an included file is missing\"\n" }, file));
        return;
    };
    let (includes, own): (Vec<&Piece<'t>>, Vec<&Piece<'t>>) =
        pieces.iter().partition(|piece| piece.kind == Kind::Include);
    includes.into_iter().for_each(|piece| include(included(piece.text), seen, all));
    all.extend(own.into_iter().map(|piece| (*piece, *name)));
}

fn print(all: &[(Piece<'_>, &str)], reached: &BTreeSet<usize>, names: &BTreeSet<&str>) -> String {
    let files: BTreeSet<&str> = reached.iter().map(|at| all[*at].1).collect();
    let mut text = String::new();
    let mut file = "";
    for (at, (piece, own)) in all.iter().enumerate() {
        let keep = match piece.kind {
            Kind::Head => files.contains(own),
            Kind::Declaration => reached.contains(&at),
            Kind::Namespace => true,
            Kind::Include => false,
        };
        if !keep {
            continue;
        }
        // One empty line between files and where the file has one.
        if !text.is_empty() && (*own != file || piece.text.starts_with('\n')) && !text.ends_with("\n\n") {
            text.push('\n');
        }
        file = own;
        match piece.kind {
            Kind::Head => {
                text += piece.text.trim_end();
                text += "\n\n";
            }
            _ => text += &used(piece.text.trim_start_matches('\n'), names),
        }
    }
    text
}

/// The name that a line of a list of numbers gives a value: such lists have a line for each.
fn listed(line: &str) -> Option<&str> {
    let (name, _) = line.strip_prefix("  ")?.split_once(" = ")?;
    name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_').then_some(name)
}

fn is_list(text: &str) -> bool {
    text.lines().any(|line| line == "enum : int {")
}

/// The words of a declaration, but for the names that a list of numbers has: those are used elsewhere or nowhere.
fn used_words(text: &str) -> impl Iterator<Item = &str> {
    let list = is_list(text);
    text.lines().flat_map(move |line| match listed(line) {
        Some(name) if list => words(&line[name.len() + 2..]),
        _ => words(line),
    })
}

/// A declaration as it is, or of a list of numbers those that are used.
fn used(text: &str, names: &BTreeSet<&str>) -> String {
    let list = is_list(text);
    let wanted = |line: &&str| !list || listed(line).is_none_or(|name| names.contains(name));
    text.split_inclusive('\n').filter(wanted).collect()
}

#[cfg(test)]
mod tests {
    use super::{FILES, Kind, PARSED, declared, inline, words};

    #[test]
    fn every_declaration_has_a_name_and_every_file_is_taken_apart_whole() {
        for (name, text) in FILES {
            let mut left: String = (*text).to_owned();
            for piece in &PARSED[name] {
                left = left.replacen(piece.text, "", 1);
                if piece.kind == Kind::Declaration {
                    assert!(!declared(piece.text).is_empty(), "{name}: {}", piece.text);
                }
            }
            assert!(words(&left.replace("#pragma once", "")).all(str::is_empty), "{name}: left over {left}");
        }
    }

    #[test]
    fn what_the_entry_does_not_reach_goes() {
        let text = "// Head.\n\nenum : int {\n  KEY = 1,  // read\n  CHUNK = 2,\n};\n#include \"ptx/elements.cuh\"\n\n\
                    using Element = Bf16;\nusing Other = F16;\n\nextern \"C\" __global__ void\nentry(\n    int x\n) {\n  \
                    // F16 is not used\n  Element::pack(KEY, exp2(x));\n}\n";
        let inlined = inline(text);
        for present in ["// Head.", "KEY = 1,", "struct Bf16", "DEVICE float exp2", "#define DEVICE", "using Element"] {
            assert!(inlined.contains(present), "{present} is missing:\n{inlined}");
        }
        for absent in ["CHUNK", "struct F16", "lane_index", "using Other", "#include", "#pragma once", "\n\n\n"] {
            assert!(!inlined.contains(absent), "{absent} is there:\n{inlined}");
        }
    }
}
