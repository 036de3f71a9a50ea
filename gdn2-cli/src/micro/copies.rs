//! Ways by which a chunk's rows come into shared memory: who asks for them, and when they are there.

use comfy_table::{CellAlignment, Table};
use gdn2_clock::gpu::Explanation;
use gdn2_clock::launch::{Argument, Launch};
use gdn2_vm::conformance::{Expected, Kernel as Small, Map};
use gdn2_vm::{MapType, Swizzle, TensorMap};
use serde::Serialize;

use super::asked::{Asked, CLOCKS_AT, TURNS_AT};
use crate::error::CliError;
use crate::grid;

const TEXT: &str = include_str!("copies.cu");
/// As the text has them.
const THREADS: u32 = 128;
const WARPS: usize = 4;
/// 128 tokens of 16 heads of 128 channels in bf16.
const BYTES: usize = 128 * 4096;
const ROWS_AT: u64 = 0x40_0000;

/// The ways, in the order of the text's numbers.
pub const ROUTES: [&str; 3] = ["cp.async by four warps", "bulk copies of rows", "tensor maps"];

/// The answer, in clocks of 32 KB.
#[derive(Serialize)]
pub struct Row {
    route: &'static str,
    /// Until the slowest warp has asked for all; absent on the virtual machine.
    asked: Option<f64>,
    /// Until all is there.
    arrived: Option<f64>,
    /// What the clock says of that.
    predicted: f64,
}

/// The map of the third way.
fn map() -> Map {
    let (dims, strides, tile) = (vec![2048, 128], vec![4096], vec![64, 64]);
    Map { buffer: 1, element: MapType::Bf16, dims, strides, tile, swizzle: Swizzle::B128, fill_nan: false }
}

/// Runs a way and asks the clock.
pub fn answer(asked: &Asked<'_>, number: usize, route: &'static str) -> Result<Row, CliError> {
    let failed = |error: &dyn std::fmt::Display| CliError::Usage(format!("{route}: {error}"));
    let compiled = asked.compiled(&format!("#define ROUTE {number}\n{TEXT}"))?;
    let maps = if number == 2 { vec![map()] } else { Vec::new() };
    let counted = asked.counted(|turns| Small {
        name: route.to_owned(),
        ptx: compiled.ptx.clone(),
        sm: 90,
        until: 90,
        threads: THREADS,
        inputs: vec![turns.to_le_bytes().to_vec(), vec![0; BYTES]],
        maps: maps.clone(),
        expected: Expected::Wides(vec![0; 2 * WARPS]),
    })?;
    let kernel = asked.kernel(route, &compiled)?;
    let mut arguments = vec![Argument::word64(TURNS_AT), Argument::word64(ROWS_AT), Argument::word64(CLOCKS_AT)];
    for Map { element, dims, strides, tile, swizzle, fill_nan, .. } in maps {
        let map = TensorMap { element, address: gdn2_vm::Address(ROWS_AT), dims, strides, tile, swizzle, fill_nan };
        arguments.push(Argument::Bytes(map.encode().map_err(|error| failed(&error))?.to_vec()));
    }
    let launch = |turns: u32| Launch {
        grid: [1; 3],
        block: [THREADS, 1, 1],
        arguments: arguments.clone(),
        memory: [(TURNS_AT, turns.to_le_bytes().to_vec())].into(),
        ..Launch::default()
    };
    let turn = |of| counted.as_ref().and_then(|counted| counted.turn(of));
    // No matrix unit is asked for anything, so the explanations agree.
    let predicted = asked.predicted(&kernel, launch, Explanation::DataSheet).map_err(|error| failed(&error))?;
    Ok(Row { route, asked: turn(0..WARPS), arrived: turn(WARPS..2 * WARPS), predicted })
}

/// The answers as a table.
pub fn table(rows: &[Row]) -> Table {
    let mut table = grid::table(["clocks of 32 KB", "asked", "arrived", "clock"]);
    for row in rows {
        let number = |clocks: Option<f64>| clocks.map_or_else(String::new, |clocks| format!("{clocks:.0}"));
        table.add_row([row.route.to_owned(), number(row.asked), number(row.arrived), number(Some(row.predicted))]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
