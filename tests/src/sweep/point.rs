//! What the sweep goes over.

use crate::root;
use gdn2_codegen::arch::Arch;
use gdn2_codegen::bind;
use gdn2_codegen::gpu::standing;
use gdn2_codegen::kernel::Pass;
use gdn2_codegen::record::Records;
use gdn2_codegen::schedule::Schedule;
use gdn2_dsl::{Rule, parse_file};
use std::fmt;

/// The sweep's rules that no file of `rules/` holds: the gates that are folded in elsewhere than those of the others.
const MIX: &str =
    "rule mix { decay: scalar; erase: channel; write: scalar; key_dim: 128; value_dim: 128; dtype: bf16; }";

const VALUE_DIMS: [u32; 3] = [16, 80, 512];

/// One kernel, or backward's two.
#[derive(Clone, Debug)]
pub struct Point {
    /// The rule.
    pub rule: Rule,
    /// Compiled for.
    pub arch: Arch,
    /// Forward, backward or decode.
    pub pass: Pass,
    /// Its schedule.
    pub schedule: Schedule,
}

impl Point {
    /// A number that follows from the point's name alone.
    pub fn number(&self) -> u64 {
        let hash = blake3::hash(self.to_string().as_bytes());
        hash.as_bytes()[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Point { rule, arch, pass, schedule } = self;
        write!(f, "{} K={} V={} {arch} {pass} {schedule}", rule.name, rule.key_dim, rule.value_dim)
    }
}

/// Every point: the built-in schedule, each chunk, both matrix instructions where there are two, and what the records say.
///
/// # Errors
/// A rule file or a schedule that cannot be read.
pub fn points() -> Result<Vec<Point>, String> {
    let mut rules = parse_file(MIX).map_err(|error| format!("{error:?}"))?;
    for name in ["gdn", "kda", "gdn2"] {
        let path = root().join("rules").join(format!("{name}.gdn2"));
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        rules.extend(parse_file(&text).map_err(|error| format!("{}: {error:?}", path.display()))?);
    }
    let mut points: Vec<Point> = Vec::new();
    for rule in &rules {
        for (key_dim, value_dim) in (1..=16).flat_map(|tiles| VALUE_DIMS.map(|value_dim| (16 * tiles, value_dim))) {
            let rule = rule.with_dims(key_dim, value_dim).map_err(|error| format!("{error:?}"))?;
            for arch in Arch::ALL {
                for pass in [Pass::Forward, Pass::Backward, Pass::Decode] {
                    for text in schedules(pass, arch) {
                        let schedule = Schedule::from_overrides(&rule, pass, arch, text);
                        let schedule = schedule.map_err(|error| error.to_string())?;
                        add(&mut points, Point { rule: rule.clone(), arch, pass, schedule });
                    }
                }
            }
        }
    }
    for gpu in Arch::ALL.map(|arch| standing(arch).gpu) {
        for rule in &rules {
            records(gpu, rule, &mut points);
        }
    }
    Ok(points)
}

/// What is asked for; the first is the built-in one and must be legal.
fn schedules(pass: Pass, arch: Arch) -> Vec<&'static str> {
    let mut all = match pass {
        Pass::Decode => vec![""],
        Pass::Forward | Pass::ForwardForBackward | Pass::Backward => vec!["", "chunk=16", "chunk=32", "chunk=64"],
    };
    if pass == Pass::Forward && arch.limits().wgmma.is_some() {
        all.extend(["matrix=mma", "matrix=mma,chunk=16", "matrix=mma,chunk=32"]);
    }
    all
}

fn add(points: &mut Vec<Point>, point: Point) {
    // Neighbours alone can be equal: the built-in schedule is one of the chunks.
    let same = |other: &Point| other.schedule == point.schedule && other.to_string() == point.to_string();
    let legal = bind(&point.rule, point.pass, point.schedule, point.arch).is_ok();
    if legal && !points.iter().rev().take(8).any(same) {
        points.push(point);
    }
}

fn records(gpu: &str, rule: &Rule, points: &mut Vec<Point>) {
    let shipped: Records = gdn2_codegen::record::shipped(gpu);
    let own = gdn2_codegen::record::rule_fingerprint(rule);
    for record in shipped.iter().filter(|record| record.provenance.rule == own) {
        let (arch, pass, schedule) = (record.provenance.arch, record.pass, record.winner.schedule);
        if matches!(pass, Pass::Forward | Pass::Backward | Pass::Decode) {
            add(points, Point { rule: rule.clone(), arch, pass, schedule });
        }
    }
}
