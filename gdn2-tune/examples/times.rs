//! Writes what the clock says of every legal candidate of a rule's pass, shape by shape: the tables in `tests/times`, on
//! which searches and lookups are compared without compiling anything. Tens of minutes a rule: a table that is there
//! already is gone on with, and kernels are kept in the cache.
//!
//! `cargo run --release -p gdn2-tune --example times -- TABLE.tsv RULE.gdn2 PASS GPU [--of FIELDS] SHAPE…`
//!
//! A shape is a name or `B=1,T=1000,H=4,HV=4`. With `--of` only candidates are timed whose schedule has all these fields.

use gdn2_codegen::bind;
use gdn2_codegen::gpu::GPUS;
use gdn2_codegen::kernel::Pass;
use gdn2_codegen::schedule::Schedule;
use gdn2_codegen::space::space;
use gdn2_runtime::artifact::Compiler;
use gdn2_runtime::toolchain::{Nvdisasm, Search};
use gdn2_tune::job::Shape;
use gdn2_tune::model::Constants;
use gdn2_tune::shapes::named;
use gdn2_tune::timing::Prepared;
use std::collections::HashSet;
use std::error::Error;
use std::io::Write as _;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [table, file, pass, gpu, rest @ ..] = arguments.as_slice() else {
        return Err("usage: times TABLE.tsv RULE.gdn2 PASS GPU [--of FIELDS] SHAPE…".into());
    };
    let (fields, shapes): (Vec<&str>, &[String]) = match rest {
        [flag, fields, shapes @ ..] if flag == "--of" => (fields.split(',').collect(), shapes),
        shapes => (Vec::new(), shapes),
    };
    let text = std::fs::read_to_string(file)?;
    let rules = gdn2_dsl::parse_file(&text).map_err(|mistakes| mistakes.render(file, &text, false))?;
    let rule = rules.first().ok_or("no rule")?;
    let pass = pass_of(pass)?;
    let (_, arch) = GPUS.iter().find(|(name, _)| name == gpu).ok_or("no such GPU")?;
    let constants = Constants::shipped(gpu)?;
    let search = Search::from_environment(None, None);
    let (disassembler, compiler) = (Nvdisasm::find(&search)?, Compiler::new(search));
    let shapes: Vec<Shape> = shapes.iter().map(|name| shape(name)).collect::<Result<_, _>>()?;
    let heads: Vec<String> = shapes.iter().map(Shape::to_string).collect();
    let head = format!("{} {pass} {gpu}\t{}", rule.name, heads.join("\t"));
    let done = done(table, &head)?;
    let mut out = std::fs::OpenOptions::new().create(true).append(true).open(table)?;
    if done.is_empty() {
        writeln!(out, "{head}")?;
    }
    let wanted = |schedule: &Schedule| {
        let text = schedule.to_string();
        fields.iter().all(|field| text.split(',').any(|other| other == *field)) && !done.contains(&text)
    };
    let built_in = Schedule::default_for(rule, pass, *arch)?;
    for schedule in space(rule, pass, *arch)?.into_iter().filter(wanted) {
        let Ok(kernel) = bind(rule, pass, schedule, *arch) else { continue };
        let started = Instant::now();
        let artifact = compiler.compile(kernel)?;
        let compiled = started.elapsed();
        let spills = artifact.resources.iter().any(|entry| entry.spill_stores + entry.spill_loads > 0);
        let mut cells = vec!["-".to_owned(); shapes.len()];
        // As in a search: what spills cannot win, but what calls get stands.
        if (!spills || schedule == built_in)
            && let Some(cubin) = &artifact.cubin
        {
            let mut prepared = Prepared::new(&artifact, &disassembler.encoded_sass(cubin)?, &constants)?;
            for (cell, shape) in cells.iter_mut().zip(&shapes) {
                match prepared.time(*shape, &[]) {
                    Ok(timing) => *cell = format!("{:.2}", timing.micros()),
                    Err(error) => eprintln!("{schedule} {shape}: {error}"),
                }
            }
        }
        eprintln!(
            "{schedule}: {:.1} s, {:.1} of them compiling",
            started.elapsed().as_secs_f64(),
            compiled.as_secs_f64()
        );
        writeln!(out, "{schedule}\t{}", cells.join("\t"))?;
        out.flush()?;
    }
    Ok(())
}

/// The candidates that a table has whole lines of; the rest of one that was cut short is taken away.
fn done(table: &str, head: &str) -> Result<HashSet<String>, Box<dyn Error>> {
    let Ok(text) = std::fs::read_to_string(table) else { return Ok(HashSet::new()) };
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    if whole.len() < text.len() {
        std::fs::write(table, whole)?;
    }
    match whole.lines().next() {
        Some(first) if first != head => Err(format!("{table} is the table of `{first}`").into()),
        _ => Ok(whole.lines().filter_map(|line| Some(line.split_once('\t')?.0.to_owned())).collect()),
    }
}

fn pass_of(name: &str) -> Result<Pass, String> {
    let all = [Pass::Forward, Pass::ForwardForBackward, Pass::Backward, Pass::Decode];
    all.into_iter().find(|pass| pass.to_string() == name).ok_or_else(|| format!("no pass `{name}`"))
}

fn shape(name: &str) -> Result<Shape, String> {
    let numbers = name.split(',').map(|part| part.split_once('=')?.1.parse().ok()).collect::<Option<Vec<u32>>>();
    if let Some([batch, tokens, key_heads, value_heads]) = numbers.as_deref() {
        return Ok(Shape { batch: *batch, tokens: *tokens, key_heads: *key_heads, value_heads: *value_heads });
    }
    let found = named().into_iter().find(|shape| shape.name == name);
    found.map(|shape| shape.shape()).ok_or_else(|| format!("no shape `{name}`"))
}
