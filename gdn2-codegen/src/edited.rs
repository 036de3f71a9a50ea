//! Hand-edited CUDA in the place of a kernel's generated text: held to the entries, the parameters and the schedule of the
//! kernel that it stands for, so that what launches it need not know of it.

use crate::kernel::{CudaSource, Kernel};
use crate::pass::Pass;

/// A text that came back from somebody's editor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edited {
    name: String,
    text: String,
    entries: Vec<Entry>,
}

/// A kernel's entry as its text declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    /// Type and name of each parameter, without qualifiers that only promise.
    params: Vec<String>,
}

/// Why a text is none of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EditedError {
    /// It declares other kernels.
    #[error(
        "{file} declares {found}, and the {pass} pass of rule `{rule}` launches {wanted}: take what \
         `gdn2 emit --pass {pass} --emit cuda` prints and leave its entries' names"
    )]
    NoEntry {
        /// The text's name.
        file: String,
        /// The rule.
        rule: String,
        /// The pass.
        pass: Pass,
        /// Entries that it has.
        found: String,
        /// Entries that are launched.
        wanted: String,
    },
    /// An entry that is launched is not there.
    #[error(
        "{file} has no `{entry}`, which the {pass} pass launches, too: leave every entry of the generated text in it"
    )]
    Missing {
        /// The text's name.
        file: String,
        /// The entry.
        entry: String,
        /// The pass.
        pass: Pass,
    },
    /// An entry takes something else.
    #[error(
        "{file}: parameter {place} of `{entry}` is {found}, and the launch passes {wanted}: parameters stay as they were \
         generated"
    )]
    Parameter {
        /// The text's name.
        file: String,
        /// The entry.
        entry: String,
        /// Which parameter, from 1.
        place: usize,
        /// What stands there, or that there is none.
        found: String,
        /// What the launch passes, or that there is none.
        wanted: String,
    },
    /// It was generated in another schedule, whose blocks and shared memory are not this kernel's.
    #[error(
        "{file} was generated as `{found}`, and this is {wanted}: run it with --arch and --schedule as it was generated"
    )]
    Schedule {
        /// The text's name.
        file: String,
        /// Architecture and schedule, as its own comment says.
        found: String,
        /// The kernel's.
        wanted: String,
    },
}

impl Edited {
    /// A text, by a name for messages.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Edited {
        let (name, text) = (name.into(), text.into());
        let entries = entries(&text);
        Edited { name, text, entries }
    }

    /// The text in a kernel's place; nothing where it is another kernel's of the same training step.
    ///
    /// # Errors
    /// A text of other kernels, or one whose entries, parameters or schedule are not the kernel's.
    pub fn source(&self, kernel: &Kernel, generated: &CudaSource) -> Result<Option<CudaSource>, EditedError> {
        let file = || self.name.clone();
        let wanted = entries(&generated.text);
        if !wanted.iter().any(|entry| self.entry(&entry.name).is_some()) {
            if self.is_of_the_same_step(kernel) {
                return Ok(None);
            }
            let names = |entries: &[Entry]| match entries {
                [] => "no kernel".to_owned(),
                some => some.iter().map(|entry| format!("`{}`", entry.name)).collect::<Vec<_>>().join(", "),
            };
            return Err(EditedError::NoEntry {
                file: file(),
                rule: kernel.rule.name.clone(),
                pass: kernel.pass,
                found: names(&self.entries),
                wanted: names(&wanted),
            });
        }
        for entry in &wanted {
            let Some(own) = self.entry(&entry.name) else {
                return Err(EditedError::Missing { file: file(), entry: entry.name.clone(), pass: kernel.pass });
            };
            let most = entry.params.len().max(own.params.len());
            if let Some(place) = (0..most).find(|place| own.params.get(*place) != entry.params.get(*place)) {
                let said = |param: Option<&String>| param.map_or("not there".to_owned(), |param| format!("`{param}`"));
                return Err(EditedError::Parameter {
                    file: file(),
                    entry: entry.name.clone(),
                    place: place + 1,
                    found: said(own.params.get(place)),
                    wanted: said(entry.params.get(place)),
                });
            }
        }
        let here = format!("{}, {}", kernel.arch, kernel.schedule);
        let others = wanted.iter().filter_map(|entry| self.generated_as(&entry.name));
        if let Some(found) = others.into_iter().find(|as_generated| **as_generated != here) {
            return Err(EditedError::Schedule { file: file(), found: found.to_owned(), wanted: here });
        }
        Ok(Some(CudaSource::new(self.text.clone())))
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// Whether it is of the other half of the training step that a kernel is of.
    fn is_of_the_same_step(&self, kernel: &Kernel) -> bool {
        let other = match kernel.pass {
            Pass::ForwardForBackward => "backward",
            Pass::Backward => "forward_for_backward",
            Pass::Forward | Pass::Decode => return false,
        };
        let begins = format!("{}_{other}", kernel.rule.name);
        self.entries.iter().any(|entry| entry.name.starts_with(&begins))
    }

    /// Architecture and schedule that the first comment above an entry names, where one was left in.
    pub(crate) fn made_as(&self) -> Option<&str> {
        self.entries.iter().find_map(|entry| self.generated_as(&entry.name))
    }

    /// Architecture and schedule that the comment above an entry's generated text names, where that was left in.
    fn generated_as(&self, entry: &str) -> Option<&str> {
        let begins = format!("// {entry}: ");
        let line = self.text.lines().find(|line| line.starts_with(&begins))?;
        let (_, said) = line.trim_end().strip_suffix('.')?.rsplit_once(" on ")?;
        said.starts_with("sm_").then_some(said)
    }
}

/// The kernels that a CUDA text declares.
fn entries(text: &str) -> Vec<Entry> {
    let text = without_comments(text);
    let mut all = Vec::new();
    for part in text.split("__global__").skip(1) {
        let mut rest = part;
        // Attributes come before the name, some with parentheses of their own.
        while let Some(open) = rest.find('(') {
            let Some(inside) = balanced(&rest[open + 1..]) else { break };
            let name = rest[..open].rsplit(|c: char| !is_word(c)).find(|word| !word.is_empty()).unwrap_or_default();
            if name.starts_with("__") {
                rest = &rest[open + 1 + inside.len() + 1..];
                continue;
            }
            let params = inside.split(',').map(parameter).filter(|param| !param.is_empty()).collect();
            all.push(Entry { name: name.to_owned(), params });
            break;
        }
    }
    all
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// What stands before the parenthesis that closes.
fn balanced(text: &str) -> Option<&str> {
    let mut depth = 0usize;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' if depth == 0 => return Some(&text[..at]),
            ')' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// A parameter's type and name: words and stars, promises left out.
fn parameter(text: &str) -> String {
    let spaced = text.replace('*', " * ");
    let words = spaced.split_whitespace().filter(|word| !matches!(*word, "const" | "__restrict__" | "__restrict"));
    words.collect::<Vec<_>>().join(" ")
}

fn without_comments(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('/') {
        kept.push_str(&rest[..at]);
        let (end, skipped) = match rest.as_bytes().get(at + 1) {
            Some(b'/') => (rest[at..].find('\n').map_or(rest.len(), |end| at + end), true),
            Some(b'*') => (rest[at + 2..].find("*/").map_or(rest.len(), |end| at + 2 + end + 2), true),
            _ => (at + 1, false),
        };
        if !skipped {
            kept.push('/');
        }
        rest = &rest[end..];
    }
    kept.push_str(rest);
    kept
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::arch::Arch;
    use crate::schedule::Schedule;

    fn kernel(pass: Pass, fields: &str) -> (Kernel, CudaSource) {
        let text = "rule mine { decay: scalar; erase: scalar; write: erase; key_dim: 64; value_dim: 64; dtype: bf16 }";
        let rule = gdn2_dsl::parse_file(text).unwrap().remove(0);
        let schedule = Schedule::from_overrides(&rule, pass, Arch::Sm90a, fields).unwrap();
        let kernel = crate::bind(&rule, pass, schedule, Arch::Sm90a).unwrap();
        let source = crate::render(&kernel);
        (kernel, source)
    }

    #[test]
    fn every_generated_text_stands_for_itself() {
        for (pass, fields) in [
            (Pass::Forward, ""),
            (Pass::Forward, "matrix=mma"),
            (Pass::Forward, "segments=4"),
            (Pass::ForwardForBackward, ""),
            (Pass::Backward, ""),
            (Pass::Decode, ""),
        ] {
            let (kernel, source) = kernel(pass, fields);
            let declared = entries(&source.text);
            let launched: Vec<&str> = kernel.launches.iter().map(|launch| launch.entry.as_str()).collect();
            assert_eq!(declared.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), launched);
            for (entry, launch) in declared.iter().zip(&kernel.launches) {
                assert_eq!(entry.params.len(), launch.params.len(), "{}", entry.name);
                let named = entry.params.iter().zip(&launch.params);
                assert!(named.into_iter().all(|(own, param)| own.ends_with(&format!(" {}", param.name))), "{entry:?}");
            }
            let edited = Edited::new("my.cu", format!("// mine\n{}", source.text));
            let own = edited.source(&kernel, &source).unwrap().unwrap();
            assert!(own.text.starts_with("// mine\n") && own.hash != source.hash);
        }
    }

    #[test]
    fn what_does_not_fit_the_launch_is_named() {
        let (kernel, source) = kernel(Pass::Forward, "chunk=32,matrix=mma");
        let refused = |from: &str, to: &str| {
            assert!(source.text.contains(from), "{from}");
            let edited = Edited::new("my.cu", source.text.replacen(from, to, 1));
            edited.source(&kernel, &source).unwrap_err()
        };
        assert!(matches!(refused("\nmine_forward(", "\nmine_backwards("), EditedError::NoEntry { .. }));
        match refused("const Bf16* __restrict__ k,", "/* ( */ const float* __restrict__ k,") {
            EditedError::Parameter { place, found, wanted, .. } => {
                assert_eq!((place, found.as_str(), wanted.as_str()), (2, "`float * k`", "`Bf16 * k`"));
            }
            other => panic!("{other}"),
        }
        let fewer = refused("const Bf16* __restrict__ k,", "");
        assert!(fewer.to_string().contains("parameter 2 of `mine_forward` is `Bf16 * v`"), "{fewer}");
        let elsewhere = refused("chunk=32,", "chunk=64,");
        assert!(elsewhere.to_string().contains("was generated as `sm_90a, chunk=64,"), "{elsewhere}");
        // What only promises may go, and so may the comment.
        let (_, rest) = source.text.split_once('\n').unwrap();
        let edited = Edited::new("my.cu", rest.replace(" __restrict__", ""));
        assert!(edited.source(&kernel, &source).unwrap().is_some());
    }

    #[test]
    fn half_of_a_training_step_may_be_edited_alone() {
        let (forward, generated) = kernel(Pass::ForwardForBackward, "");
        let (backward, source) = kernel(Pass::Backward, "");
        let edited = Edited::new("my.cu", source.text.clone());
        assert_eq!(edited.source(&forward, &generated), Ok(None));
        assert!(edited.source(&backward, &source).unwrap().is_some());
        let (decode, other) = kernel(Pass::Decode, "");
        assert!(matches!(edited.source(&decode, &other), Err(EditedError::NoEntry { .. })));
    }
}
