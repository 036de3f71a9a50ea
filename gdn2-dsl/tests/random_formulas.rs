//! Formulas nobody wrote: random trees within the grammar are typed or refused; a value stays in its proved interval,
//! gradients agree with differences, and logits up to ±10⁴ leave everything finite.
//!
//! The seed is printed; `GDN2_FORMULAS_SEED` repeats a run and `GDN2_FORMULAS` says how many trees it takes (2,000).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use gdn2_dsl::formula::{Formula, Leaf};
use gdn2_dsl::prologue::GateOf;
use gdn2_dsl::{Rule, parse_file};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, RngSeed, TestError, TestRunner};

/// An expression as a program would build it; `text` brackets everything.
#[derive(Clone, Debug)]
enum Tree {
    Number(f64),
    Name(&'static str),
    Neg(Box<Tree>),
    Binary(char, Box<Tree>, Box<Tree>),
    Call(&'static str, Box<Tree>),
}

impl Tree {
    fn text(&self) -> String {
        match self {
            Tree::Number(number) => number.to_string(),
            Tree::Name(name) => (*name).to_owned(),
            Tree::Neg(a) => format!("-({})", a.text()),
            Tree::Binary(symbol, a, b) => format!("({}) {symbol} ({})", a.text(), b.text()),
            Tree::Call(function, a) => format!("{function}({})", a.text()),
        }
    }

    /// The value as the mathematics has it, nothing saturating, and whether anything would have.
    fn plain(&self, at: &dyn Fn(&str) -> f64) -> (f64, bool) {
        let large = |x: f64| x.is_nan() || x.abs() > 1e15;
        let (value, inner) = match self {
            Tree::Number(number) => (*number, false),
            Tree::Name(name) => (at(name), false),
            Tree::Neg(a) => {
                let (a, large) = a.plain(at);
                (-a, large)
            }
            Tree::Binary(symbol, a, b) => {
                let ((a, one), (b, two)) = (a.plain(at), b.plain(at));
                let value = match symbol {
                    '+' => a + b,
                    '-' => a - b,
                    '*' => a * b,
                    _ => a / b,
                };
                (value, one || two)
            }
            Tree::Call(function, a) => {
                let (u, inner) = a.plain(at);
                let value = match *function {
                    "exp" => u.exp(),
                    "log" => u.ln(),
                    "softplus" => {
                        if u > 40.0 {
                            u
                        } else {
                            u.exp().ln_1p()
                        }
                    }
                    "sigmoid" => 1.0 / (1.0 + (-u).exp()),
                    "logsigmoid" => {
                        if u < -40.0 {
                            u
                        } else {
                            -(-u).exp().ln_1p()
                        }
                    }
                    "silu" => u / (1.0 + (-u).exp()),
                    "tanh" => u.tanh(),
                    other => panic!("{other}"),
                };
                (value, inner)
            }
        };
        (value, inner || large(value))
    }
}

fn trees() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        3 => Just(Tree::Name("x")),
        2 => Just(Tree::Name("a_log")),
        2 => Just(Tree::Name("dt_bias")),
        2 => prop_oneof![Just(0.0), Just(1.0), Just(2.0), Just(16.0), -8.0..8.0].prop_map(|x: f64| Tree::Number((x.abs() * 16.0).round() / 16.0)),
    ];
    leaf.prop_recursive(6, 64, 2, |inner| {
        let functions = prop::sample::select(vec!["exp", "log", "softplus", "sigmoid", "logsigmoid", "silu", "tanh"]);
        let symbols = prop::sample::select(vec!['+', '-', '*', '*', '/']);
        prop_oneof![
            1 => inner.clone().prop_map(|a| Tree::Neg(a.into())),
            4 => (symbols, inner.clone(), inner.clone()).prop_map(|(s, a, b)| Tree::Binary(s, a.into(), b.into())),
            4 => (functions, inner).prop_map(|(f, a)| Tree::Call(f, a.into())),
        ]
    })
}

/// Logits and parameters of one point: x, a_log, dt_bias.
fn points() -> impl Strategy<Value = Vec<[f64; 3]>> {
    let near = -4.0..4.0f64;
    let far = prop_oneof![Just(0.0), Just(1e4), Just(-1e4), Just(50.0), Just(-50.0), -1e4..1e4f64];
    let point = prop_oneof![
        3 => [near.clone(), near.clone(), near],
        1 => [far.clone(), far.clone(), far],
    ];
    prop::collection::vec(point, 6)
}

/// The tree as the erase gate of a rule; None where it is refused, with words.
fn rule(tree: &Tree) -> Result<Option<Rule>, TestCaseError> {
    // Parameters that the tree leaves out are read by the decay.
    let source = format!(
        "rule r {{ param a_log: head; param dt_bias: channel; decay: channel = -exp(a_log + dt_bias + x); \
         erase: channel = {}; write: none; key_dim: 16; value_dim: 16; dtype: bf16; }}",
        tree.text()
    );
    match parse_file(&source) {
        Ok(mut rules) => Ok(rules.pop()),
        Err(found) => {
            let words = found.mistakes.iter().all(|mistake| !mistake.in_words().is_empty());
            prop_assert!(words, "{found:?}");
            found.render("random.gdn2", &source, false);
            Ok(None)
        }
    }
}

fn at(point: [f64; 3]) -> impl Fn(Leaf) -> f64 {
    move |leaf| match leaf {
        Leaf::Logit => point[0],
        Leaf::Param(index) => point[usize::from(index) + 1],
        Leaf::Let(_) => f64::NAN,
    }
}

fn value(formula: &Formula, point: [f64; 3]) -> f64 {
    formula.evaluate(at(point), &mut Vec::new()).value()
}

fn check(tree: &Tree, points: &[[f64; 3]], typed: &mut usize, compared: &mut usize) -> Result<(), TestCaseError> {
    let Some(rule) = rule(tree)? else { return Ok(()) };
    *typed += 1;
    let again = parse_file(&rule.to_string()).map_err(|found| TestCaseError::fail(found.to_string()))?;
    prop_assert_eq!(&again[0], &rule, "{}", rule);
    let formula = rule.prologue.gate(GateOf::Erase).unwrap();
    for point in points {
        let mut numbers = Vec::new();
        let evaluated = formula.evaluate(at(*point), &mut numbers);
        prop_assert!(evaluated.value().is_finite(), "{} at {point:?}", tree.text());
        let (value_here, range) = (evaluated.value(), formula.range());
        prop_assert!(range.contains(value_here), "{} is {value_here} at {point:?}, not in {range}", tree.text());
        prop_assert!(evaluated.partials().all(|(_, d)| d.is_finite()), "{} at {point:?}", tree.text());
        let plain = |point: [f64; 3]| {
            tree.plain(&|name| match name {
                "x" => point[0],
                "a_log" => point[1],
                _ => point[2],
            })
        };
        let (expected, large) = plain(*point);
        if large {
            continue;
        }
        let close = |got: f64, want: f64, error: f64| (got - want).abs() <= error * (1.0 + want.abs().max(got.abs()));
        prop_assert!(close(value_here, expected, 1e-6), "{} at {point:?}: {value_here}, {expected}", tree.text());
        for (leaf, partial) in evaluated.partials() {
            let index = match leaf {
                Leaf::Logit => 0,
                Leaf::Param(index) => usize::from(index) + 1,
                Leaf::Let(_) => continue,
            };
            if let Some((difference, error)) = difference(formula, *point, index) {
                *compared += 1;
                let enough = (difference - partial).abs() <= error;
                prop_assert!(enough, "{} by {index} at {point:?}: {partial}, {difference} within {error}", tree.text());
            }
        }
    }
    Ok(())
}

/// The derivative by Richardson's extrapolation of central differences, and how far it may be off; None where the
/// function bends too sharply for differences to say anything.
fn difference(formula: &Formula, point: [f64; 3], index: usize) -> Option<(f64, f64)> {
    let central = |h: f64| {
        let moved = |by: f64| {
            let mut moved = point;
            moved[index] += by;
            value(formula, moved)
        };
        (moved(h) - moved(-h)) / (2.0 * h)
    };
    let h = 1e-3 * (1.0 + point[index].abs() * 1e-3);
    let [a, b, c] = [h, h / 2.0, h / 4.0].map(central);
    let (first, second) = ((4.0 * b - a) / 3.0, (4.0 * c - b) / 3.0);
    let best = (16.0 * second - first) / 15.0;
    let noise = value(formula, point).abs() * 1e-12 / h;
    let error = 10.0 * (first - second).abs() + noise + 1e-9 * (1.0 + best.abs());
    (error < 1e-3 * (1.0 + best.abs())).then_some((best, error))
}

#[test]
fn random_trees_are_typed_or_refused_and_what_they_say_is_true() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = number("GDN2_FORMULAS_SEED").unwrap_or(clock);
    let cases = number("GDN2_FORMULAS").unwrap_or(2_000) as u32;
    println!("seed {seed}: GDN2_FORMULAS_SEED={seed} cargo test --release -p gdn2-dsl --test random_formulas");
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        rng_algorithm: RngAlgorithm::ChaCha,
        failure_persistence: None,
        ..Config::default()
    };
    let (mut typed, mut compared) = (0, 0);
    let counts = (std::cell::RefCell::new(&mut typed), std::cell::RefCell::new(&mut compared));
    let result = TestRunner::new(config).run(&(trees(), points()), |(tree, points)| {
        check(&tree, &points, &mut counts.0.borrow_mut(), &mut counts.1.borrow_mut())
    });
    if let Err(TestError::Fail(reason, (tree, points))) = &result {
        panic!("seed {seed}: {reason}\n{}\n{points:?}", tree.text());
    }
    result.unwrap();
    println!("{cases} trees, {typed} typed, {compared} derivatives compared");
    assert!(typed * 5 > cases as usize && compared > typed, "{typed} of {cases} typed, {compared} compared");
}
