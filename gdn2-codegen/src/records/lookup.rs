//! Which schedule a call gets: the record of its bucket, the nearest bucket's, the one that wins most often on this
//! GPU, the built-in one, in this order, and why.
//!
//! What a record says of the grid holds for calls of its own bucket alone. Others get the record's kernel in the grid that
//! their own waves ask for: segments of a sequence, slices of values.

use crate::abi::Extents;
use crate::arch::Arch;
use crate::bind::bind;
use crate::forward::declined_wgmma;
use crate::kernel::Illegal;
use crate::pass::Pass;
use crate::records::division::{Division, divisions};
use crate::records::record::{Bucket, Record, Records, rule_fingerprint, source_fingerprint};
use crate::schedule::space::{SEGMENTS, fingerprint, space};
use crate::schedule::{Schedule, ScheduleError};
use gdn2_dsl::Rule;
use std::cmp::Reverse;
use std::fmt;

/// Doublings of heads and tokens, added up, over which a call keeps a record's grid unless another is clearly faster.
pub const REACH: u32 = 1;

/// The part of a time, in percent, that another grid must come down to: beside a record's kernel, and beside a kernel that
/// nothing is known of on this GPU.
const BESIDE_RECORD: u64 = 90;
const UNRECORDED: u64 = 75;

/// Segments of a kernel that no search chose. A record's comes in the counts that its search had among its candidates, this one
/// in those between as well: 7 segments of 12 heads fill a wave of 132 blocks, maps included, that neither 6 nor 8 fill.
const ALL: [u32; 10] = [1, 2, 3, 4, 5, 6, 7, 8, 12, 16];

/// A call in search of a schedule.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// The pass.
    pub pass: Pass,
    /// The architecture.
    pub arch: Arch,
    /// The call's extents; `None` where no call is known yet, as when a kernel is only printed.
    pub extents: Option<Extents>,
    /// The compiler that will be used, such as `NVRTC 13.0`, where it is known.
    pub compiler: Option<&'a str>,
}

/// Which step of the lookup answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A record of this rule, pass and bucket.
    Exact(Bucket),
    /// A record of this rule and pass in the nearest bucket that has one, not more than [`REACH`] away.
    Nearest(Bucket),
    /// The kernel of the nearest record in the grid that this call's waves ask for.
    Kernel {
        /// The record's bucket.
        of: Bucket,
        /// How far away it is.
        doublings: u32,
    },
    /// The kernel that wins most records of this pass on this GPU, in the grid that this call's waves ask for.
    Common {
        /// Records it wins.
        wins: usize,
    },
    /// No record applies.
    BuiltIn,
    /// The program names the kernel itself, so that no record is asked.
    Named,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The schedule to use.
    pub schedule: Schedule,
    /// Where it came from.
    pub step: Step,
    /// Records of this rule and pass that were passed over, and why.
    pub refused: Vec<(Bucket, String)>,
    /// Why a built-in forward schedule is not on wgmma where the architecture has it.
    pub declined: Option<Illegal>,
}

/// What the records of a GPU say of one rule and pass, read once: choosing among them for a call only looks, and
/// allocates nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    usable: Vec<Usable>,
    common: Option<(Kernel, usize)>,
    built_in: Kernel,
    refused: Vec<(Bucket, String)>,
}

/// A record that may serve.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Usable {
    bucket: Bucket,
    schedule: Schedule,
    kernel: Kernel,
    shortlist: Vec<Schedule>,
}

impl Usable {
    /// How far a record is from a call; of two as far, that of more tokens is nearer: chunks that are long for a call cost it
    /// less than short ones.
    fn distance(&self, wanted: Bucket) -> (u32, Reverse<u64>) {
        (self.bucket.distance(wanted), Reverse(self.bucket.tokens))
    }

    /// The schedule of a call that is so many doublings away.
    fn divided(&self, extents: Option<Extents>, doublings: u32) -> Schedule {
        self.kernel.divided(extents, (doublings <= REACH).then_some(self.schedule), BESIDE_RECORD)
    }
}

/// A schedule but for what belongs to a call's own grid.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kernel {
    /// The schedule that leaves sequences whole.
    whole: Schedule,
    /// Its grids, whole sequences first.
    divisions: Vec<Division>,
}

impl Kernel {
    fn of(rule: &Rule, pass: Pass, schedule: Schedule, arch: Arch, counts: &[u32]) -> Kernel {
        let whole = schedule.whole();
        Kernel { whole, divisions: divisions(rule, pass, whole, arch, counts) }
    }

    /// The kernel in the grid in which a call's waves are shortest, the first such; but as it is where that saves too little,
    /// for waves are an estimate. `own` is that grid, and without it the one that leaves sequences whole.
    fn divided(&self, extents: Option<Extents>, own: Option<Schedule>, percent: u64) -> Schedule {
        let (Some(extents), Some(whole)) = (extents, self.divisions.first()) else { return own.unwrap_or(self.whole) };
        let time = |division: &Division| division.time(extents);
        let held = self.divisions.iter().find(|division| Some(division.schedule) == own).unwrap_or(whole);
        let fastest = self.divisions.iter().min_by_key(|division| time(division)).unwrap_or(whole);
        let saves = time(fastest).saturating_mul(100) <= time(held).saturating_mul(percent);
        if saves { fastest.schedule } else { own.unwrap_or(held.schedule) }
    }

    fn schedules(&self) -> impl Iterator<Item = Schedule> {
        [self.whole].into_iter().chain(self.divisions.iter().map(|division| division.schedule))
    }
}

impl Index {
    /// The schedule for a call of these extents and where it came from; without a call to match, the record with the
    /// most work stands for the rule.
    pub fn choose(&self, extents: Option<Extents>) -> (Schedule, Step) {
        let Some(wanted) = extents.map(Bucket::of) else {
            let most = self.usable.iter().max_by_key(|record| record.bucket.heads.saturating_mul(record.bucket.tokens));
            return match most {
                Some(record) => (record.schedule, Step::Nearest(record.bucket)),
                None => self.unrecorded(extents),
            };
        };
        let Some(record) = self.usable.iter().min_by_key(|record| record.distance(wanted)) else {
            return self.unrecorded(extents);
        };
        let of = record.bucket;
        match record.bucket.distance(wanted) {
            0 => (record.schedule, Step::Exact(of)),
            doublings => match record.divided(extents, doublings) {
                schedule if doublings <= REACH && schedule == record.schedule => (schedule, Step::Nearest(of)),
                schedule => (schedule, Step::Kernel { of, doublings }),
            },
        }
    }

    /// The schedule for a call that the rule has no record for.
    fn unrecorded(&self, extents: Option<Extents>) -> (Schedule, Step) {
        match &self.common {
            Some((kernel, wins)) => (kernel.divided(extents, None, UNRECORDED), Step::Common { wins: *wins }),
            None => (self.built_in.divided(extents, None, UNRECORDED), Step::BuiltIn),
        }
    }

    /// Every schedule that a call can get, each once.
    pub fn schedules(&self) -> Vec<Schedule> {
        let mut all: Vec<Schedule> = Vec::new();
        let common = self.common.iter().map(|(kernel, _)| kernel);
        let kernels = self.usable.iter().map(|record| &record.kernel).chain(common).chain([&self.built_in]);
        let recorded = self.usable.iter().map(|record| record.schedule);
        for schedule in recorded.chain(kernels.flat_map(Kernel::schedules)) {
            if !all.contains(&schedule) {
                all.push(schedule);
            }
        }
        all
    }

    /// What records of calls near this one say, the nearest first: their winners, what these come to for this call, their
    /// shortlists. Where a search may begin.
    pub fn neighbours(&self, extents: Extents) -> Vec<Schedule> {
        let wanted = Bucket::of(extents);
        let mut records: Vec<&Usable> = self.usable.iter().collect();
        records.sort_by_key(|record| record.distance(wanted));
        let mut all: Vec<Schedule> = Vec::new();
        for record in records {
            let winner = [record.schedule, record.divided(Some(extents), record.bucket.distance(wanted))];
            for schedule in winner.into_iter().chain(record.shortlist.iter().copied()) {
                if !all.contains(&schedule) {
                    all.push(schedule);
                }
            }
        }
        all
    }

    /// The schedule of calls that no record serves, before a sequence is divided among blocks.
    pub fn built_in(&self) -> Schedule {
        self.built_in.whole
    }

    /// Records of this rule and pass that are passed over, and why.
    pub fn refused(&self) -> &[(Bucket, String)] {
        &self.refused
    }
}

impl Records {
    /// The schedule for a call.
    pub fn choose(&self, question: &Question) -> Result<Choice, ScheduleError> {
        let index = self.index(question)?;
        let (schedule, step) = index.choose(question.extents);
        let built_in_forward = step == Step::BuiltIn && question.pass == Pass::Forward;
        let declined = built_in_forward.then(|| declined_wgmma(question.rule, question.arch)).flatten();
        Ok(Choice { schedule, step, refused: index.refused, declined })
    }

    /// Everything the records say of the question's rule and pass, whatever its extents.
    pub fn index(&self, question: &Question) -> Result<Index, ScheduleError> {
        let built_in = Schedule::default_for(question.rule, question.pass, question.arch)?;
        let rule = rule_fingerprint(question.rule);
        let own: Vec<&Record> =
            self.iter().filter(|record| record.pass == question.pass && record.provenance.rule == rule).collect();
        let candidates = match own.is_empty() {
            true => String::new(),
            false => fingerprint(&space(question.rule, question.pass, question.arch)?),
        };
        let (mut usable, mut refused) = (Vec::new(), Vec::new());
        let kernel =
            |schedule, counts: &[u32]| Kernel::of(question.rule, question.pass, schedule, question.arch, counts);
        for record in own {
            match mismatch(record, question, &candidates) {
                None => {
                    let schedule = record.winner.schedule;
                    let shortlist = record.shortlist.clone();
                    usable.push(Usable {
                        bucket: record.bucket,
                        schedule,
                        kernel: kernel(schedule, &SEGMENTS),
                        shortlist,
                    });
                }
                Some(why) => refused.push((record.bucket, why)),
            }
        }
        let common = self.common(question).map(|(schedule, wins)| (kernel(schedule, &ALL), wins));
        Ok(Index { usable, common, built_in: kernel(built_in, &ALL), refused })
    }

    /// The kernel with the most wins among those legal for the question's rule, unless the built-in ones win as often: a
    /// record that kept its rule's own, whole or in segments, is no word for another's.
    fn common(&self, question: &Question) -> Option<(Schedule, usize)> {
        let mut wins: Vec<(Schedule, usize)> = Vec::new();
        let mut kept = 0;
        let own = rule_fingerprint(question.rule);
        let others = |record: &&Record| {
            record.pass == question.pass && record.provenance.rule != own && same_machine(record, question)
        };
        for record in self.iter().filter(others) {
            let schedule = record.winner.schedule.whole();
            if record.built_in.is_some_and(|built_in| built_in.schedule.whole() == schedule) {
                kept += 1;
                continue;
            }
            match wins.iter_mut().find(|(other, _)| *other == schedule) {
                Some((_, count)) => *count += 1,
                None => wins.push((schedule, 1)),
            }
        }
        wins.retain(|(schedule, count)| {
            *count > kept && bind(question.rule, question.pass, *schedule, question.arch).is_ok()
        });
        // The first of equals, in the order of the records, which is sorted.
        wins.into_iter().rev().max_by_key(|(_, count)| *count)
    }
}

fn same_machine(record: &Record, question: &Question) -> bool {
    record.provenance.arch == question.arch && question.compiler.is_none_or(|here| here == record.provenance.compiler)
}

/// What is known to differ between a record and the call, if anything.
fn mismatch(record: &Record, question: &Question, candidates: &str) -> Option<String> {
    let Question { rule, pass, arch, compiler, .. } = *question;
    let provenance = &record.provenance;
    if provenance.arch != arch {
        return Some(format!("tuned for {}, wanted for {arch}", provenance.arch));
    }
    if let Some(here) = compiler.filter(|here| *here != provenance.compiler) {
        return Some(format!("compiled with {}, here is {here}", provenance.compiler));
    }
    if provenance.space != candidates {
        return Some("chosen from another set of candidates".to_owned());
    }
    match source_fingerprint(rule, pass, record.winner.schedule, arch) {
        None => Some("its schedule is not legal any more".to_owned()),
        Some(source) if source != provenance.source => Some("its kernel's text has changed since".to_owned()),
        Some(_) => None,
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Exact(bucket) => write!(f, "record for {bucket}"),
            Step::Nearest(bucket) => write!(f, "nearest record, {bucket}"),
            Step::Kernel { of, doublings } => {
                let plural = if *doublings == 1 { "" } else { "s" };
                write!(
                    f,
                    "kernel of the nearest record, {of}, {doublings} doubling{plural} away; grid by this call's waves"
                )
            }
            Step::Common { wins } => write!(f, "wins {wins} records of other rules on this GPU"),
            Step::BuiltIn => f.write_str("built-in, no record applies"),
            Step::Named => f.write_str("named in the source"),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.schedule, self.step)?;
        self.refused.iter().try_for_each(|(bucket, why)| write!(f, "\n  not used: record for {bucket}: {why}"))?;
        self.declined.iter().try_for_each(|why| write!(f, "\n  not on wgmma: {why}"))
    }
}
