//! Findings for people: each over an excerpt of the source, both parties marked, the remedy last.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use gdn2_runtime::files::{self, Limit};
use gdn2_vm::{Finding, Place, Trap};

use super::kernels::Loaded;
use crate::error::shown;

/// Of a source file that is shown.
const SOURCE: Limit = Limit { kind: "a source file", bytes: 16 << 20 };
/// What source files are called; a PTX text may name any file, and no other is opened.
const ENDINGS: [&str; 12] = ["cu", "cuh", "h", "hpp", "hxx", "c", "cc", "cpp", "cxx", "inl", "inc", "py"];
/// Longer lines are no use on a terminal.
const LONGEST: usize = 300;
/// Further pairs of lines that are told of one finding.
const PAIRS: usize = 8;

/// Draws what was found in the kernels of one text.
pub struct Reporter<'a> {
    loaded: &'a Loaded,
    renderer: Renderer,
    /// Files that were looked for: what they are called here, and their text.
    files: BTreeMap<String, Option<(String, String)>>,
}

/// A line of a text, marked.
struct Mark {
    file: String,
    line: usize,
    label: String,
}

impl<'a> Reporter<'a> {
    /// For kernels of this text.
    pub fn new(loaded: &'a Loaded, color: bool) -> Reporter<'a> {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        Reporter { loaded, renderer: renderer.decor_style(DecorStyle::Ascii), files: BTreeMap::new() }
    }

    /// A finding.
    pub fn finding(&mut self, finding: &Finding) -> String {
        let title = match finding.times {
            1 => finding.rule.to_string(),
            times => format!("{}, {times} times", finding.rule),
        };
        let mut marks = Vec::new();
        let mut notes = Vec::new();
        if let Some(place) = &finding.place {
            marks.push(self.mark(place, finding.what.clone()));
            notes.push(format!("here: {}", whereabouts(place)));
            if let Some(other) = &finding.other {
                let did = if other.wrote { "written" } else { "read" };
                marks.push(self.mark(&other.place, format!("{did} before by {}", other.who)));
                notes.push(format!("before: {}", whereabouts(&other.place)));
            }
        } else {
            notes.push(finding.what.clone());
        }
        for pair in finding.also.iter().take(PAIRS) {
            let other = pair.other.as_ref().map(|other| {
                let did = if other.wrote { "written" } else { "read" };
                format!(", {did} before at {}", self.line(&other.place))
            });
            notes.push(format!("also at {}{}", self.line(&pair.place), other.unwrap_or_default()));
        }
        if let Some(more) = finding.also.len().checked_sub(PAIRS).filter(|more| *more > 0) {
            notes.push(format!("and at {more} further pairs of lines; --json has all"));
        }
        self.draw(&title, &marks, &notes, Some(&finding.fix))
    }

    /// What ended a run, and what had been found before.
    pub fn trap(&mut self, trap: &Trap) -> String {
        let marks: Vec<Mark> = trap.place.iter().map(|place| self.mark(place, "stopped here".to_owned())).collect();
        let notes: Vec<String> = trap.place.iter().map(|place| format!("here: {}", whereabouts(place))).collect();
        let text = self.draw(&format!("trap: {}", trap.fault), &marks, &notes, None);
        text + &trap.findings.iter().map(|finding| self.finding(finding)).collect::<String>()
    }

    fn mark(&mut self, place: &Place, label: String) -> Mark {
        if let Some(source) = &place.source
            && self.text(&source.file).is_some_and(|(_, text)| line_of(text, source.line as usize).is_some())
        {
            return Mark { file: source.file.clone(), line: source.line as usize, label };
        }
        // The PTX text is always at hand.
        Mark { file: String::new(), line: place.ptx_line as usize, label }
    }

    fn line(&mut self, place: &Place) -> String {
        match &place.source {
            Some(source) => format!("{}:{}", self.name(&source.file), source.line),
            None => format!("PTX line {}", place.ptx_line),
        }
    }

    /// What a file is called here.
    fn name(&mut self, file: &str) -> String {
        self.text(file).map_or_else(|| file.to_owned(), |(name, _)| name.clone())
    }

    /// A source file, if it is to be had; the PTX text by an empty name.
    fn text(&mut self, file: &str) -> Option<&(String, String)> {
        if !self.files.contains_key(file) {
            let found = self.find(file);
            self.files.insert(file.to_owned(), found);
        }
        self.files.get(file)?.as_ref()
    }

    fn find(&self, file: &str) -> Option<(String, String)> {
        let own = self.loaded.path.display().to_string();
        if file.is_empty() {
            return Some((own, self.loaded.ptx.clone()));
        }
        if let Some((name, text)) = &self.loaded.source
            && name == file
        {
            return Some((own, text.clone()));
        }
        let path = Path::new(file);
        let ending = path.extension()?.to_str()?;
        if !ENDINGS.contains(&ending) {
            return None;
        }
        let beside: Option<PathBuf> = Some(self.loaded.path.parent()?.join(path.file_name()?));
        let at = [Some(path.to_owned()), beside].into_iter().flatten().find(|path| path.is_file())?;
        let text = String::from_utf8(files::read_regular(&at, SOURCE).ok()?).ok()?;
        Some((file.to_owned(), text))
    }

    fn draw(&mut self, title: &str, marks: &[Mark], notes: &[String], help: Option<&str>) -> String {
        let mut files: Vec<&str> = Vec::new();
        for mark in marks {
            if !files.contains(&mark.file.as_str()) {
                files.push(&mark.file);
            }
        }
        let mut excerpts = Vec::new();
        for file in files {
            let of: Vec<&Mark> = marks.iter().filter(|mark| mark.file == file).collect();
            let Some((name, text)) = self.text(file) else { continue };
            if let Some(excerpt) = Excerpt::of(text, &of) {
                excerpts.push((name.clone(), excerpt));
            }
        }
        let title = shown(title);
        let mut group = Group::with_title(Level::ERROR.primary_title(title.as_str()));
        for (at, (name, excerpt)) in excerpts.iter().enumerate() {
            let mut snippet = Snippet::source(excerpt.text.as_str()).path(name.as_str()).line_start(excerpt.first);
            for (index, (range, label)) in excerpt.marks.iter().enumerate() {
                let kind = if at == 0 && index == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
                snippet = snippet.annotation(kind.span(range.clone()).label(label.as_str()));
            }
            group = group.element(snippet);
        }
        let notes: Vec<String> = notes.iter().map(|note| shown(note)).collect();
        for note in &notes {
            group = group.element(Level::NOTE.message(note.as_str()));
        }
        if let Some(help) = help {
            group = group.element(Level::HELP.message(help));
        }
        self.renderer.render(&[group]) + "\n\n"
    }
}

fn line_of(text: &str, line: usize) -> Option<&str> {
    text.lines().nth(line.checked_sub(1)?).filter(|line| line.len() <= LONGEST && !line.trim().is_empty())
}

/// The lines that a drawing needs, without anything that a terminal would obey.
struct Excerpt {
    text: String,
    first: usize,
    marks: Vec<(std::ops::Range<usize>, String)>,
}

impl Excerpt {
    fn of(text: &str, marks: &[&Mark]) -> Option<Excerpt> {
        let first = marks.iter().map(|mark| mark.line).min()?;
        let last = marks.iter().map(|mark| mark.line).max()?;
        let (mut out, mut drawn) = (String::new(), Vec::new());
        for (line, own) in text.lines().enumerate().skip(first.saturating_sub(1)).take(last - first + 1) {
            let start = out.len();
            let own = shown(own).replace('\t', "    ");
            // A long line in between is not drawn.
            out.push_str(if own.len() <= LONGEST { &own } else { "" });
            let indent = own.len() - own.trim_start().len();
            for mark in marks.iter().filter(|mark| mark.line == line + 1) {
                drawn.push((start + indent..start + own.trim_end().len(), mark.label.clone()));
            }
            out.push('\n');
        }
        // In the order of the marks: the first is what the finding is about.
        drawn.sort_by_key(|(_, label)| marks.iter().position(|mark| mark.label == *label));
        (!drawn.is_empty()).then_some(Excerpt { text: out, first: first.max(1), marks: drawn })
    }
}

/// Block, warp, lane and instruction.
fn whereabouts(place: &Place) -> String {
    let [x, y, z] = place.block;
    let lane = place.lane.map_or(String::new(), |lane| format!(", lane {lane}"));
    let call = place.called_from.as_ref().map_or(String::new(), |call| format!(", called from line {}", call.line));
    format!("block ({x},{y},{z}), warp {}{lane}, PTX line {} `{}`{call}", place.warp, place.ptx_line, place.instruction)
}
