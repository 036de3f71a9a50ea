//! GPUs by name, and which of them a device is. A GPU is what its driver says, number by number: a name that holds another's, a
//! laptop's chip, a card with fewer multiprocessors or a slice of one is a GPU of its own.

use crate::arch::Arch;

/// What a driver says of a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// Its architecture.
    pub arch: Arch,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Their highest clock, MHz; 0 where the driver does not say.
    pub clock_mhz: u32,
    /// Bandwidth of its memory, GB/s: clock of the memory, both edges, over the width of its bus; 0 where the driver does
    /// not say.
    pub gigabytes: u32,
    /// Shared memory of a multiprocessor, bytes; 0 where the driver does not say.
    pub shared_per_sm: u32,
}

/// A GPU with a name of its own among records and constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The name that `--target` takes.
    pub gpu: &'static str,
    /// Its architecture.
    pub arch: Arch,
    /// What drivers call it.
    pub names: &'static [&'static str],
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Clock, MHz.
    pub clock_mhz: u32,
    /// Bandwidth of its memory by the data sheet, GB/s.
    pub gigabytes: u32,
}

// Names: as NVIDIA's drivers report them (the supported-products lists of the driver's README). Numbers: those of
// `tuning/constants/`, which name their sources.
const A100: Known = known("a100", Arch::Sm80, &["NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM-80GB"], (108, 1410, 2039));
const A40: Known = known("a40", Arch::Sm86, &["NVIDIA A40"], (84, 1740, 696));
const L40S: Known = known("l40s", Arch::Sm89, &["NVIDIA L40S"], (142, 2520, 864));
const RTX4090: Known = known("rtx4090", Arch::Sm89, &["NVIDIA GeForce RTX 4090"], (128, 2520, 1008));
const H200: Known = known("h200", Arch::Sm90a, &["NVIDIA H200"], (132, 1980, 4800));
const H100: Known = known("h100", Arch::Sm90a, &["NVIDIA H100 80GB HBM3"], (132, 1980, 3350));
const H20: Known = known("h20", Arch::Sm90a, &["NVIDIA H20"], (78, 1830, 4000));
const RTX5090: Known = known("rtx5090", Arch::Sm120, &["NVIDIA GeForce RTX 5090"], (170, 2407, 1792));

/// All of them.
pub const KNOWN: [Known; 8] = [A100, A40, L40S, RTX4090, H200, H100, H20, RTX5090];

const fn known(
    gpu: &'static str,
    arch: Arch,
    names: &'static [&'static str],
    (multiprocessors, clock_mhz, gigabytes): (u32, u32, u32),
) -> Known {
    Known { gpu, arch, names, multiprocessors, clock_mhz, gigabytes }
}

/// GPUs with a name of their own, and their architectures.
pub const GPUS: [(&str, Arch); KNOWN.len()] = {
    let mut all = [("", Arch::Sm80); KNOWN.len()];
    let mut at = 0;
    while at < KNOWN.len() {
        all[at] = (KNOWN[at].gpu, KNOWN[at].arch);
        at += 1;
    }
    all
};

/// Percent that a clock or a bandwidth may be off the list's and still be the same GPU's: boards differ in their boost, and
/// drivers round.
const TOLERANCE: u32 = 15;

/// The GPU that stands for an architecture where none is named.
pub const fn standing(arch: Arch) -> Known {
    match arch {
        Arch::Sm80 => A100,
        Arch::Sm86 => A40,
        Arch::Sm89 => RTX4090,
        Arch::Sm90a => H200,
        Arch::Sm120 => RTX5090,
    }
}

/// The GPU that a file in a folder of records is for, by the file's name: `GPU.json`.
pub fn gpu_of_file(name: &str) -> Option<&str> {
    let gpu = name.strip_suffix(".json")?;
    // The named shapes lie in the same folder of this project.
    let plain = gpu.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    (plain && !gpu.is_empty() && gpu != "shapes").then_some(gpu)
}

impl Known {
    /// Whether a device is this GPU: its very name, as many multiprocessors, clock and bandwidth about the same.
    fn is(&self, device: &Identity) -> bool {
        let about = |said: u32, own: u32| said == 0 || said.abs_diff(own) * 100 <= own * TOLERANCE;
        self.names.contains(&device.name.as_str())
            && (self.arch, self.multiprocessors) == (device.arch, device.multiprocessors)
            && about(device.clock_mhz, self.clock_mhz)
            && about(device.gigabytes, self.gigabytes)
            && (device.shared_per_sm == 0 || device.shared_per_sm == self.arch.limits().shared_per_sm)
    }

    /// What its driver says: for stand-ins.
    pub fn identity(&self) -> Identity {
        Identity {
            name: self.names.first().copied().unwrap_or_default().to_owned(),
            arch: self.arch,
            multiprocessors: self.multiprocessors,
            clock_mhz: self.clock_mhz,
            gigabytes: self.gigabytes,
            shared_per_sm: self.arch.limits().shared_per_sm,
        }
    }
}

impl Identity {
    /// The GPU of the list that it is.
    pub fn known(&self) -> Option<&'static str> {
        KNOWN.iter().find(|known| known.is(self)).map(|known| known.gpu)
    }

    /// The name of its records and constants: the list's, else one made of its driver's name, its multiprocessors and its
    /// bandwidth, such as `h100-pcie-114sm-2039gbs`.
    pub fn records(&self) -> String {
        match self.known() {
            Some(gpu) => gpu.to_owned(),
            None => format!("{}-{}sm-{}gbs", self.slug(), self.multiprocessors, self.gigabytes),
        }
    }

    /// Its driver's name in letters, digits and dashes, without what all have.
    fn slug(&self) -> String {
        let lower = self.name.to_lowercase();
        let words = lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let words: Vec<&str> = words.filter(|word| !["nvidia", "geforce"].contains(word)).collect();
        if words.is_empty() { "gpu".to_owned() } else { words.join("-") }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::HashSet;

    /// What drivers say of cards whose names hold those of the list: none gets another's records.
    #[test]
    fn a_gpu_is_what_its_driver_says() {
        for known in KNOWN {
            assert_eq!(known.identity().records(), known.gpu);
            // A board of the same card that boosts higher.
            let faster = Identity { clock_mhz: known.clock_mhz * 110 / 100, ..known.identity() };
            assert_eq!(faster.known(), Some(known.gpu));
            let silent = Identity { clock_mhz: 0, gigabytes: 0, shared_per_sm: 0, ..known.identity() };
            assert_eq!(silent.known(), Some(known.gpu));
        }
        let device = |name: &str, arch, multiprocessors, clock_mhz, gigabytes| Identity {
            name: name.to_owned(),
            arch,
            multiprocessors,
            clock_mhz,
            gigabytes,
            shared_per_sm: Arch::limits(arch).shared_per_sm,
        };
        let cards = [
            device("NVIDIA RTX A4000", Arch::Sm86, 48, 1560, 448),
            device("NVIDIA RTX A400", Arch::Sm86, 6, 1762, 96),
            device("NVIDIA GeForce RTX 4090 Laptop GPU", Arch::Sm89, 76, 2040, 576),
            device("NVIDIA GeForce RTX 4090 D", Arch::Sm89, 114, 2520, 1008),
            device("NVIDIA H100 PCIe", Arch::Sm90a, 114, 1755, 2039),
            device("NVIDIA H100 NVL", Arch::Sm90a, 132, 1785, 3938),
            device("NVIDIA H100 80GB HBM3 MIG 1g.10gb", Arch::Sm90a, 16, 1980, 3350),
            device("NVIDIA L40", Arch::Sm89, 142, 2490, 864),
            device("NVIDIA A100-SXM4-40GB", Arch::Sm80, 108, 1410, 1555),
            device("NVIDIA A100 80GB PCIe", Arch::Sm80, 108, 1410, 1935),
            device("", Arch::Sm80, 1, 0, 0),
        ];
        // The list's names, other numbers: a slice whose driver does not say so, slower memory, another chip.
        let (h200, a100) = (H200.identity(), A100.identity());
        let numbers = [
            Identity { multiprocessors: 26, ..h200.clone() },
            Identity { gigabytes: 3350, ..h200.clone() },
            Identity { arch: Arch::Sm80, ..h200.clone() },
            Identity { clock_mhz: 900, ..a100.clone() },
            Identity { shared_per_sm: 100 << 10, ..a100 },
        ];
        for other in cards.iter().chain(&numbers) {
            assert_eq!(other.known(), None, "{other:?}");
            let own = other.records();
            let plain = own.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
            assert!(plain && own.ends_with("gbs"), "{own}");
            assert!(GPUS.iter().all(|(gpu, _)| *gpu != own), "{own} is the list's");
        }
        let files: HashSet<String> = cards.iter().chain(&numbers[..2]).map(Identity::records).collect();
        assert_eq!(files.len(), cards.len() + 2, "each has records of its own: {files:?}");
        assert_eq!(cards[2].records(), "rtx-4090-laptop-gpu-76sm-576gbs");
        assert_eq!(cards[4].records(), "h100-pcie-114sm-2039gbs");
        assert_eq!(cards[10].records(), "gpu-1sm-0gbs");
    }
}
