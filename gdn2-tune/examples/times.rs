//! Writes what the clock says of every legal candidate of a rule's pass, shape by shape: the tables in `tests/times`, on
//! which searches are compared without compiling anything. Tens of minutes a rule; kernels are kept in the cache.
//!
//! `cargo run --release -p gdn2-tune --example times -- RULE.gdn2 PASS GPU SHAPE… > tests/times/RULE_PASS_GPU.tsv`

use gdn2_codegen::bind;
use gdn2_codegen::gpu::GPUS;
use gdn2_codegen::kernel::Pass;
use gdn2_codegen::space::space;
use gdn2_runtime::artifact::Compiler;
use gdn2_runtime::toolchain::{Nvdisasm, Search};
use gdn2_tune::job::Shape;
use gdn2_tune::model::Constants;
use gdn2_tune::shapes::named;
use gdn2_tune::timing::Prepared;
use std::error::Error;
use std::io::Write as _;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, pass, gpu, shapes @ ..] = arguments.as_slice() else {
        return Err("usage: times RULE.gdn2 PASS GPU SHAPE…".into());
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
    let mut out = std::io::stdout().lock();
    let heads: Vec<String> = shapes.iter().map(Shape::to_string).collect();
    writeln!(out, "{} {pass} {gpu}\t{}", rule.name, heads.join("\t"))?;
    for schedule in space(rule, pass, *arch)? {
        let Ok(kernel) = bind(rule, pass, schedule, *arch) else { continue };
        let artifact = compiler.compile(kernel)?;
        let spills = artifact.resources.iter().any(|entry| entry.spill_stores + entry.spill_loads > 0);
        let mut cells = vec!["-".to_owned(); shapes.len()];
        if !spills && let Some(cubin) = &artifact.cubin {
            let mut prepared = Prepared::new(&artifact, &disassembler.encoded_sass(cubin)?, &constants)?;
            for (cell, shape) in cells.iter_mut().zip(&shapes) {
                match prepared.time(*shape, &[]) {
                    Ok(timing) => *cell = format!("{:.2}", timing.micros()),
                    Err(error) => eprintln!("{schedule} {shape}: {error}"),
                }
            }
        }
        writeln!(out, "{schedule}\t{}", cells.join("\t"))?;
        out.flush()?;
    }
    Ok(())
}

fn pass_of(name: &str) -> Result<Pass, String> {
    let all = [Pass::Forward, Pass::ForwardForBackward, Pass::Backward, Pass::Decode];
    all.into_iter().find(|pass| pass.to_string() == name).ok_or_else(|| format!("no pass `{name}`"))
}

fn shape(name: &str) -> Result<Shape, String> {
    let found = named().into_iter().find(|shape| shape.name == name);
    found.map(|shape| shape.shape()).ok_or_else(|| format!("no shape `{name}`"))
}
