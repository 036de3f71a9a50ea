//! What the functions of generated CUDA are for, in the words of the plan: what `gdn2 profile` adds up by.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

use super::device;

/// A part of a chunk's work, or of a token's in decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Rows, gates and states from and to device memory, and waiting for them.
    Copies,
    /// Gates, their formulas, and the prefix sums and factors of decays.
    Gates,
    /// L and P, and the operands scaled for the state's products.
    Scores,
    /// (I + L)⁻¹.
    Solve,
    /// R, N and the next state; backward the gradients of the state.
    State,
    /// O, written.
    Outputs,
    /// Gradients of a chunk's rows and gates.
    Gradients,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Part::Copies => "copies",
            Part::Gates => "gates",
            Part::Scores => "scores",
            Part::Solve => "solve",
            Part::State => "state",
            Part::Outputs => "outputs",
            Part::Gradients => "gradients",
        })
    }
}

/// Folders and files of device code, the longest path that fits first. Without a part is what serves several.
const FILES: [(&str, Option<Part>); 44] = [
    ("backward/reverse.cuh", Some(Part::State)),
    ("backward/wgmma/reverse.cuh", Some(Part::State)),
    ("backward/wgmma/transposed.cuh", Some(Part::State)),
    ("backward/wgmma/chunk_scores.cuh", Some(Part::Scores)),
    ("backward/wgmma/short_work.cuh", None),
    ("backward/write_tile.cuh", Some(Part::Copies)),
    ("backward/", Some(Part::Gradients)),
    ("chunk/channel_decay.cuh", Some(Part::Gates)),
    ("chunk/erase_gates.cuh", Some(Part::Gates)),
    ("chunk/factors.cuh", None),
    ("chunk/kept.cuh", Some(Part::Copies)),
    ("chunk/kept_layout.cuh", None),
    ("chunk/solve.cuh", Some(Part::Solve)),
    ("chunk/state.cuh", Some(Part::State)),
    ("chunk/token_decay.cuh", Some(Part::Gates)),
    ("chunk/token_gates.cuh", Some(Part::Gates)),
    ("chunk/unit.cuh", None),
    ("chunk/values.cuh", Some(Part::State)),
    ("chunk/", Some(Part::Scores)),
    ("decode/computed.cuh", Some(Part::Gates)),
    ("decode/gates.cuh", Some(Part::Gates)),
    ("decode/tile.cuh", None),
    ("decode/", Some(Part::State)),
    ("formula/", Some(Part::Gates)),
    ("forward/wgmma/blocks.cuh", None),
    ("forward/wgmma/channel_scores.cuh", Some(Part::Scores)),
    ("forward/wgmma/computed", Some(Part::Gates)),
    ("forward/wgmma/copies.cuh", Some(Part::Copies)),
    ("forward/wgmma/erased.cuh", Some(Part::Gates)),
    ("forward/wgmma/exponents.cuh", Some(Part::Gates)),
    ("forward/wgmma/factors.cuh", Some(Part::Scores)),
    ("forward/wgmma/kept.cuh", Some(Part::Copies)),
    ("forward/wgmma/load.cuh", Some(Part::Copies)),
    ("forward/wgmma/pair_scores.cuh", Some(Part::Scores)),
    ("forward/wgmma/prepared.cuh", None),
    ("forward/wgmma/products.cuh", None),
    ("forward/wgmma/ring.cuh", None),
    ("forward/wgmma/solve_rows.cuh", Some(Part::Solve)),
    ("forward/wgmma/vectors.cuh", Some(Part::Gates)),
    ("forward/", Some(Part::State)),
    ("numbers.cuh", None),
    ("ptx/", None),
    ("tile/", None),
    ("work/", None),
];

fn of_file(file: &str) -> Option<Part> {
    FILES.iter().find(|(path, _)| file.starts_with(path)).and_then(|(_, part)| *part)
}

/// Parts by the name of a function or of the struct that it is a method of; several files may say it.
static BY_NAME: LazyLock<BTreeMap<&str, Option<Part>>> = LazyLock::new(|| {
    let mut names: BTreeMap<&str, Option<Part>> = BTreeMap::new();
    for (name, file) in device::declarations() {
        let part = of_file(file);
        if part.is_none() {
            continue;
        }
        names.entry(name).and_modify(|known| *known = known.filter(|known| Some(*known) == part)).or_insert(part);
    }
    names
});

/// What a function is for; `None` for one that serves several parts, such as loading a block, and for kernels.
/// `function` is its name, `Struct::name` for a method.
pub fn part_of(function: &str) -> Option<Part> {
    let name = function.split("::").next().unwrap_or(function);
    match name {
        "store_outputs" => Some(Part::Outputs),
        _ if name.starts_with("copy_") => Some(Part::Copies),
        _ => BY_NAME.get(name).copied().flatten(),
    }
}

#[cfg(test)]
mod tests {
    use super::{FILES, device, part_of};
    use std::collections::BTreeSet;

    #[test]
    fn every_file_has_its_line_and_every_line_a_file() {
        let files: BTreeSet<&str> = device::declarations().map(|(_, file)| file).collect();
        let line = |file: &str| FILES.iter().position(|(path, _)| file.starts_with(path));
        let used: BTreeSet<usize> = files.iter().map(|file| line(file).unwrap_or_else(|| panic!("{file}"))).collect();
        let unused: Vec<_> = (0..FILES.len()).filter(|at| !used.contains(at)).map(|at| FILES[at].0).collect();
        assert_eq!(unused, [""; 0]);
    }

    #[test]
    fn what_serves_two_parts_is_counted_with_its_caller() {
        let parts = device::declarations().filter_map(|(name, file)| Some((name, super::of_file(file)?)));
        let several: BTreeSet<&str> = parts.filter(|(name, _)| part_of(name).is_none()).map(|(name, _)| name).collect();
        assert_eq!(several, BTreeSet::from(["ChannelWrite", "TokenWrite", "Values", "store_tokens"]));
    }
}
