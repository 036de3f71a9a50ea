//! Chains of products: what the clock's explanations of Hopper's matrix units answer differently.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table};
use gdn2_clock::gpu::Explanation;
use gdn2_clock::launch::{Argument, Launch};
use gdn2_vm::conformance::{Expected, Kernel as Small};
use serde::Serialize;

use super::asked::{Asked, CLOCKS_AT, TURNS_AT};
use crate::error::CliError;
use crate::grid;

const TEXT: &str = include_str!("products.cu");

/// What is asked.
pub struct Question {
    pub name: &'static str,
    warpgroups: u32,
    /// Products of each group that is waited for.
    groups: &'static [u32],
    accumulators: u32,
    registers: bool,
    /// Small products a turn of one warp more.
    small: u32,
}

pub const QUESTIONS: [Question; 9] = [
    Question { name: "chain of 16", groups: &[16], ..ONE },
    Question { name: "chain of 16 on two accumulators", groups: &[16], accumulators: 2, ..ONE },
    Question { name: "chain of 16, A in shared memory", groups: &[16], registers: false, ..ONE },
    Question { name: "chains of 8, 4, 4", ..ONE },
    Question { name: "chain of 16, two warpgroups", groups: &[16], warpgroups: 2, ..ONE },
    Question { name: "chains of 8, 4, 4, two warpgroups", warpgroups: 2, ..ONE },
    Question { name: "the same, A in shared memory", warpgroups: 2, registers: false, ..ONE },
    Question { name: "chain of 16, 8 small products beside it", groups: &[16], small: 8, ..ONE },
    Question {
        name: "two warpgroups' chains, 8 small products beside them",
        groups: &[16],
        warpgroups: 2,
        small: 8,
        ..ONE
    },
];

/// As the state's warpgroups of the forward kernels have it.
const ONE: Question =
    Question { name: "", warpgroups: 1, groups: &[8, 4, 4], accumulators: 1, registers: true, small: 0 };

/// The answer, in clocks of a turn.
#[derive(Serialize)]
pub struct Row {
    question: &'static str,
    /// Of the slowest warp of the warpgroups; absent on the virtual machine.
    measured: Option<f64>,
    /// Of the warp with small products.
    measured_small: Option<f64>,
    data_sheet: f64,
    on_the_pipe: f64,
    in_a_chain: f64,
}

impl Question {
    fn threads(&self) -> u32 {
        self.warpgroups * 128 + if self.small > 0 { 32 } else { 0 }
    }

    fn source(&self) -> String {
        let group = |at: usize| self.groups.get(at).copied().unwrap_or(0).to_string();
        let groups = [0, 1, 2].map(group).join(", ");
        let numbers = [
            ("WARPGROUPS", self.warpgroups.to_string()),
            ("GROUPS", groups),
            ("ACCUMULATORS", self.accumulators.to_string()),
            ("A_IN_REGISTERS", u32::from(self.registers).to_string()),
            ("SMALL", self.small.to_string()),
        ];
        let mut text = String::new();
        for (name, value) in numbers {
            let _ = writeln!(text, "#define {name} {value}");
        }
        text + TEXT
    }

    /// Runs the question's kernel and asks the clock for each explanation.
    pub fn answer(&self, asked: &Asked<'_>, [pipe, chain]: [Explanation; 2]) -> Result<Row, CliError> {
        let compiled = asked.compiled(&self.source())?;
        let numbers = (self.threads() / 32 + self.threads()) as usize;
        let counted = asked.counted(|turns| Small {
            name: self.name.to_owned(),
            ptx: compiled.ptx.clone(),
            sm: 90,
            until: 90,
            threads: self.threads(),
            inputs: vec![turns.to_le_bytes().to_vec()],
            maps: Vec::new(),
            expected: Expected::Wides(vec![0; numbers]),
        })?;
        let kernel = asked.kernel(self.name, &compiled)?;
        let launch = |turns: u32| Launch {
            grid: [1; 3],
            block: [self.threads(), 1, 1],
            arguments: vec![Argument::word64(TURNS_AT), Argument::word64(CLOCKS_AT)],
            memory: [(TURNS_AT, turns.to_le_bytes().to_vec())].into(),
            ..Launch::default()
        };
        let predicted = |explanation| {
            let clocks = asked.predicted(&kernel, launch, explanation);
            clocks.map_err(|error| CliError::Usage(format!("{}: {error}", self.name)))
        };
        let large = self.warpgroups as usize * 4;
        let small = counted.as_ref().filter(|_| self.small > 0);
        Ok(Row {
            question: self.name,
            measured: counted.as_ref().and_then(|counted| counted.turn(0..large)),
            measured_small: small.and_then(|counted| counted.turn(large..large + 1)),
            data_sheet: predicted(Explanation::DataSheet)?,
            on_the_pipe: predicted(pipe)?,
            in_a_chain: predicted(chain)?,
        })
    }
}

/// The answers as a table.
pub fn table(rows: &[Row]) -> Table {
    let mut table: Table =
        grid::table(["clocks of a turn", "measured", "small", "data sheet", "slow pipe", "slow chain"]);
    for row in rows {
        let number = |clocks: Option<f64>| clocks.map_or_else(String::new, |clocks| format!("{clocks:.0}"));
        let clocks =
            [row.measured, row.measured_small, Some(row.data_sheet), Some(row.on_the_pipe), Some(row.in_a_chain)];
        table.add_row(std::iter::once(row.question.to_owned()).chain(clocks.map(number)));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
