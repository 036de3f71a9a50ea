//! Seeds of random tests: from the commit in CI, random otherwise, printed, and the command that gives the same again.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::Write as _;
use std::process::Command;
use std::sync::OnceLock;

/// The variable that gives a run the seed of an earlier one.
const VARIABLE: &str = "GDN2_TEST_SEED";

/// The seed of this run, the same for every test of the program.
pub fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| {
        let given = std::env::var(VARIABLE).ok().and_then(|text| text.parse().ok());
        let seed = given.or_else(of_the_commit).unwrap_or_else(|| RandomState::new().build_hasher().finish() >> 16);
        // Not `eprintln`, which the harness keeps to itself for tests that pass.
        let _ = writeln!(std::io::stderr(), "seed {seed}, the same again with {VARIABLE}={seed}");
        seed
    })
}

/// The run's seed for one of many draws.
pub fn seed_of(draw: u64) -> u64 {
    mixed(seed(), draw)
}

/// One seed for each of many draws: neighbouring numbers give unrelated ones.
pub fn mixed(seed: u64, draw: u64) -> u64 {
    // One step of SplitMix64 (Steele, Lea and Flood, 2014).
    let mut z = seed.wrapping_add(draw.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The command that runs this test with this seed again.
pub fn again() -> String {
    let package = std::env::var("CARGO_PKG_NAME").unwrap_or_else(|_| "PACKAGE".to_owned());
    let program = std::env::current_exe().unwrap_or_default();
    let program = program.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let target = program.rsplit_once('-').map_or(program.as_str(), |(name, _)| name);
    let thread = std::thread::current();
    let test = thread.name().filter(|name| *name != "main").unwrap_or_default();
    format!("{VARIABLE}={} cargo test --release -p {package} --test {target} {test}", seed())
}

/// The first 48 bits of the commit's hash, where this is CI: a failure there is found again by anybody who has the commit.
fn of_the_commit() -> Option<u64> {
    std::env::var_os("CI")?;
    let asked =
        Command::new("git").args(["rev-parse", "HEAD"]).current_dir(env!("CARGO_MANIFEST_DIR")).output().ok()?;
    let commit = String::from_utf8(asked.stdout).ok()?;
    u64::from_str_radix(commit.get(..12)?, 16).ok()
}
