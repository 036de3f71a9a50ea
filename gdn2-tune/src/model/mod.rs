//! What a candidate asks of a GPU, as its log keeps it: counts of the virtual machine, and what the clock makes of its
//! machine code; the constants of GPUs, and their refit on measured times.

mod calibrate;
mod constants;
mod counts;

pub(crate) use calibrate::spearman;
pub use calibrate::{Calibrated, Pair, calibrate, pairs};
pub use constants::{Constants, ConstantsError, Sourced};
pub use counts::{Load, Unit};

use crate::published;
use serde::{Deserialize, Serialize};

/// One launch of a candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LaunchLoad {
    /// Blocks.
    pub blocks: u64,
    /// Threads of a block.
    pub threads: u32,
    /// Registers of a thread.
    pub registers: u32,
    /// Shared memory of a block, bytes, dynamic and static.
    pub shared_bytes: u32,
    /// Work of a block.
    pub load: Load,
    /// What the clock says of it; nothing where cycles are counted in place of time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clocked: Option<Clocked>,
}

/// A launch by the clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Clocked {
    /// Microseconds.
    pub micros: f64,
    /// Blocks resident on a multiprocessor.
    pub resident: u32,
    /// Waves of the grid.
    pub waves: u64,
    /// What decides.
    pub decided: String,
    /// Clocks by explanation and bytes: what constants are refitted on.
    pub launch: published::Launch,
}

/// The launch that takes longest by the clock.
pub fn longest(launches: &[LaunchLoad]) -> Option<(&LaunchLoad, &Clocked)> {
    let clocked = launches.iter().filter_map(|launch| Some((launch, launch.clocked.as_ref()?)));
    clocked.max_by(|a, b| a.1.micros.total_cmp(&b.1.micros))
}

/// The unit of a multiprocessor that a block keeps busy longest, and for how many clocks.
pub fn busiest(launch: &LaunchLoad, constants: &Constants) -> (&'static str, f64) {
    let load = &launch.load;
    let per = |unit: Unit, lanes: &str| load.instructions[unit as usize] * 32.0 / constants.get(lanes);
    let issued: f64 = load.instructions.iter().sum();
    let units = [
        ("issue slots", issued / constants.get("issue")),
        ("matrix units", load.mma / constants.get("mma") + load.wgmma / constants.get("wgmma")),
        ("shared memory", load.wavefronts / constants.get("shared_wavefronts")),
        ("special functions", per(Unit::Special, "special_lanes")),
        ("float lanes", per(Unit::Float, "float_lanes")),
        ("integer lanes", per(Unit::Integer, "integer_lanes")),
        ("conversions", per(Unit::Convert, "convert_lanes")),
        ("shuffles", per(Unit::Shuffle, "shuffle_lanes")),
    ];
    units.into_iter().fold(("issue slots", 0.0), |most, unit| if unit.1 > most.1 { unit } else { most })
}

/// Microseconds that no kernel beats: the bytes once through memory, the multiply-adds at the best matrix rate.
pub fn floor_micros(compulsory_bytes: f64, multiply_adds: f64, constants: &Constants) -> f64 {
    let matrix = constants.get("mma").max(constants.get("wgmma")) * constants.get("sms") * constants.get("clock");
    (compulsory_bytes / (constants.get("dram_bytes") * 1e3)).max(multiply_adds / matrix)
}

/// Clocks counted on the busiest unit of the fullest multiprocessor, as microseconds at the GPU's clock: the virtual
/// machine's stand-in for a measured time.
pub fn counted_micros(launches: &[LaunchLoad], constants: &Constants) -> f64 {
    let clocks = launches.iter().map(|launch| {
        let mine = launch.blocks.div_ceil(u64::from(constants.multiprocessors().max(1)));
        busiest(launch, constants).1 * mine as f64
    });
    clocks.sum::<f64>() / constants.get("clock")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn counted_clocks_are_those_of_the_busiest_unit_of_the_fullest_multiprocessor() {
        let constants = Constants::shipped("h200").unwrap();
        let load = Load { mma: 1e8, wavefronts: 10.0, ..Load::default() };
        let launch = |blocks| LaunchLoad {
            blocks,
            threads: 128,
            registers: 128,
            shared_bytes: 0,
            load: load.clone(),
            clocked: None,
        };
        let (unit, clocks) = busiest(&launch(1), &constants);
        assert_eq!(unit, "matrix units");
        let one = counted_micros(&[launch(132)], &constants);
        assert!((one - clocks / constants.get("clock")).abs() < 1e-9);
        assert!((counted_micros(&[launch(133)], &constants) - 2.0 * one).abs() < 1e-9, "one multiprocessor has two");
    }
}
