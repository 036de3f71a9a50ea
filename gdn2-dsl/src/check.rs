//! Syntax to meaning: every word of a [`Spec`] checked, every mistake of it reported, one [`Rule`] out.

use std::ops::RangeInclusive;

use crate::mistake::{Mistake, SourceSpan};
use crate::rule::{Bound, Dtype, Gate, Grain, Rule, StateLayout, Write};
use crate::spec::{Field, Head, Interval, Spec, Storage, Value, Written};
use crate::suggest::{list, nearest};

/// The head dim of keys: state rows that a warp's fragments and one block's shared memory can hold.
pub(crate) const KEY_DIMS: RangeInclusive<u32> = 16..=256;
/// The head dim of values.
pub(crate) const VALUE_DIMS: RangeInclusive<u32> = 16..=512;
/// Both head dims are multiples of this, the rows of one matrix fragment.
pub(crate) const DIM_STEP: u32 = 16;
/// Longest name: it becomes part of kernel and file names.
pub(crate) const NAME_LENGTH: usize = 64;

const REQUIRED: [&str; 6] = ["decay", "erase", "write", "key_dim", "value_dim", "dtype"];
const KEYS: [&str; 9] = ["decay", "erase", "write", "key_dim", "value_dim", "dtype", "state", "q", "k"];
/// Keys that a misspelt word may be meant to be: one letter is near everything.
const WORDS: [&str; 7] = ["decay", "erase", "write", "key_dim", "value_dim", "dtype", "state"];
const GRAINS: [&str; 3] = ["none", "scalar", "channel"];
/// Other people's words for our keys.
const ALIASES: [(&str, &str); 10] = [
    ("alpha", "decay"),
    ("g", "decay"),
    ("forget", "decay"),
    ("b", "erase"),
    ("beta", "erase"),
    ("w", "write"),
    ("head_dim", "key_dim"),
    ("head_k_dim", "key_dim"),
    ("head_v_dim", "value_dim"),
    ("layout", "state"),
];
const KEYWORDS: [&str; 52] = [
    "as", "break", "const", "continue", "crate", "else", "enum", "extern", "false", "fn", "for", "if", "impl", "in",
    "let", "loop", "match", "mod", "move", "mut", "pub", "ref", "return", "self", "Self", "static", "struct", "super",
    "trait", "true", "type", "unsafe", "use", "where", "while", "async", "await", "dyn", "abstract", "become", "box",
    "do", "final", "macro", "override", "priv", "typeof", "unsized", "virtual", "yield", "try", "gen",
];
pub(crate) const ERASE_NONE: &str = "`erase: none` means b = 0: nothing is erased. It does not mean b = 1";

/// The rule that `spec` means, or None if any part that makes it up is wrong; every mistake goes to `mistakes`.
pub(crate) fn check<S: SourceSpan>(spec: &Spec<S>, mistakes: &mut Vec<Mistake<S>>) -> Option<Rule> {
    let before = mistakes.len();
    if let Err(reason) = check_name(&spec.name) {
        mistakes.push(
            Mistake::new(
                spec.name_span,
                format!("`{}` cannot name a rule: {reason}", excerpt(&spec.name)),
                "not a name",
            )
            .note("the name becomes a module, kernel symbols and file names"),
        );
    }
    let mut checker = Checker { fields: [const { None }; KEYS.len()], mistakes };
    for field in &spec.fields {
        checker.sort(field);
    }
    if !spec.truncated {
        checker.missing(&spec.name, spec.name_span);
    }
    let dtype = checker.value("dtype").map(|value| checker.dtype(value));
    // Storage defaults follow the dtype; where it is unreadable any will do, since no rule comes out.
    let storage = dtype.flatten().unwrap_or(Dtype::Bf16);
    let decay = checker.value("decay").and_then(|value| checker.gate("decay", value, Dtype::F32, storage));
    let promised = checker.value("decay").and_then(|value| checker.bound(value));
    let erase = checker.value("erase").and_then(|value| checker.gate("erase", value, storage, storage));
    let write = checker.value("write").and_then(|value| checker.write(value, storage));
    let own_write = match write {
        Some(Write::Own(gate)) => Some(gate),
        Some(Write::Tied) | None => None,
    };
    let (prologue, proved) = checker.prologue(spec, [decay, erase, own_write], storage);
    let key_dim = checker.value("key_dim").map(|value| checker.dim("key_dim", value, KEY_DIMS));
    let value_dim = checker.value("value_dim").map(|value| checker.dim("value_dim", value, VALUE_DIMS));
    let state = match checker.value("state") {
        Some(value) => checker.state(value),
        None => Some(StateLayout::Kv),
    };
    let rule = Rule {
        name: spec.name.clone(),
        doc: spec.doc.clone(),
        decay: decay?,
        bound: proved.or(promised),
        erase: erase?,
        write: write?,
        key_dim: key_dim.flatten()?,
        value_dim: value_dim.flatten()?,
        dtype: dtype.flatten()?,
        state: state?,
        prologue,
    };
    (mistakes.len() == before).then_some(rule)
}

/// A name must serve as a Rust module, a C symbol and a file name.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    if KEYWORDS.contains(&name) {
        return Err("it is a Rust keyword".to_string());
    }
    if name.len() > NAME_LENGTH {
        return Err(format!("it has {} characters, at most {NAME_LENGTH} are allowed", name.chars().count()));
    }
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || name == "_" || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err("only ASCII letters, digits and `_`, not starting with a digit, are allowed".to_string());
    }
    Ok(())
}

/// Range and step of a head dim; the error is the reason and the nearest legal value.
pub(crate) fn check_dim(value: u64, range: &RangeInclusive<u32>) -> Result<u32, (String, u32)> {
    let step = u64::from(DIM_STEP);
    let (low, high) = (u64::from(*range.start()), u64::from(*range.end()));
    let legal = (low..=high).contains(&value) && value.is_multiple_of(step);
    let near = value.saturating_add(step / 2).clamp(low, high) / step * step;
    // Both fit: `high` came from a u32.
    let near = u32::try_from(near.max(low)).unwrap_or(*range.end());
    if legal {
        return Ok(near);
    }
    Err((format!("must be a multiple of {step} from {low} to {high}"), near))
}

/// A bound is finite, ordered and not above 0. A negative zero becomes 0.
pub(crate) fn check_bound(lower: f32, upper: f32) -> Result<Bound, String> {
    if !lower.is_finite() || !upper.is_finite() {
        return Err("both ends must be finite 32-bit floats".to_string());
    }
    if upper > 0.0 {
        return Err(format!("the upper end {upper} is above 0: a decay never grows the state"));
    }
    if lower > upper {
        return Err(format!("the lower end {lower} is above the upper end {upper}"));
    }
    Ok(Bound { lower: lower + 0.0, upper: upper + 0.0 })
}

fn grain(word: &str) -> Option<Grain> {
    Some(match word {
        "none" => Grain::None,
        "scalar" => Grain::Scalar,
        "channel" => Grain::Channel,
        _ => return None,
    })
}

/// A long word cut short, so that a message stays a message.
pub(crate) fn excerpt(word: &str) -> String {
    let mut short: String = word.chars().take(40).collect();
    if short.len() < word.len() {
        short.push('…');
    }
    short
}

/// Whether a word is a key of rules.
pub(crate) fn is_key(word: &str) -> bool {
    KEYS.contains(&word)
}

pub(crate) struct Checker<'s, 'm, S> {
    /// The field for each key of `KEYS`, the first one where it is given twice.
    fields: [Option<&'s Field<S>>; KEYS.len()],
    pub(crate) mistakes: &'m mut Vec<Mistake<S>>,
}

impl<'s, S: SourceSpan> Checker<'s, '_, S> {
    pub(crate) fn value(&self, key: &str) -> Option<&'s Value<S>> {
        let at = KEYS.iter().position(|known| *known == key)?;
        self.fields[at].and_then(|field| field.value.as_ref())
    }

    /// Files a field under its key; a misspelt key stands for the one it was meant to be.
    fn sort(&mut self, field: &'s Field<S>) {
        let key = field.key.as_str();
        let meant = KEYS.iter().position(|known| *known == key).or_else(|| {
            let alias = ALIASES.iter().find(|(word, _)| *word == key).map(|(_, known)| *known);
            let meant = alias.or_else(|| nearest(key, &WORDS));
            let mistake = Mistake::new(field.key_span, format!("unknown key `{}`", excerpt(key)), "not a key");
            self.mistakes.push(match meant {
                Some(known) => mistake.suggest(format!("did you mean `{known}`?"), field.key_span, known),
                None => mistake
                    .note(format!("the keys are {}", list(&KEYS, "and")))
                    .note("parameters are declared by `param NAME: …`, shared values by `let NAME: …`"),
            });
            KEYS.iter().position(|known| Some(*known) == meant)
        });
        let Some(at) = meant else { return };
        match self.fields[at] {
            None => self.fields[at] = Some(field),
            Some(first) => self.mistakes.push(
                Mistake::new(field.key_span, format!("`{}` is given twice", KEYS[at]), "given again here")
                    .related(first.key_span, "first given here")
                    .note("every key stands once"),
            ),
        }
    }

    fn missing(&mut self, name: &str, span: S) {
        let missing: Vec<&str> = REQUIRED
            .into_iter()
            .filter(|key| KEYS.iter().position(|k| k == key).is_some_and(|at| self.fields[at].is_none()))
            .collect();
        if missing.is_empty() {
            return;
        }
        let plural = if missing.len() == 1 { "a key" } else { "keys" };
        let mut mistake = Mistake::new(
            span,
            format!("rule `{}` lacks {}", excerpt(name), list(&missing, "and")),
            format!("{plural} missing"),
        );
        for key in missing {
            mistake = mistake.note(match key {
                "decay" => "add `decay: none;`, `decay: scalar;` or `decay: channel;`".to_string(),
                "erase" => format!("add `erase: none;`, `erase: scalar;` or `erase: channel;` ({ERASE_NONE})"),
                "write" => "add `write: none;`, `write: scalar;`, `write: channel;` or `write: erase;`".to_string(),
                "dtype" => "add `dtype: bf16;` or `dtype: f16;`".to_string(),
                dim => format!("add `{dim}: 128;` or another multiple of {DIM_STEP}"),
            });
        }
        self.mistakes.push(mistake);
    }

    /// No `as` on anything that is not a gate, no `in` on anything that is not the decay.
    pub(crate) fn no_clauses(&mut self, key: &str, value: &Value<S>) {
        if let Some(storage) = &value.storage {
            self.mistakes.push(
                Mistake::new(storage.span, format!("`{key}` takes no `as`"), "not here")
                    .note("only gates that have a tensor are stored `as` something")
                    .suggest("remove it", storage.span, ""),
            );
        }
        if let Some(bound) = &value.bound {
            self.no_bound(key, bound);
        }
        if value.formula.is_some() {
            self.mistakes.push(
                Mistake::new(value.head_span, format!("`{key}` takes no formula"), "nothing may follow this")
                    .note("gates and `let`s have formulas"),
            );
        }
    }

    pub(crate) fn no_bound(&mut self, key: &str, bound: &Interval<S>) {
        self.mistakes.push(
            Mistake::new(bound.span, format!("`{key}` takes no bound"), "not here")
                .note("`in [LOWER, UPPER]` bounds the natural log of the decay and stands only on a decay that exists")
                .suggest("remove it", bound.span, ""),
        );
    }

    pub(crate) fn not_one_of(&mut self, key: &str, value: &Value<S>, words: &[&str]) {
        let text = value.head.text();
        let span = value.head_span;
        let mut mistake = Mistake::new(
            span,
            format!("`{}` is no value for `{key}`", excerpt(text)),
            format!("expected {}", list(words, "or")),
        );
        let number = matches!(&value.head, Head::Number(_));
        if key == "erase" && (number || matches!(text, "one" | "full" | "off")) {
            mistake = mistake.note(ERASE_NONE).note("for b = 1 give `erase: scalar` and a tensor of ones");
        } else if key == "write" && number {
            mistake = mistake.note("`write: none` means w = 1: values are written as they are");
        } else if key == "decay" && number {
            mistake = mistake.note("`decay: none` means g = 0: nothing decays");
        }
        if let Some(word) = nearest(text, words) {
            mistake = mistake.suggest(format!("did you mean `{word}`?"), span, word);
        } else if matches!(text, "vector" | "diagonal" | "channelwise" | "channel_wise" | "per_channel")
            && words.contains(&"channel")
        {
            mistake = mistake.suggest("say `channel`", span, "channel");
        } else if matches!(text, "head" | "per_head" | "headwise") && words.contains(&"scalar") {
            mistake = mistake.suggest("say `scalar`", span, "scalar");
        }
        self.mistakes.push(mistake);
    }

    /// A gate of its own. Its bound, legal or not, is looked at elsewhere, except where no bound may stand.
    fn gate(&mut self, key: &str, value: &Value<S>, default: Dtype, rows: Dtype) -> Option<Gate> {
        if let Some(bound) = value.bound.as_ref().filter(|_| key != "decay" && value.formula.is_none()) {
            self.no_bound(key, bound);
        }
        let Some(grain) = grain(value.head.text()) else {
            let tie = ["none", "scalar", "channel", "erase"];
            self.not_one_of(key, value, if key == "write" { &tie } else { &GRAINS });
            return None;
        };
        if value.formula.is_some() && grain == Grain::None {
            self.mistakes.push(
                Mistake::new(value.head_span, format!("`{key}: none` has no formula: there is no gate"), "absent here")
                    .suggest("say `scalar`", value.head_span, "scalar"),
            );
            return None;
        }
        if value.formula.is_some() {
            return Some(Gate { grain, storage: self.logit_storage(key, value, rows) });
        }
        let storage =
            match &value.storage {
                None => default,
                Some(storage) if grain == Grain::None => {
                    self.mistakes.push(
                        Mistake::new(storage.span, format!("`{key}: none` has no tensor to store"), "not here")
                            .suggest("remove it", storage.span, ""),
                    );
                    return None;
                }
                Some(storage) => self.storage(storage)?,
            };
        Some(Gate { grain, storage })
    }

    fn storage(&mut self, storage: &Storage<S>) -> Option<Dtype> {
        match storage.dtype.as_str() {
            "f32" => return Some(Dtype::F32),
            "bf16" => return Some(Dtype::Bf16),
            _ => {}
        }
        let word = storage.dtype.as_str();
        let meant = match word {
            "float" | "float32" | "fp32" | "single" => Some("f32"),
            "bfloat16" | "bfloat" => Some("bf16"),
            _ => nearest(word, &["f32", "bf16"]),
        };
        let mut mistake = Mistake::new(
            storage.dtype_span,
            format!("gates are stored `as f32` or `as bf16`, not `{}`", excerpt(word)),
            "expected `f32` or `bf16`",
        );
        if word == "f16" {
            mistake = mistake.note("an f16 rule stores its erase and write gates in f16 when no `as` is given");
        }
        if let Some(word) = meant {
            mistake = mistake.suggest(format!("did you mean `{word}`?"), storage.dtype_span, word);
        }
        self.mistakes.push(mistake);
        None
    }

    /// The ends of a bound.
    pub(crate) fn ends(&mut self, interval: &Interval<S>) -> Option<(f32, f32)> {
        let number = |text: &str| text.replace('_', "").trim_end_matches("f32").parse::<f32>().ok();
        let ends = number(&interval.lower).zip(number(&interval.upper));
        if ends.is_none() {
            self.mistakes.push(
                Mistake::new(interval.span, "the ends of a bound are decimal numbers", "cannot read these numbers")
                    .note("a bound is written `in [LOWER, UPPER]`, as in `in [-5, 0]`"),
            );
        }
        ends
    }

    /// The promise about a decay that arrives computed.
    fn bound(&mut self, value: &Value<S>) -> Option<Bound> {
        let interval = value.bound.as_ref().filter(|_| value.formula.is_none())?;
        if value.head == Head::Word("none".to_string()) {
            self.no_bound("decay: none", interval);
            return None;
        }
        let (lower, upper) = self.ends(interval)?;
        match check_bound(lower, upper) {
            Ok(bound) => Some(bound),
            Err(reason) => {
                let mut mistake =
                    Mistake::new(interval.span, format!("not a bound on a decay: {reason}"), "impossible bound")
                        .note("the decay is given as its natural log g, and exp(g) is at most 1");
                let (a, b) = (lower.min(upper), lower.max(upper));
                if b > 0.0 && a >= 0.0 && b.is_finite() {
                    mistake = mistake.suggest("negate it", interval.span, format!("in [{}, {}]", -b, 0.0 - a));
                } else if b <= 0.0 && a.is_finite() {
                    mistake = mistake.suggest("exchange the ends", interval.span, format!("in [{a}, {b}]"));
                }
                self.mistakes.push(mistake);
                None
            }
        }
    }

    fn write(&mut self, value: &Value<S>, default: Dtype) -> Option<Write> {
        if value.head != Head::Word("erase".to_string()) {
            return self.gate("write", value, default, default).map(Write::Own);
        }
        if let Some(formula) = &value.formula {
            let span = match formula {
                Written::Read(syntax) => syntax.nodes.last().map_or(value.head_span, |whole| whole.span),
                Written::Unreadable => value.head_span,
            };
            self.mistakes.push(
                Mistake::new(
                    span,
                    "a tied write gate has no formula of its own: the erase gate's serves both",
                    "remove it",
                )
                .suggest("or give the write gate its own formula", value.head_span, "scalar"),
            );
            return None;
        }
        if let Some(bound) = &value.bound {
            self.no_bound("write", bound);
        }
        if let Some(storage) = &value.storage {
            self.mistakes.push(
                Mistake::new(storage.span, "a tied write gate has no tensor of its own to store", "not here")
                    .note("its storage is the erase gate's: write `erase: scalar as …`")
                    .suggest("remove it", storage.span, ""),
            );
        }
        let erase =
            self.value("erase").and_then(|erase| grain(erase.head.text()).map(|grain| (grain, erase.head_span)));
        match erase {
            Some((Grain::Channel, span)) => {
                self.mistakes.push(
                    Mistake::new(
                        value.head_span,
                        "`write: erase` ties the gates, which needs a scalar erase gate",
                        "tied here",
                    )
                    .related(span, "this one has a number per key channel, but the write gate acts on value channels")
                    .suggest("give the write gate a tensor of its own", value.head_span, "channel"),
                );
                None
            }
            Some((Grain::None, span)) => {
                self.mistakes.push(
                    Mistake::new(
                        value.head_span,
                        "`write: erase` ties the gates, which needs a scalar erase gate",
                        "tied here",
                    )
                    .related(span, "there is no erase gate to tie to")
                    .note(ERASE_NONE)
                    .suggest("give the write gate a tensor of its own", value.head_span, "scalar"),
                );
                None
            }
            // An erase gate that is missing or unreadable is reported already.
            Some((Grain::Scalar, _)) | None => Some(Write::Tied),
        }
    }

    fn dim(&mut self, key: &str, value: &Value<S>, range: RangeInclusive<u32>) -> Option<u32> {
        self.no_clauses(key, value);
        let span = value.head_span;
        let Head::Number(text) = &value.head else {
            self.mistakes.push(Mistake::new(
                span,
                format!("`{key}` is a number, not `{}`", excerpt(value.head.text())),
                "expected a number",
            ));
            return None;
        };
        let digits = text.replace('_', "");
        let Ok(number) = digits.parse::<u64>() else {
            let mistake =
                Mistake::new(span, format!("`{}` is not a whole decimal number", excerpt(text)), "not a head dim")
                    .note(format!("`{key}` is a multiple of {DIM_STEP} from {} to {}", range.start(), range.end()));
            self.mistakes.push(mistake);
            return None;
        };
        match check_dim(number, &range) {
            Ok(dim) => Some(dim),
            Err((reason, near)) => {
                let mistake =
                    Mistake::new(span, format!("`{key}: {number}` {reason}"), "not a head dim that kernels exist for")
                        .suggest(format!("the nearest legal one is {near}"), span, near.to_string());
                self.mistakes.push(mistake);
                None
            }
        }
    }

    fn dtype(&mut self, value: &Value<S>) -> Option<Dtype> {
        self.no_clauses("dtype", value);
        let text = value.head.text();
        match text {
            "bf16" => return Some(Dtype::Bf16),
            "f16" => return Some(Dtype::F16),
            _ => {}
        }
        let meant = match text {
            "bfloat16" | "bfloat" => Some("bf16"),
            "half" | "float16" | "fp16" => Some("f16"),
            _ => None,
        };
        if let Some(word) = meant {
            let mistake = Mistake::new(value.head_span, format!("unknown dtype `{text}`"), "expected `bf16` or `f16`")
                .suggest(format!("did you mean `{word}`?"), value.head_span, word);
            self.mistakes.push(mistake);
        } else if matches!(text, "f32" | "float32" | "fp32" | "float") {
            let mistake =
                Mistake::new(value.head_span, "q, k, v and o are bf16 or f16, not f32", "expected `bf16` or `f16`")
                    .note("sums and the state are float32 in every rule, and gates may be stored `as f32`");
            self.mistakes.push(mistake);
        } else {
            self.not_one_of("dtype", value, &["bf16", "f16"]);
        }
        None
    }

    fn state(&mut self, value: &Value<S>) -> Option<StateLayout> {
        self.no_clauses("state", value);
        match value.head.text() {
            "kv" => Some(StateLayout::Kv),
            "vk" => Some(StateLayout::Vk),
            _ => {
                self.not_one_of("state", value, &["kv", "vk"]);
                None
            }
        }
    }
}
