//! The dynamic machine code of a block: what each warp executed, and what the schedulers need to know of it.

/// What an executed instruction does beyond what its text says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Its guard held in no lane.
    Off,
    /// A branch that was taken.
    Taken,
    /// The warp's last lanes left.
    Exit,
    /// Passes over shared memory.
    Passes(u16),
    /// Global memory: sectors `first..first + count` of the block's list.
    Sectors {
        /// Where they begin in [`Block::sectors`].
        first: u32,
        /// How many.
        count: u16,
    },
    /// Global memory at addresses that are not known: this many sectors, none of them touched before.
    Unseen(u16),
    /// A named barrier.
    Barrier {
        /// Its number.
        id: u16,
        /// Threads that it waits for.
        threads: u16,
        /// Whether this warp waits, too.
        waits: bool,
    },
    /// An mbarrier made.
    Make {
        /// Address in shared memory.
        at: u32,
        /// Arrivals of a phase.
        count: u32,
    },
    /// A wait for an mbarrier's phase of this parity to end.
    Wait {
        /// Address in shared memory.
        at: u32,
        /// Parity.
        parity: bool,
    },
    /// Arrivals at an mbarrier, with bytes that copies will bring.
    Arrive {
        /// Address in shared memory.
        at: u32,
        /// Arrivals.
        count: u16,
        /// Bytes.
        bytes: u32,
    },
    /// Arrivals at an mbarrier when the lanes' earlier asynchronous copies have landed.
    ArriveLater {
        /// Address in shared memory.
        at: u32,
        /// Arrivals.
        count: u16,
    },
    /// A bulk copy into shared memory that tells an mbarrier.
    Fetch {
        /// The mbarrier's address.
        at: u32,
        /// Bytes.
        bytes: u32,
    },
    /// A bulk copy out of shared memory.
    Store {
        /// Bytes.
        bytes: u32,
    },
}

/// An executed instruction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Which instruction of the program.
    pub instruction: u32,
    /// What it did.
    pub effect: Effect,
}

/// What a block did.
#[derive(Clone, Debug, Default)]
pub struct Block {
    /// Each warp's steps.
    pub warps: Vec<Vec<Step>>,
    /// Sectors of global memory by steps, numbered from 0 in the order in which they were first touched.
    pub sectors: Vec<u32>,
    /// How many different sectors.
    pub distinct: u32,
    /// Bytes of bulk copies.
    pub bulk_bytes: u64,
    /// Things that were assumed, each with how often: addresses, tensor maps, opcodes that are not known.
    pub notes: std::collections::BTreeMap<String, u32>,
}

impl Block {
    /// Whether two blocks do alike: each warp's instructions and each block's passes and sectors differ by less than one in
    /// fifty. Prologues divide by sizes in steps that depend on the block's number.
    pub fn works_like(&self, other: &Block) -> bool {
        let near = |a: usize, b: usize| 50 * a.abs_diff(b) <= a.max(b);
        let passes = |block: &Block| -> usize {
            let of = |step: &Step| match step.effect {
                Effect::Passes(passes) => usize::from(passes),
                _ => 0,
            };
            block.warps.iter().flatten().map(of).sum()
        };
        self.warps.len() == other.warps.len()
            && self.warps.iter().zip(&other.warps).all(|(a, b)| near(a.len(), b.len()))
            && near(passes(self), passes(other))
            && near(self.sectors.len(), other.sectors.len())
    }

    /// Executed instructions of all warps, those whose guard held nowhere left out.
    pub fn executed(&self) -> impl Iterator<Item = &Step> {
        self.warps.iter().flatten().filter(|step| step.effect != Effect::Off)
    }
}
