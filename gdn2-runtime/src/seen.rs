//! Which calls a program makes: pass and shape, how often each. What is written down here `gdn2 tune --seen` reads.

use gdn2_codegen::abi::Extents;
use gdn2_codegen::pass::Pass;
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Different calls that are told apart; those after them are counted together.
pub const MOST: usize = 256;
/// Fields of a line.
const FORM: &str = "RULE PASS B=1,T=8192,H=16,HV=16 CALLS, such as `kda forward B=1,T=8192,H=16,HV=16 120`";

/// A call: its pass and sizes. Packed sequences count as rows of their mean length, by which their kernels are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    /// The pass.
    pub pass: Pass,
    /// Rows, or packed sequences.
    pub batch: u32,
    /// Tokens of a row.
    pub tokens: u32,
    /// Query and key heads.
    pub key_heads: u32,
    /// Value heads, a multiple of the key heads.
    pub value_heads: u32,
}

impl Seen {
    /// A call of these extents; `None` where it has nothing to compute.
    fn of(pass: Pass, extents: Extents) -> Option<Seen> {
        let Extents { sequences, total_tokens, key_heads, value_heads } = extents;
        let size = |size: u64| u32::try_from(size).ok().filter(|size| *size > 0);
        let tokens = total_tokens.div_ceil(sequences.max(1));
        let [batch, tokens, key_heads, value_heads] = [sequences, tokens, key_heads, value_heads].map(size);
        Some(Seen { pass, batch: batch?, tokens: tokens?, key_heads: key_heads?, value_heads: value_heads? })
    }
}

/// Watches calls from any thread. A call costs a look at those before it, allocates nothing and takes no lock, but where two
/// threads bring a shape at the same moment that was not there before.
#[derive(Debug)]
pub struct Watch {
    calls: Box<[(OnceLock<Seen>, AtomicU64)]>,
    others: AtomicU64,
}

impl Default for Watch {
    fn default() -> Watch {
        let calls = (0..MOST).map(|_| (OnceLock::new(), AtomicU64::new(0))).collect();
        Watch { calls, others: AtomicU64::new(0) }
    }
}

impl Watch {
    /// Counts a call.
    pub fn count(&self, pass: Pass, extents: Extents) {
        let Some(seen) = Seen::of(pass, extents) else { return };
        for (call, times) in &self.calls {
            if *call.get_or_init(|| seen) == seen {
                times.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
        self.others.fetch_add(1, Ordering::Relaxed);
    }

    /// What was seen so far.
    pub fn seen(&self, rule: &str) -> SeenShapes {
        let known = self.calls.iter().filter_map(|(call, times)| Some((*call.get()?, times.load(Ordering::Relaxed))));
        SeenShapes { rule: rule.to_owned(), calls: known.collect(), others: self.others.load(Ordering::Relaxed) }
    }
}

/// The calls of a rule's kernels, in the order they were first made. As text it is what `gdn2 tune --seen` takes, a line
/// for each; texts of several rules and of several runs may follow each other in one file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SeenShapes {
    /// The rule.
    pub rule: String,
    /// Each call with how often it was made.
    pub calls: Vec<(Seen, u64)>,
    /// Calls of further shapes, beyond the [`MOST`] that are told apart.
    pub others: u64,
}

/// A line of such a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The rule.
    pub rule: String,
    /// The call.
    pub seen: Seen,
    /// How often it was made.
    pub calls: u64,
}

/// A line that says no call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}: a line is {FORM}")]
pub struct SeenError {
    /// Which line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
}

/// Reads what was written down; lines that begin with `#` are left out.
///
/// # Errors
/// The first line that is none.
pub fn read(text: &str) -> Result<Vec<Line>, SeenError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    lines.map(|(at, line)| line.parse().map_err(|why| SeenError { line: at + 1, why })).collect()
}

impl FromStr for Line {
    type Err = String;

    fn from_str(line: &str) -> Result<Line, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [rule, pass, shape, calls] = words.as_slice() else { return Err(format!("{} fields", words.len())) };
        let known = Pass::ALL.into_iter().find(|known| known.name() == *pass);
        let pass = known.ok_or_else(|| format!("`{pass}` is no pass"))?;
        let mut rest = shape.split(',');
        let mut size = |name: &str| {
            let given = rest.next().and_then(|part| part.strip_prefix(name)?.strip_prefix('=')?.parse::<u32>().ok());
            given.filter(|size| *size > 0).ok_or_else(|| format!("`{shape}` has no {name} of 1 or more in its place"))
        };
        let (batch, tokens, key_heads, value_heads) = (size("B")?, size("T")?, size("H")?, size("HV")?);
        if rest.next().is_some() || !value_heads.is_multiple_of(key_heads) {
            return Err(format!("`{shape}` is no B, T, H and a multiple HV of H"));
        }
        let calls = calls.parse().map_err(|_| format!("`{calls}` is no number of calls"))?;
        let seen = Seen { pass, batch, tokens, key_heads, value_heads };
        Ok(Line { rule: (*rule).to_owned(), seen, calls })
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Seen { pass, batch, tokens, key_heads, value_heads } = self;
        write!(f, "{pass} B={batch},T={tokens},H={key_heads},HV={value_heads}")
    }
}

impl fmt::Display for SeenShapes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (seen, calls) in &self.calls {
            writeln!(f, "{} {seen} {calls}", self.rule)?;
        }
        match self.others {
            0 => Ok(()),
            others => writeln!(f, "# {} calls of further shapes: {MOST} are told apart, {others}", self.rule),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn extents(sequences: u64, total_tokens: u64, value_heads: u64) -> Extents {
        Extents { sequences, total_tokens, key_heads: 1, value_heads }
    }

    #[test]
    fn calls_from_many_threads_are_counted_once_each_and_read_back() {
        let watch = Watch::default();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let watch = &watch;
                scope.spawn(move || {
                    for call in 0..100 {
                        watch.count(Pass::Forward, extents(1, 1 + (call + thread) % 50, 2));
                        watch.count(Pass::Decode, extents(8, 8, 2));
                    }
                });
            }
        });
        let seen = watch.seen("mine");
        assert_eq!((seen.calls.len(), seen.others), (51, 0));
        assert!(seen.calls.iter().all(|(call, calls)| *calls == if call.pass == Pass::Decode { 400 } else { 8 }));
        let lines = read(&format!("{seen}\n# words\n{seen}")).unwrap();
        let back: Vec<(Seen, u64)> = lines.iter().map(|line| (line.seen, line.calls)).collect();
        assert_eq!(back, [seen.calls.clone(), seen.calls].concat());
        assert!(lines.iter().all(|line| line.rule == "mine"));
    }

    #[test]
    fn more_shapes_than_are_told_apart_are_counted_together_and_empty_calls_not_at_all() {
        let watch = Watch::default();
        for tokens in 0..=MOST as u64 + 10 {
            watch.count(Pass::Backward, extents(1, tokens, 2));
        }
        watch.count(Pass::Forward, extents(0, 0, 2));
        watch.count(Pass::Backward, extents(3, 7, 2));
        let seen = watch.seen("mine");
        assert_eq!((seen.calls.len(), seen.others), (MOST, 11), "7 tokens in 3 packed sequences are one more shape");
        assert!(seen.to_string().ends_with("256 are told apart, 11\n"));
        let packed = Seen::of(Pass::Forward, extents(3, 7, 2)).unwrap();
        assert_eq!(packed.to_string(), "forward B=3,T=3,H=1,HV=2");
    }

    #[test]
    fn what_is_no_line_is_said() {
        for (line, why) in [
            ("mine forward B=1,T=2,H=1,HV=1", "3 fields"),
            ("mine forwards B=1,T=2,H=1,HV=1 3", "`forwards` is no pass"),
            ("mine forward B=1,T=0,H=1,HV=1 3", "has no T of 1 or more"),
            ("mine forward B=1,H=1,T=2,HV=1 3", "has no T"),
            ("mine forward B=1,T=2,H=2,HV=3 3", "a multiple HV of H"),
            ("mine forward B=1,T=2,H=1,HV=1,X=1 3", "a multiple HV of H"),
            ("mine forward B=1,T=2,H=1,HV=1 many", "no number of calls"),
            ("mine forward B=1,T=99999999999,H=1,HV=1 1", "has no T"),
        ] {
            let error = read(&format!("# words\n\n{line}")).unwrap_err();
            assert!(error.line == 3 && error.to_string().contains(why) && error.to_string().contains(FORM), "{error}");
        }
    }
}
