//! Rules that compute their gates on the cpu device: the oracle's cases by the bars they state, drawn cases through their
//! files, and what a case must not be.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use gdn2_codegen::abi::Tensor;
use gdn2_codegen::pass::Pass;
use gdn2_dsl::bars::Deviation;
use gdn2_dsl::{Draw, Regime, Rule, parse_file};
use gdn2_runtime::artifact::Compiler;
use gdn2_runtime::device::Device;
use gdn2_runtime::engine::{Engine, Outcome, Run};
use gdn2_runtime::problem::Problem;
use gdn2_runtime::tensors::{Array, Case};
use gdn2_runtime::toolchain::Search;

const PASSES: [Pass; 3] = [Pass::Forward, Pass::Decode, Pass::Backward];

fn engine() -> Engine {
    Engine::new(Compiler::new(Search::from_environment(None, None)))
}

fn layers() -> Vec<Rule> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rules");
    let mut rules: Vec<Rule> = std::fs::read_dir(folder)
        .unwrap()
        .flat_map(|entry| parse_file(&std::fs::read_to_string(entry.unwrap().path()).unwrap()).unwrap())
        .filter(|rule| !rule.prologue.is_empty())
        .collect();
    rules.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(rules.len() >= 9);
    rules
}

/// Every tensor of an outcome that the case knows, under its bar times `scale`; how many there were.
fn judge(name: &str, case: &Case, outcome: &Outcome, scale: f64) -> usize {
    let fixed = outcome.tensors.iter().filter_map(|(tensor, got)| {
        let bar = case.bar(*tensor).unwrap().unwrap().bar;
        Some((tensor.name(), got, case.tensors.get(tensor)?, bar))
    });
    let named = outcome.named.iter().filter_map(|(name, got)| {
        let bar = case.named_bar(name).unwrap().bar;
        Some((name.as_str(), got, case.named.get(name)?, bar))
    });
    let mut judged = 0;
    for (tensor, got, want, bar) in fixed.chain(named) {
        let want: Vec<f64> = want.data.iter().copied().map(f64::from).collect();
        let deviation = Deviation::of(got.data.iter().copied().map(f64::from), &want);
        assert!(deviation.passes(bar * scale), "{name} {tensor}: {deviation:?}, bar {bar}");
        judged += 1;
    }
    judged
}

#[test]
fn the_oracles_cases_pass_by_their_bars() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/oracle-gates");
    // A clone without the oracle beside it has no such cases.
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "safetensors"));
    let mut judged = 0;
    for device in ["cpu", "cpu:f64"].map(|name| name.parse::<Device>().unwrap()) {
        for path in &paths {
            let case = Case::load(path).unwrap();
            let rule = case.rule().unwrap();
            for pass in PASSES {
                let outcome = engine().run(&Run::new(&rule, pass, &device), &case).unwrap();
                // A hundredth of the bar: nothing is rounded to 16 bits on the way.
                judged += judge(&path.display().to_string(), &case, &outcome, 1e-2);
            }
        }
    }
    assert!(paths.len() < 8 || judged >= 184, "only {judged} tensors");
}

#[test]
fn drawn_cases_of_shipped_layers_come_back_from_their_files() {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    for (index, rule) in layers().into_iter().enumerate() {
        let rule = rule.with_dims([16, 32, 48][index % 3], [48, 16, 32][index % 3]).unwrap();
        for regime in [Regime::Mild, Regime::Strong, Regime::Reset] {
            let seed = seed.wrapping_add(index as u64);
            println!("{} {regime:?} seed {seed}", rule.name);
            let draw = Draw { cu_seqlens: Some(vec![0, 1, 1, 20, 33]), regime, ..Draw::new(1, 33, 1, 3, seed) };
            let drawn = Case::drawn(&rule, &draw, true).unwrap();
            let case = Case::from_bytes(&drawn.to_bytes().unwrap()).unwrap();
            assert_eq!(case, drawn);
            assert_eq!(case.rule().unwrap(), Rule { doc: String::new(), ..rule.clone() });
            for pass in PASSES {
                let outcome = engine().run(&Run::new(&rule, pass, &Device::cpu()), &case).unwrap();
                let tensors = 3 + rule.tensors().len() - 5 + 1 + rule.prologue.named().len();
                let wanted = if pass == Pass::Backward { tensors } else { 2 };
                assert_eq!(judge(&rule.name, &case, &outcome, 1e-2), wanted, "{} {pass}", rule.name);
            }
        }
    }
}

#[test]
fn a_case_holds_exactly_what_the_rule_names() {
    let rule = layers().remove(0).with_dims(16, 16).unwrap();
    assert_eq!(rule.name, "gdn2_layer");
    let good = Case::drawn(&rule, &Draw::new(1, 3, 1, 2, 5), false).unwrap();
    Problem::new(&rule, &good).unwrap();
    let wrong = |change: &dyn Fn(&mut Case)| {
        let mut case = good.clone();
        change(&mut case);
        Problem::new(&rule, &case).unwrap_err().to_string()
    };
    let missing = wrong(&|case| drop(case.named.remove("a_log")));
    assert_eq!(missing, "a_log: missing, the rule needs it as [HV] = [2]");
    let extra = wrong(&|case| drop(case.named.insert("slope".into(), Array::new(&[2], vec![0.0; 2]).unwrap())));
    assert_eq!(extra, "slope: rule `gdn2_layer` has no such parameter or logit");
    let shape = wrong(&|case| drop(case.named.insert("dt_bias".into(), Array::new(&[2], vec![0.0; 2]).unwrap())));
    assert_eq!(shape, "dt_bias: shape [2], must be [HV,K] = [2, 16]");
    let nan = wrong(&|case| case.named.get_mut("dt_bias").unwrap().data[17] = f32::NAN);
    assert_eq!(nan, "dt_bias: [1, 1] is NaN, must be a number from -2^62 to 2^62");
    let huge = wrong(&|case| case.tensors.get_mut(&Tensor::G).unwrap().data[0] = 1e30);
    assert!(huge.contains("it is a logit"), "{huge}");
    // A logit may be above 0.
    let mut high = good.clone();
    high.tensors.get_mut(&Tensor::G).unwrap().data[0] = 50.0;
    Problem::new(&rule, &high).unwrap();

    let retnet = layers().into_iter().find(|rule| rule.name == "retnet_layer").unwrap().with_dims(16, 16).unwrap();
    let mut case = Case::drawn(&retnet, &Draw::new(1, 3, 1, 2, 5), false).unwrap();
    assert!(!case.tensors.contains_key(&Tensor::G));
    case.tensors.insert(Tensor::G, Array::new(&[1, 3, 2], vec![0.0; 6]).unwrap());
    let error = Problem::new(&retnet, &case).unwrap_err().to_string();
    assert!(error.contains("its formula reads no logit"), "{error}");
}
