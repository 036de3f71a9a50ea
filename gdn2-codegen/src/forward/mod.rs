//! The chunked forward pass: one kernel without a workspace, or three over segments. Chooses what a schedule leaves open,
//! checks it against the architecture, lays out the parameter list and, of the portable kernel, shared memory.
//!
//! A block serves one sequence, one value head and one slice of the value dim. Each of its warps holds 16 value rows
//! of Sᵀ, all of K, in matrix accumulators for the whole sequence; everything else of a chunk lives in shared memory.

pub(crate) mod mma;
pub(crate) mod numbers;
mod print_computed;
mod print_mma;
mod print_segments;
mod print_wgmma;
pub(crate) mod segments;
pub(crate) mod wgmma;

pub(crate) use print_mma::view as view_mma;
pub(crate) use print_segments::join as view_join;
pub(crate) use print_wgmma::view as view_wgmma;

use crate::abi::{Condition, Extent, Factor};
use crate::arch::Arch;
use crate::chunk::numbers::{WARP_ROWS, states};
use crate::kernel::{Illegal, Kernel, Launch, LaunchRole};
use crate::params::inference;
use crate::pass::Pass;
use crate::plan::{self, Plan};
use crate::schedule::{Forward, Matrix, Overrides, Scan, Schedule};
use crate::shared::{ALIGNMENT, shared_bytes};
use gdn2_dsl::Rule;
use mma::shared_map;
use numbers::STARTS;
use wgmma::GROUP;

/// Fills in what the overrides leave open: wgmma where it can serve the rule, the largest chunk up to 64 whose block covers
/// the whole value dim, two buffers where they fit. When nothing fits, the last candidate comes back for `bind` to refuse.
///
/// On wgmma the value dim decides about warps: a schedule that names them and no matrix instruction is one of mma, as mma
/// schedules are printed.
pub(crate) fn complete(rule: &Rule, arch: Arch, given: &Overrides) -> Forward {
    let plan = plan::plan(rule, Pass::Forward);
    match given.matrix() {
        Some(matrix) => complete_with(rule, &plan, arch, given, matrix),
        None if given.get("warps").is_some() => complete_with(rule, &plan, arch, given, Matrix::Mma),
        None => {
            on_wgmma(rule, &plan, arch, given).unwrap_or_else(|_| complete_with(rule, &plan, arch, given, Matrix::Mma))
        }
    }
}

/// Why the built-in schedule is not on wgmma where the architecture has it.
pub(crate) fn declined_wgmma(rule: &Rule, arch: Arch) -> Option<Illegal> {
    arch.limits().wgmma?;
    on_wgmma(rule, &plan::plan(rule, Pass::Forward), arch, &Overrides::default()).err()
}

fn on_wgmma(rule: &Rule, plan: &Plan, arch: Arch, given: &Overrides) -> Result<Forward, Illegal> {
    let numbers = complete_with(rule, plan, arch, given, Matrix::Wgmma);
    check(rule, plan, numbers, arch).map(|()| numbers)
}

fn complete_with(rule: &Rule, plan: &Plan, arch: Arch, given: &Overrides, matrix: Matrix) -> Forward {
    let tiles = rule.value_dim.div_ceil(WARP_ROWS);
    let chunks = given.get("chunk").map_or_else(|| vec![64, 32, 16], |chunk| vec![chunk]);
    let splits = match (given.get("value_split"), matrix) {
        (Some(split), _) => vec![split],
        (None, Matrix::Mma) => (0..6).map(|power| 1 << power).filter(|split| *split <= tiles).collect(),
        (None, Matrix::Wgmma) => (1..=tiles / GROUP).collect(),
    };
    let stages = given.get("stages").map_or_else(|| vec![2, 1], |stages| vec![stages]);
    let segments = given.get("segments").unwrap_or(1);
    let mut last = Forward { scan: Scan { chunk: 64, value_split: 1, warps: 1, stages: 1 }, matrix, segments };
    for &value_split in &splits {
        let warps = given.get("warps").unwrap_or(tiles.div_ceil(value_split));
        for &chunk in &chunks {
            for &stages in &stages {
                last = Forward { scan: Scan { chunk, value_split, warps, stages }, matrix, segments };
                if (given.get("warps").is_some() || warps <= 8) && check(rule, plan, last, arch).is_ok() {
                    return last;
                }
            }
        }
    }
    last
}

/// Fixes every number of the forward pass.
pub(crate) fn bind(rule: &Rule, plan: Plan, numbers: Forward, arch: Arch) -> Result<Kernel, Illegal> {
    check(rule, &plan, numbers, arch)?;
    let (shared, shared_alignment, threads) = match numbers.matrix {
        Matrix::Mma => (shared_map(rule, &plan, numbers.scan), ALIGNMENT, numbers.scan.warps * 32),
        Matrix::Wgmma => (wgmma::shared_map(rule, &plan, numbers.scan), wgmma::ALIGNMENT, wgmma::threads(numbers.scan)),
    };
    let launch = Launch {
        role: if numbers.segments > 1 { LaunchRole::Segments } else { LaunchRole::Whole },
        entry: match plan.pass {
            Pass::ForwardForBackward => format!("{}_forward_for_backward", rule.name),
            Pass::Forward | Pass::Backward | Pass::Decode => format!("{}_forward", rule.name),
        },
        params: inference(rule, &plan, (numbers.segments > 1).then_some(STARTS)),
        grid: Extent {
            factors: vec![Factor::Sequences, Factor::ValueHeads],
            times: u64::from(numbers.scan.value_split * numbers.segments),
        },
        block: threads,
        shared_bytes: shared_bytes(&shared),
        shared_alignment,
        shared,
        when: Condition::Always,
    };
    let keeps = plan.pass == Pass::ForwardForBackward;
    let mut workspaces = if keeps { vec![states(rule, numbers.scan.chunk)] } else { Vec::new() };
    let mut launches = vec![launch];
    if numbers.segments > 1 {
        workspaces.extend(segments::workspaces(rule, &plan, numbers));
        let maps = plan.without_outputs();
        let params = segments::first_params(rule, &maps, numbers);
        launches.splice(..0, segments::launches(rule, &maps, numbers, &launches[0], params));
    }
    Ok(Kernel {
        rule: rule.clone(),
        pass: plan.pass,
        plan,
        schedule: Schedule::Forward(numbers),
        arch,
        launches,
        workspaces,
    })
}

/// Whether a scan with these numbers can serve the rule.
pub(crate) fn check(rule: &Rule, plan: &Plan, numbers: Forward, arch: Arch) -> Result<(), Illegal> {
    if numbers.matrix == Matrix::Wgmma {
        return wgmma::check(rule, plan, numbers, arch);
    }
    mma::check(rule, plan, numbers, arch)
}
