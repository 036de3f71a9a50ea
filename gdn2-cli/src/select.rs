//! `FILE[#RULE]` and the overrides of head dims and dtype: from the command line to rules.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use gdn2_codegen::kernel::Pass;
use gdn2_dsl::{Dtype, Named, Rule, rules_in_source};
use gdn2_runtime::files::{self, Limit};

use crate::error::CliError;
use crate::{read, terminal};

/// `FILE` or `FILE#RULE`.
#[derive(Clone, Debug)]
pub struct Selection {
    file: PathBuf,
    rule: Option<String>,
}

impl From<OsString> for Selection {
    fn from(text: OsString) -> Selection {
        // A path may hold a `#` of its own, and need not be text; a rule's name is an identifier.
        let bytes = text.as_encoded_bytes();
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        if let Some(at) = bytes.iter().rposition(|byte| *byte == b'#')
            && let (file @ [_, ..], [_, rule @ ..]) = bytes.split_at(at)
            && rule.iter().all(is_word)
        {
            let rule = String::from_utf8_lossy(rule).into_owned();
            // SAFETY: the bytes are those of an `OsString`, cut before an ASCII character.
            let file = unsafe { OsStr::from_encoded_bytes_unchecked(file) };
            return Selection { file: file.into(), rule: Some(rule) };
        }
        Selection { file: text.into(), rule: None }
    }
}

impl Selection {
    /// All rules of a file.
    pub fn file(file: PathBuf) -> Selection {
        Selection { file, rule: None }
    }

    /// The file, or folder.
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// The rules that macros of Rust source name, in order; none where there is no such macro.
    pub fn in_source(&self) -> Result<Vec<Rule>, CliError> {
        let text = files::read_regular(&self.file, Limit::SOURCE)
            .and_then(|bytes| String::from_utf8(bytes).map_err(std::io::Error::other))
            .map_err(|source| CliError::Read { path: self.file.clone(), source })?;
        let found = rules_in_source(&text)
            .map_err(|error| CliError::in_file(&self.file, CliError::Usage(error.to_string())))?;
        // As the compiler has it: files are named from where the crate's Cargo.toml is.
        let root = self.file.ancestors().skip(1).find(|folder| folder.join("Cargo.toml").is_file());
        let root = root.unwrap_or(Path::new(""));
        let mut rules = Vec::new();
        for found in found {
            match found.rule {
                Named::Rule(rule) => rules.push(*rule),
                Named::File(file) => rules.extend(Selection::from(root.join(file).into_os_string()).rules()?),
            }
        }
        Ok(rules)
    }

    /// The rules it names: one, or all of the file, which may be Rust source.
    pub fn rules(&self) -> Result<Vec<Rule>, CliError> {
        if self.file.extension().is_some_and(|extension| extension == "rs") {
            let rules = self.in_source()?;
            if rules.is_empty() {
                let file = self.file.display();
                return Err(CliError::Usage(format!("{file} names no rule by delta_rule! or include_rule!")));
            }
            return self.chosen(rules);
        }
        let file = self.file.display().to_string();
        let bytes = read::bytes(&self.file, Limit::RULE)?;
        let source = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            CliError::Diagnostics(format!("error: {file}: not a rule file: byte {at} is not UTF-8 text"))
        })?;
        let rules = gdn2_dsl::parse_file(&source).map_err(|diagnostics| {
            CliError::Diagnostics(diagnostics.render(&file, &source, terminal::colored_errors()))
        })?;
        self.chosen(rules)
    }

    /// The rule of that name, or all where none is named.
    fn chosen(&self, rules: Vec<Rule>) -> Result<Vec<Rule>, CliError> {
        let Some(name) = &self.rule else { return Ok(rules) };
        let file = self.file.display().to_string();
        let known = rules.iter().map(|rule| rule.name.as_str()).collect::<Vec<_>>().join(", ");
        match rules.into_iter().find(|rule| rule.name == *name) {
            Some(rule) => Ok(vec![rule]),
            None => Err(CliError::NoSuchRule { file, name: name.clone(), known }),
        }
    }

    /// The one rule it names.
    pub fn rule(&self) -> Result<Rule, CliError> {
        let mut rules = self.rules()?;
        if rules.len() > 1 {
            let file = self.file.display().to_string();
            let choices = rules.iter().map(|rule| format!("{file}#{}", rule.name)).collect::<Vec<_>>().join(", ");
            return Err(CliError::ManyRules { file, choices });
        }
        // A rule file that parses holds at least one rule.
        rules.pop().ok_or_else(|| CliError::Diagnostics(format!("error: {} holds no rule", self.file.display())))
    }
}

/// Head dims and dtype other than the rule's own.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Overrides {
    /// K instead of the rule's: 16 to 256, a multiple of 16
    #[arg(long, value_name = "K")]
    key_dim: Option<u32>,
    /// V instead of the rule's: 16 to 512, a multiple of 16
    #[arg(long, value_name = "V")]
    value_dim: Option<u32>,
    /// Storage of q, k, v, o instead of the rule's: bf16 or f16
    #[arg(long, value_name = "DTYPE", value_parser = dtype)]
    dtype: Option<Dtype>,
}

/// A pass that kernels exist for, by its name.
pub fn pass(name: &str) -> Result<Pass, String> {
    const PASSES: [Pass; 4] = [Pass::Forward, Pass::Decode, Pass::ForwardForBackward, Pass::Backward];
    PASSES
        .into_iter()
        .find(|pass| pass.name() == name)
        .ok_or_else(|| format!("use {}", PASSES.map(Pass::name).join(" or ")))
}

fn dtype(name: &str) -> Result<Dtype, String> {
    match name {
        "bf16" => Ok(Dtype::Bf16),
        "f16" => Ok(Dtype::F16),
        _ => Err("use bf16 or f16".to_owned()),
    }
}

impl Overrides {
    /// The rule with these values in place of its own.
    pub fn apply(&self, rule: Rule) -> Result<Rule, CliError> {
        let rule = match self.dtype {
            Some(dtype) => rule.with_dtype(dtype)?,
            None => rule,
        };
        if self.key_dim.is_none() && self.value_dim.is_none() {
            return Ok(rule);
        }
        let (key, value) = (self.key_dim.unwrap_or(rule.key_dim), self.value_dim.unwrap_or(rule.value_dim));
        Ok(rule.with_dims(key, value)?)
    }
}
