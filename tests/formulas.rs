//! Kernels that compute their gates and normalise their rows, on the virtual machine: shipped layers on fresh inputs, the
//! oracle's cases by the bars they state, and formulas nobody wrote. Every run takes a share, which changes with the seed;
//! `GDN2_TEST_FORMULAS=N` takes N of each.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::sync::LazyLock;

use gdn2_codegen::abi::Tensor;
use gdn2_codegen::arch::Arch;
use gdn2_codegen::kernel::Pass;
use gdn2_dsl::bars::{Bar, Cost, Deviation, NAMED_BAR, PATTERNS, Verdict};
use gdn2_dsl::simulate::{self, Pattern};
use gdn2_dsl::{Draw, OutputGradients, Rule, layer, parse_file};
use gdn2_runtime::device::Device;
use gdn2_runtime::drawn::bars;
use gdn2_runtime::engine::{Engine, Outcome, Run, RunError};
use gdn2_runtime::judge::{judge, judge_named};
use gdn2_runtime::problem::Problem;
use gdn2_runtime::tensors::{Array, Case};
use gdn2_tests::draws::runner;
use gdn2_tests::seed::{again, seed_of};
use gdn2_tests::{checked, engine, files_below, root};
use proptest::prelude::*;
use proptest::test_runner::TestError;

const PASSES: [Pass; 3] = [Pass::Forward, Pass::Decode, Pass::Backward];
const ARCHES: [Arch; 2] = [Arch::Sm80, Arch::Sm90a];
const CHUNKS: [&str; 3] = ["chunk=16", "chunk=32", "chunk=64"];

static ENGINE: LazyLock<Engine> = LazyLock::new(engine);

/// How many of a kind this run takes.
fn share(usual: u64) -> u64 {
    std::env::var("GDN2_TEST_FORMULAS").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

fn pick<T: Copy>(from: &[T], draw: u64) -> T {
    from[(seed_of(draw) % from.len() as u64) as usize]
}

fn layers() -> Vec<Rule> {
    let read = |path| parse_file(&std::fs::read_to_string(path).unwrap()).unwrap();
    let rules = files_below("rules").unwrap().into_iter().flat_map(read);
    rules.filter(|rule: &Rule| !rule.prologue.is_empty()).collect()
}

/// What is wrong with an outcome, given bars; gradients of what the rule names itself have the case's.
fn wrong(case: &Case, outcome: &Outcome, bars: impl IntoIterator<Item = (Tensor, Bar)>) -> Option<String> {
    if let Some(finding) = outcome.reports.iter().flat_map(|report| &report.findings).next() {
        return Some(finding.to_string());
    }
    for (tensor, bar) in bars {
        match judge(tensor, outcome, case, bar) {
            Ok(Some(judged)) if judged.verdict == Verdict::Failed => return Some(format!("{judged:?}")),
            Ok(_) => {}
            Err(error) => return Some(error.to_string()),
        }
    }
    for name in outcome.named.keys() {
        match judge_named(name, outcome, case) {
            Ok(Some((deviation, bar, Verdict::Failed))) => return Some(format!("{name}: {deviation:?}, {bar:?}")),
            Ok(_) => {}
            Err(error) => return Some(error.to_string()),
        }
    }
    None
}

/// Runs a draw through a kernel; anything wrong is the error.
fn agrees(run: &Run<'_>, draw: &Draw) -> Result<(), String> {
    let what = || format!("{}{:?} {} {draw:?}; {}", run.rule, run.pass, run.schedule, again());
    let mut case = Case::drawn(run.rule, draw, run.pass == Pass::Backward).unwrap();
    case.set_named_bars(run.rule, draw).unwrap();
    let outcome = ENGINE.run(run, &case).map_err(|error| format!("{error}: {}", what()))?;
    let (_, schedule) = outcome.kernel.unwrap();
    let bars = bars(run.rule, draw, &case, &schedule).unwrap();
    wrong(&case, &outcome, bars).map_or(Ok(()), |wrong| Err(format!("{wrong}: {}", what())))
}

#[test]
fn layers_agree_with_the_definition_on_fresh_inputs() {
    let (layers, device) = (layers(), checked());
    assert!(layers.len() >= 9);
    let mut failures = Vec::new();
    for at in 0..share(3) {
        let of = |what: u64| 16 * at + what;
        let index = (seed_of(of(0)) % layers.len() as u64) as usize;
        let (keys, values) = (pick(&[16, 32, 48, 64, 80, 128], of(1)), pick(&[16, 32, 64, 96, 128], of(2)));
        let rule = layers[index].with_dims(keys, values).unwrap();
        let (arch, pass) = (pick(&ARCHES, of(3)), pick(&PASSES, of(4)));
        let schedule = if pass == Pass::Decode { "" } else { pick(&CHUNKS, of(5)) };
        println!("{} K = {keys}, V = {values}, {pass} {arch} {schedule}", rule.name);
        let run = Run { arch: Some(arch), schedule, tokens_per_launch: 3, ..Run::new(&rule, pass, &device) };
        let draw = &Draw::telling(seed_of(of(6)))[(seed_of(of(7)) % 3) as usize];
        failures.extend(agrees(&run, draw).err());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// On wgmma, in one part and in several: shipped layers, one token now and then; of backward the scan.
#[test]
fn layers_on_wgmma_agree_with_the_definition_on_fresh_inputs() {
    let (layers, device) = (layers(), checked());
    let mut failures = Vec::new();
    for at in 0..share(2) {
        let of = |what: u64| 3 << 32 | (16 * at + what);
        let index = (seed_of(of(0)) % layers.len() as u64) as usize;
        let pass = pick(&[Pass::Forward, Pass::Forward, Pass::Forward, Pass::Backward], of(8));
        let (keys, values) = match pass {
            Pass::Backward => (pick(&[16, 48, 64], of(1)), 64),
            _ => (pick(&[16, 32, 48, 64, 80, 128], of(1)), pick(&[64, 128], of(2))),
        };
        let rule = layers[index].with_dims(keys, values).unwrap();
        let schedule =
            format!("matrix=wgmma,{}{}", pick(&CHUNKS, of(3)), pick(&["", ",segments=2", ",segments=4"], of(4)));
        println!("{} K = {keys}, V = {values}, {pass} {schedule}", rule.name);
        let run = Run { arch: Some(Arch::Sm90a), schedule: &schedule, ..Run::new(&rule, pass, &device) };
        let mut draws = Draw::telling(seed_of(of(5))).to_vec();
        draws.push(Draw::new(2, 1, 1, 2, seed_of(of(6))));
        failures.extend(agrees(&run, &draws[(seed_of(of(7)) % draws.len() as u64) as usize]).err());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn the_oracles_cases_pass_by_their_bars() {
    // A clone without the oracle beside it has no such cases.
    let Ok(entries) = std::fs::read_dir(root().join("../shared/oracle-gates")) else { return };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "safetensors"));
    paths.sort();
    let device = checked();
    let mut failures = Vec::new();
    for at in 0..share(3) {
        let of = |what: u64| 1 << 32 | (16 * at + what);
        let path = &paths[(seed_of(of(0)) % paths.len() as u64) as usize];
        let case = Case::load(path).unwrap();
        let rule = case.rule().unwrap();
        let (arch, pass) = (pick(&ARCHES, of(1)), pick(&PASSES, of(2)));
        let schedule = if pass == Pass::Decode { "" } else { pick(&CHUNKS, of(3)) };
        println!("{} {pass} {arch} {schedule}", rule.name);
        let run = Run { arch: Some(arch), schedule, ..Run::new(&rule, pass, &device) };
        let outcome = ENGINE.run(&run, &case).unwrap();
        let bars = outcome.tensors.keys().filter_map(|tensor| Some((*tensor, case.bar(*tensor).unwrap()?)));
        let wrong = wrong(&case, &outcome, bars.collect::<Vec<_>>());
        failures.extend(wrong.map(|wrong| format!("{} {pass} {arch} {schedule}: {wrong}; {}", rule.name, again())));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Logits far out, a strong rate, rows of zeros: what makes a careless formula or a difference of rounded sums give noise.
#[test]
fn logits_far_out_and_rows_of_zeros_keep_their_gradients() {
    let exact = "cpu:f64".parse::<Device>().unwrap();
    let layers: Vec<Rule> = layers().into_iter().filter(|rule| rule.prologue.normalises_k()).collect();
    let mut failures = Vec::new();
    for at in 0..share(1) {
        let of = |what: u64| 2 << 32 | (16 * at + what);
        let rule = layers[(seed_of(of(0)) % layers.len() as u64) as usize].with_dims(32, 32).unwrap();
        let draw = Draw::new(1, 70, 1, 2, seed_of(of(1)));
        let mut case = Case::drawn_inputs(&rule, &draw, true).unwrap();
        for (tensor, array) in &mut case.tensors {
            let name = tensor.name();
            for (place, number) in array.data.iter_mut().enumerate() {
                match seed_of(of(2) << 20 | place as u64) % 16 {
                    0 | 1 if ["g", "b", "w"].contains(&name) => *number = if *number < 0.0 { -50.0 } else { 50.0 },
                    2 if ["g", "b", "w"].contains(&name) => *number = if *number < 0.0 { -1e4 } else { 1e4 },
                    _ => {}
                }
            }
            if matches!(name, "q" | "k") {
                array.data[5 * 32..6 * 32].fill(0.0);
            }
        }
        let rate = case.named.get_mut("a_log").unwrap();
        rate.data[0] = 5.0;
        let want = ENGINE.run(&Run::new(&rule, Pass::Backward, &exact), &case).unwrap();
        let device = checked();
        let run = Run { schedule: pick(&CHUNKS, of(3)), ..Run::new(&rule, Pass::Backward, &device) };
        let mut got = ENGINE.run(&run, &case).unwrap();
        let tensors = want.tensors.into_iter().map(|(tensor, mut array)| {
            // A row of zeros has 1,000 times the others' gradient.
            if matches!(tensor.name(), "dq" | "dk") {
                array.data[5 * 32..6 * 32].fill(0.0);
                got.tensors.get_mut(&tensor).unwrap().data[5 * 32..6 * 32].fill(0.0);
            }
            (tensor, array)
        });
        case.tensors.extend(tensors.collect::<Vec<_>>());
        case.named.extend(want.named);
        case.metadata.insert("bar_scale".to_owned(), "1.5".to_owned());
        let bars = got.tensors.keys().filter_map(|tensor| Some((*tensor, case.bar(*tensor).unwrap()?)));
        let bars: Vec<_> = bars.collect();
        // A parameter's gradient is a few sums, which may cancel: what rounding can cost it here says how far it may be off.
        let inputs = Problem::new(&rule, &case).unwrap().inputs64();
        let wide = |tensor| case.tensors[&tensor].data.iter().copied().map(f64::from).collect::<Vec<f64>>();
        let upstream = OutputGradients {
            d_out: wide(Tensor::DO),
            d_final_state: case.tensors.contains_key(&Tensor::DFinalState).then(|| wide(Tensor::DFinalState)),
        };
        let made = layer::computed(&rule, &inputs).unwrap();
        let simulated: Vec<_> = (0..PATTERNS)
            .map(|pattern| {
                let found = simulate::backward(&rule, &made, &upstream, 64, Pattern::Other(pattern)).unwrap();
                layer::pulled_back(&rule, &inputs, found).unwrap().named
            })
            .collect();
        for own in rule.prologue.named() {
            let name = format!("d{}", own.name);
            let numbers = |array: &Array| array.data.iter().copied().map(f64::from).collect::<Vec<f64>>();
            let exact = numbers(&case.named[&name]);
            let patterns: Vec<Vec<f64>> = simulated.iter().map(|found| found[own.name].clone()).collect();
            let Some(cost) = Cost::of(&patterns, &exact) else { continue };
            let bar = Bar::drawn(NAMED_BAR, &cost);
            let deviation = Deviation::of(numbers(&got.named[&name]).into_iter(), &exact);
            println!("{} {name}: {deviation:?}, {cost:?}, {bar:?}", rule.name);
            if deviation.verdict(bar, exact.len()) == Verdict::Failed {
                failures.push(format!("{name}: {deviation:?}, {bar:?}: {rule}{}; {}", run.schedule, again()));
            }
        }
        got.named.clear();
        let found = wrong(&case, &got, bars);
        failures.extend(found.map(|wrong| format!("{wrong}: {rule}{}; {}", run.schedule, again())));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A formula of one gate: a tree over names, brackets everywhere.
fn trees(names: &'static [&'static str]) -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        4 => prop::sample::select(names).prop_map(str::to_owned),
        1 => prop::sample::select(vec!["0.25", "1", "2", "16"]).prop_map(str::to_owned),
    ];
    leaf.prop_recursive(5, 24, 2, |inner| {
        let functions = prop::sample::select(vec!["exp", "softplus", "sigmoid", "logsigmoid", "silu", "tanh"]);
        let symbols = prop::sample::select(vec!["+", "-", "*"]);
        prop_oneof![
            1 => inner.clone().prop_map(|a| format!("-({a})")),
            1 => inner.clone().prop_map(|a| format!("log(1 + softplus({a}))")),
            1 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) / (1 + exp({b}))")),
            4 => (symbols, inner.clone(), inner.clone()).prop_map(|(symbol, a, b)| format!("({a}) {symbol} ({b})")),
            4 => (functions, inner).prop_map(|(function, a)| format!("{function}({a})")),
        ]
    })
}

/// Rules of every grain whose gates are random trees inside what keeps a state from growing: every name is read by one of
/// them, `let`s of both grains by gates of both.
fn random_rules() -> impl Strategy<Value = String> {
    (
        (trees(&["x", "a"]), trees(&["x", "a", "c", "s"]), trees(&["x", "a", "s"]), any::<[bool; 3]>()),
        (trees(&["x", "a", "c", "s", "z"]), trees(&["x", "a", "s"]), trees(&["x", "a", "e", "s"])),
        (prop::sample::select(vec!["-softplus", "-sigmoid", "logsigmoid", "-5 * sigmoid"]), any::<[bool; 3]>()),
        prop::sample::select(vec![
            "key_dim: 32; value_dim: 16;",
            "key_dim: 16; value_dim: 48;",
            "key_dim: 64; value_dim: 32;",
        ]),
    )
        .prop_map(|((s, z, scalar, norms), (decay, erase, write), (outer, wide), dims)| {
            let norm = |on: bool, row: &str| if on { format!("{row}: l2norm; ") } else { String::new() };
            let mut text = format!("rule random {{ {}{}", norm(norms[0], "q"), norm(true, "k"));
            text += &format!("param a: head; let s: scalar = tanh(x + a + tanh({s})); ");
            if wide[0] {
                text += &format!("param c: channel; let z: channel = tanh(x * c + tanh({z}) + s); ");
                text += &format!("decay: channel = {outer}(0.5 * tanh({decay}) + x + z); ");
            } else {
                text += &format!("decay: scalar = {outer}(0.5 * tanh({scalar}) + s + a); ");
            }
            text += &match (wide[0] && wide[1], norms[1]) {
                (true, _) => format!("erase: channel = sigmoid(x + tanh({decay}) * c); "),
                (false, true) => format!("erase: channel = sigmoid(x + tanh({erase})); "),
                (false, false) => format!("erase: scalar = sigmoid(s + tanh({scalar})); "),
            };
            if wide[2] {
                text += &format!("param e: channel; write: channel = 2 * tanh(x + e + tanh({write}) + s); ");
            } else {
                text += &format!("write: scalar = silu(x + s + tanh({erase})); ");
            }
            text + dims + " dtype: bf16; }"
        })
}

#[test]
fn formulas_nobody_wrote_run_forward_and_backward() {
    let device = checked();
    let count = u32::try_from(share(2)).unwrap();
    let draws = (random_rules(), any::<u64>(), any::<prop::sample::Index>(), any::<prop::sample::Index>());
    let ran = runner(count).run(&draws, |(text, seed, arch, draw)| {
        let found = parse_file(&text);
        // What is refused is refused with words, which other tests look at.
        let Ok(rule) = found.map(|mut rules| rules.remove(0)) else { return Err(TestCaseError::reject("refused")) };
        println!("{rule}");
        for pass in [Pass::Forward, Pass::Backward] {
            let run = Run {
                arch: Some(*arch.get(&ARCHES)),
                schedule: CHUNKS[draw.index(CHUNKS.len())],
                ..Run::new(&rule, pass, &device)
            };
            let draw = Draw { regime: gdn2_dsl::Regime::Mild, ..Draw::new(1, 40, 1, 2, seed) };
            agrees(&run, &draw).map_err(TestCaseError::fail)?;
        }
        Ok(())
    });
    match ran {
        Ok(()) => {}
        Err(TestError::Fail(reason, (text, ..))) => panic!("{reason}\n{text}"),
        Err(error) => panic!("{error}"),
    }
}

/// Rules that wgmma can serve whose gates are random trees: logits of every gate's own in either width or none, a `let`
/// among gates with one number per token.
fn random_rules_of_wgmma() -> impl Strategy<Value = String> {
    (
        (trees(&["x", "a", "c"]), trees(&["a", "c"]), trees(&["x", "a", "s"]), trees(&["x", "a"]), trees(&["x", "e"])),
        prop::sample::select(vec!["-softplus", "-sigmoid", "logsigmoid", "-5 * sigmoid"]),
        any::<[bool; 8]>(),
        prop::sample::select(vec![
            (32, 64, "bf16"),
            (64, 64, "f16"),
            (16, 128, "bf16"),
            (80, 64, "bf16"),
            (128, 64, "bf16"),
        ]),
    )
        .prop_map(|((decay, fixed, scalar, erase, write), outer, on, (key_dim, value_dim, dtype))| {
            let stored = |wide: bool| if wide { " as f32" } else { "" };
            let (channels, reads, apart, erases, writes) = (on[0], on[1], on[2], on[3], on[4]);
            let mut text =
                format!("rule random {{ {}k: l2norm; param a: head; ", if on[5] { "q: l2norm; " } else { "" });
            if !(channels && erases && writes) {
                text += &format!("let s: scalar{} = tanh(x + a + tanh({erase})); ", stored(apart));
            }
            text += &match (channels, reads) {
                (true, true) => format!(
                    "param c: channel; decay: channel{} = {outer}(0.5 * tanh({decay}) + x + c); ",
                    stored(apart)
                ),
                (true, false) => format!("param c: channel; decay: channel = {outer}(0.5 * tanh({fixed}) + c + a); "),
                (false, true) => format!("decay: scalar = {outer}(0.5 * tanh({scalar}) + s + a); "),
                (false, false) => format!("decay: scalar = {outer}(0.5 * tanh(a) + s); "),
            };
            text += &match erases {
                true => format!("erase: channel{} = sigmoid(x + tanh({erase})); ", stored(on[6])),
                false => format!("erase: scalar = sigmoid(s + x + tanh({erase})); "),
            };
            text += &match writes {
                true => {
                    format!("param e: channel; write: channel{} = 2 * tanh(x + e + tanh({write})); ", stored(on[7]))
                }
                false => format!("write: scalar = silu(x + s + tanh({scalar})); "),
            };
            format!("{text}key_dim: {key_dim}; value_dim: {value_dim}; dtype: {dtype}; }}")
        })
}

#[test]
fn formulas_nobody_wrote_run_on_wgmma() {
    let device = checked();
    let count = u32::try_from(share(2)).unwrap();
    let draws = (random_rules_of_wgmma(), any::<u64>(), any::<prop::sample::Index>(), any::<bool>());
    let ran = runner(count).run(&draws, |(text, seed, at, parts)| {
        let found = parse_file(&text);
        let Ok(rule) = found.map(|mut rules| rules.remove(0)) else { return Err(TestCaseError::reject("refused")) };
        println!("{rule}");
        let schedule =
            format!("matrix=wgmma,{}{}", CHUNKS[at.index(CHUNKS.len())], if parts { ",segments=3" } else { "" });
        let run = Run { arch: Some(Arch::Sm90a), schedule: &schedule, ..Run::new(&rule, Pass::Forward, &device) };
        let draw = Draw { regime: gdn2_dsl::Regime::Mild, ..Draw::new(1, 75, 1, 2, seed) };
        agrees(&run, &draw).map_err(TestCaseError::fail)
    });
    match ran {
        Ok(()) => {}
        Err(TestError::Fail(reason, (text, ..))) => panic!("{reason}\n{text}"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn logits_of_lets_along_channels_are_refused_on_wgmma_with_words() {
    let text = "rule r { k: l2norm; let s: scalar = tanh(x); decay: channel = -softplus(x + s); erase: scalar = sigmoid(s); \
                write: erase; key_dim: 64; value_dim: 64; dtype: bf16; }";
    let rule = parse_file(text).unwrap().remove(0);
    let device = Device::vm();
    let run = Run { arch: Some(Arch::Sm90a), schedule: "matrix=wgmma", ..Run::new(&rule, Pass::Forward, &device) };
    let error = ENGINE.artifact(&run).unwrap_err();
    assert!(matches!(&error, RunError::Illegal(illegal) if illegal.field == "matrix"), "{error}");
    assert!(error.to_string().contains("mma where `g` along channels needs the logit of a `let`"), "{error}");
    let built_in = ENGINE.artifact(&Run { schedule: "", ..run }).unwrap();
    assert!(built_in.source.text.contains("// Not on wgmma: illegal: matrix"), "{}", built_in.source.text);
}
