//! Kernels that a program names itself: a hand-edited text in the place of a pass's generated one, tied by a hash to the
//! text it was made from, so that one that has fallen behind is noticed before it runs.

use crate::arch::Arch;
use crate::bind::bind;
use crate::edited::{Edited, EditedError};
use crate::kernel::{CudaSource, Illegal, Kernel};
use crate::pass::Pass;
use crate::records::committed::tuned_stem;
use crate::render::render;
use crate::schedule::{Schedule, ScheduleError};
use gdn2_dsl::Rule;

/// Passes whose kernels can be named. The forward pass of a training step is divided as its backward pass is.
pub const NAMED: [Pass; 3] = [Pass::Forward, Pass::Backward, Pass::Decode];
/// The largest text, in bytes: a dozen times the longest that is generated.
pub const LARGEST_TEXT: usize = 4 << 20;
/// Hexadecimal digits of a hash that are enough.
pub const HASH: usize = 16;

/// A hand-edited text that fits the kernel it stands for.
#[derive(Clone, Debug)]
pub struct NamedKernel {
    /// The kernel, in the schedule that the text was generated in.
    pub kernel: Kernel,
    /// The text.
    pub source: CudaSource,
    /// File name, without extension, of what is compiled from it ahead.
    pub stem: String,
}

/// Which word of what names a text a mistake is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// The pass.
    Pass,
    /// The file.
    File,
    /// The hash.
    From,
}

/// Why a text cannot stand for a kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NamedError {
    /// No such pass.
    #[error("`{0}` is no pass whose kernel can be named\nhelp: write forward, backward or decode")]
    Pass(String),
    /// Nothing says what it was generated as.
    #[error(
        "{file} does not say what it was generated for: the comment `// {entry}: … on sm_…, chunk=….` above its kernel \
         is gone\nhelp: take it over from what `gdn2 emit --emit cuda` prints"
    )]
    Unsaid {
        /// The file.
        file: String,
        /// A kernel of the pass.
        entry: String,
    },
    /// It says a schedule that there is not.
    #[error("{file} says that it was generated for `{said}`, which there is not: {why}")]
    Said {
        /// The file.
        file: String,
        /// What it says.
        said: String,
        /// Why there is none.
        why: String,
    },
    /// It says a schedule that is not legal.
    #[error("{file} says that it was generated for `{said}`, which rule `{rule}` cannot have: {why}")]
    Illegal {
        /// The file.
        file: String,
        /// What it says.
        said: String,
        /// The rule.
        rule: String,
        /// The refusal.
        why: Illegal,
    },
    /// Its entries or parameters are others.
    #[error(transparent)]
    Edited(#[from] EditedError),
    /// It holds the other half of a training step.
    #[error(
        "{file} holds the forward half of a training step\nhelp: name what `gdn2 emit --pass {pass}` prints, edited"
    )]
    OtherHalf {
        /// The file.
        file: String,
        /// The pass that it was to stand for.
        pass: Pass,
    },
    /// No hash of the text that it was made from.
    #[error(
        "which text {file} was made from is not said, so nothing can tell when it falls behind\nhelp: if it is what is \
         generated now, edited, write `from = \"{now}\"`"
    )]
    NoHash {
        /// The file.
        file: String,
        /// The hash of what is generated now.
        now: String,
    },
    /// The hash of another text than is generated now.
    #[error(
        "{file} was made from another text than is generated now for the {pass} pass of rule `{rule}`: {of}\nhelp: take \
         over what has changed, as `gdn2 emit --pass {pass} --arch {arch} --schedule {schedule} --emit cuda` prints it, \
         then write `from = \"{now}\"`"
    )]
    Stale {
        /// The file.
        file: String,
        /// The rule.
        rule: String,
        /// The pass.
        pass: Pass,
        /// The architecture it was generated for.
        arch: Arch,
        /// The schedule it was generated in.
        schedule: Schedule,
        /// What was written in the place of the hash.
        of: String,
        /// The hash of what is generated now.
        now: String,
    },
}

impl NamedError {
    /// Which word it is about.
    pub fn word(&self) -> Word {
        match self {
            NamedError::Pass(_) => Word::Pass,
            NamedError::Stale { .. } => Word::From,
            _ => Word::File,
        }
    }
}

impl NamedKernel {
    /// Holds a text against what is generated now for the pass in the architecture and schedule that the text says.
    /// `from` is the hash, or at least [`HASH`] digits of it, of the text that it was made from.
    ///
    /// # Errors
    /// A text that says neither, that is another kernel's, or that was made from another text than is generated now.
    pub fn new(
        rule: &Rule,
        pass: &str,
        (file, text): (&str, String),
        from: Option<&str>,
    ) -> Result<NamedKernel, NamedError> {
        let named = || file.to_owned();
        let known = NAMED.into_iter().find(|known| known.name() == pass);
        let pass = known.ok_or_else(|| NamedError::Pass(pass.to_owned()))?;
        let edited = Edited::new(file, text);
        let entry = || format!("{}_{pass}", rule.name);
        let said = edited.made_as().ok_or_else(|| NamedError::Unsaid { file: named(), entry: entry() })?;
        let none = |why: String| NamedError::Said { file: named(), said: said.to_owned(), why };
        let (arch, fields) = said.split_once(", ").ok_or_else(|| none("it names no schedule".to_owned()))?;
        let arch: Arch = arch.parse().map_err(|error: crate::arch::UnknownArch| none(error.to_string()))?;
        let schedule = Schedule::from_overrides(rule, pass, arch, fields)
            .map_err(|error: ScheduleError| none(error.to_string()))?;
        let illegal = |why| NamedError::Illegal { file: named(), said: said.to_owned(), rule: rule.name.clone(), why };
        let kernel = bind(rule, pass, schedule, arch).map_err(illegal)?;
        let generated = render(&kernel);
        let source = edited.source(&kernel, &generated)?;
        let source = source.ok_or_else(|| NamedError::OtherHalf { file: named(), pass })?;
        let now = generated.hash.chars().take(HASH).collect::<String>();
        let Some(from) = from else { return Err(NamedError::NoHash { file: named(), now }) };
        if from.len() < HASH || !generated.hash.starts_with(from) {
            let (rule, of) = (rule.name.clone(), from.to_owned());
            return Err(NamedError::Stale { file: named(), rule, pass, arch, schedule, of, now });
        }
        let stem = format!("{}_edited", tuned_stem(rule, pass, arch, schedule));
        Ok(NamedKernel { kernel, source, stem })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn rule(dims: &str) -> Rule {
        let text = format!("rule mine {{ decay: scalar; erase: scalar; write: erase; {dims}; dtype: bf16 }}");
        gdn2_dsl::parse_file(&text).unwrap().remove(0)
    }

    #[test]
    fn a_text_stands_for_the_kernel_it_was_made_from_and_no_other() {
        let mine = rule("key_dim: 64; value_dim: 64");
        for pass in NAMED {
            for arch in [Arch::Sm80, Arch::Sm90a] {
                let schedule = Schedule::default_for(&mine, pass, arch).unwrap();
                let generated = render(&bind(&mine, pass, schedule, arch).unwrap());
                let text = || ("mine.cu", format!("{}\n// mine\n", generated.text));
                let new = |from: Option<&str>| NamedKernel::new(&mine, pass.name(), text(), from);
                let hash = generated.hash.as_str();
                for from in [hash, &hash[..HASH]] {
                    let named = new(Some(from)).unwrap();
                    assert_eq!((named.kernel.arch, named.kernel.schedule, named.kernel.pass), (arch, schedule, pass));
                    assert!(named.source.hash != generated.hash && named.stem.starts_with("mine_"));
                }
                // Each refusal says what to type.
                let typed = format!("`from = \"{}\"`", &hash[..HASH]);
                let missing = new(None).unwrap_err();
                assert!(missing.to_string().contains(&typed) && missing.word() == Word::File, "{missing}");
                for from in ["", &hash[..HASH - 1], "0123456789abcdef"] {
                    let stale = new(Some(from)).unwrap_err();
                    assert!(stale.to_string().contains(&typed) && stale.word() == Word::From, "{stale}");
                }
                // The same names and parameters, other numbers.
                let other = rule("key_dim: 32; value_dim: 64");
                let refused = NamedKernel::new(&other, pass.name(), text(), Some(hash)).unwrap_err();
                assert!(matches!(refused, NamedError::Stale { .. } | NamedError::Illegal { .. }), "{refused}");
            }
        }
    }

    #[test]
    fn what_a_text_does_not_say_is_asked_for() {
        let mine = rule("key_dim: 64; value_dim: 64");
        let schedule = Schedule::default_for(&mine, Pass::Forward, Arch::Sm80).unwrap();
        let generated = render(&bind(&mine, Pass::Forward, schedule, Arch::Sm80).unwrap());
        let refused = |pass: &str, from: &str, to: &str| {
            assert!(generated.text.contains(from), "{from}");
            let text = generated.text.replace(from, to);
            NamedKernel::new(&mine, pass, ("mine.cu", text), Some(&generated.hash)).unwrap_err()
        };
        let said = |error: NamedError, words: &str| assert!(error.to_string().contains(words), "{error}");
        for pass in ["forwards", "forward-for-backward"] {
            said(refused(pass, "sm_80", "sm_80"), "write forward, backward or decode");
        }
        said(refused("forward", "// mine_forward: ", "// "), "take it over from what `gdn2 emit");
        said(refused("forward", " on sm_80, ", " on sm_81, "), "which there is not");
        said(refused("forward", " on sm_80, ", " on sm_80, chunks=3,"), "which there is not");
        said(refused("forward", "chunk=64,", "chunk=48,"), "cannot have");
        said(refused("decode", "sm_80", "sm_80"), "mine.cu");
        let keeping = Schedule::default_for(&mine, Pass::ForwardForBackward, Arch::Sm80).unwrap();
        let keeping = render(&bind(&mine, Pass::ForwardForBackward, keeping, Arch::Sm80).unwrap());
        let half = NamedKernel::new(&mine, "backward", ("mine.cu", keeping.text), Some(&keeping.hash)).unwrap_err();
        said(half, "the forward half");
        said(refused("forward", "chunk=64,", "chunk=32,"), "from = ");
    }
}
